"""G.711 against the recommendation's arithmetic, written here sample by sample."""

import numpy as np
import pytest

from workers.audio.g711 import ALAW_SILENCE, ULAW_SILENCE, alaw_decode, alaw_encode, ulaw_decode, ulaw_encode

EVERY_SAMPLE = np.arange(-32768, 32768).astype(np.int16)
EVERY_BYTE = np.arange(256, dtype=np.uint8)


def ulaw_byte(sample):
    magnitude = min(((~sample if sample < 0 else sample) >> 2) + 33, 8191)
    segment = magnitude.bit_length() - 6
    return ((segment << 4 | magnitude >> segment + 1 & 15) | (0x80 if sample < 0 else 0)) ^ 0xFF


def ulaw_sample(byte):
    byte ^= 0xFF
    magnitude = (((byte & 15) * 2 + 33 << (byte >> 4 & 7)) - 33) * 4
    return -magnitude if byte & 0x80 else magnitude


def alaw_byte(sample):
    magnitude = (~sample if sample < 0 else sample) >> 4
    segment = max(magnitude.bit_length() - 4, 0)
    step = magnitude >> max(segment - 1, 0) & 15
    return ((segment << 4 | step) | (0 if sample < 0 else 0x80)) ^ 0x55


def alaw_sample(byte):
    byte ^= 0x55
    segment, step = byte >> 4 & 7, byte & 15
    magnitude = step * 2 + 1 if segment == 0 else step * 2 + 33 << segment - 1
    return magnitude * 8 if byte & 0x80 else -magnitude * 8


def test_every_sample_and_every_byte():
    assert ulaw_encode(EVERY_SAMPLE).tolist() == [ulaw_byte(s) for s in EVERY_SAMPLE.tolist()]
    assert alaw_encode(EVERY_SAMPLE).tolist() == [alaw_byte(s) for s in EVERY_SAMPLE.tolist()]
    assert ulaw_decode(EVERY_BYTE).tolist() == [ulaw_sample(b) for b in range(256)]
    assert alaw_decode(EVERY_BYTE).tolist() == [alaw_sample(b) for b in range(256)]


@pytest.mark.parametrize(
    ("decode", "vectors"),
    [
        (ulaw_decode, {0xFF: 0, 0x7F: 0, 0x80: 32124, 0x00: -32124, 0xEF: 132, 0xFE: 8}),
        (alaw_decode, {0xD5: 8, 0x55: -8, 0xAA: 32256, 0x2A: -32256, 0x80: 5504}),
    ],
)
def test_known_values(decode, vectors):
    assert decode(np.array(list(vectors), np.uint8)).tolist() == list(vectors.values())


@pytest.mark.parametrize(("decode", "encode"), [(ulaw_decode, ulaw_encode), (alaw_decode, alaw_encode)])
def test_a_second_round_trip_changes_nothing(decode, encode):
    once = decode(encode(EVERY_SAMPLE))
    assert np.array_equal(decode(encode(once)), once)
    assert np.all(np.diff(once.astype(int)) >= 0)


def test_silence():
    assert ulaw_encode(np.zeros(1, np.int16)).tolist() == [ULAW_SILENCE]
    assert alaw_encode(np.zeros(1, np.int16)).tolist() == [ALAW_SILENCE]


def test_shape_and_strided_input():
    packets = np.arange(4 * 172, dtype=np.uint8).reshape(4, 172)[:, 12:]
    samples = ulaw_decode(packets)
    assert samples.shape == (4, 160)
    assert samples.dtype == np.int16
    every_other = np.ascontiguousarray(np.repeat(samples, 2, axis=0))[::2]
    assert np.array_equal(ulaw_decode(ulaw_encode(every_other)), samples)
