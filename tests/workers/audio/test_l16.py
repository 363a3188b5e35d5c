"""L16 against struct."""

import struct

import numpy as np
import pytest

from workers.audio.l16 import l16_decode, l16_encode


def test_network_byte_order_both_ways():
    samples = np.array([[0, 1, -1], [-32768, 32767, 0x1234]], np.int16)
    wire = [struct.pack(">3h", *row) for row in samples.tolist()]
    assert [row.tobytes() for row in l16_encode(samples)] == wire
    payload = np.frombuffer(b"".join(wire), np.uint8).reshape(2, 6)
    decoded = l16_decode(payload)
    assert decoded.dtype.isnative
    assert np.array_equal(decoded, samples)


def test_strided_rows():
    datagrams = np.arange(3 * 20, dtype=np.uint8).reshape(3, 20)
    assert l16_decode(datagrams[:, 12:]).tolist() == [list(struct.unpack(">4h", d[12:].tobytes())) for d in datagrams]
    transposed = np.arange(6, dtype=np.int16).reshape(2, 3).T
    assert np.array_equal(l16_decode(l16_encode(transposed)), transposed)


def test_half_a_sample_is_refused():
    with pytest.raises(ValueError, match="size"):
        l16_decode(np.zeros(3, np.uint8))
