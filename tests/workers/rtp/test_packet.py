"""RTP headers: the drawing, the dtype and a reference that reads one packet at a time agree."""

import re
import struct

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.rtp import packet


def columns(datagrams):
    """Datagrams as rows of a batch, with junk beyond each one's end."""
    width = max(12, *(len(d) for d in datagrams)) + 8
    rows = np.full((len(datagrams), width), 0xEE, np.uint8)
    for row, datagram in zip(rows, datagrams, strict=True):
        row[: len(datagram)] = np.frombuffer(datagram, np.uint8)
    return rows, np.array([len(d) for d in datagrams], np.int64)


def reference(data):
    """(payload offset, payload) or None, by RFC 3550 section 5.1, one byte after the other."""
    if len(data) < 12 or data[0] >> 6 != 2:
        return None
    at = 12 + 4 * (data[0] & 15)
    if data[0] & 0x10:
        if at + 4 > len(data):
            return None
        at += 4 + 4 * struct.unpack_from("!H", data, at + 2)[0]
    end = len(data)
    if data[0] & 0x20:
        if not data[-1]:
            return None
        end -= data[-1]
    return (at, data[at:end]) if at <= end else None


def test_the_drawing_shows_the_dtype():
    drawn = re.findall(r"\|   bytes +(.*)", packet.__doc__)
    offsets = {name: int(at) for line in drawn for at, name in re.findall(r"(\d+) (\w+)", line)}
    assert offsets == {name: offset for name, (_type, offset) in packet.HEADER.fields.items()}
    assert packet.HEADER.itemsize == packet.HEADER_BYTES == 12


def test_header_fields_are_in_network_order():
    data, _ = columns([bytes.fromhex("80e01234a0b0c0d0deadbeef")])
    header = packet.headers(data)[0]
    assert (header["sequence"], header["timestamp"], header["ssrc"]) == (0x1234, 0xA0B0C0D0, 0xDEADBEEF)
    assert header["second"] == 0xE0


datagram = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda first, rest: bytes([first]) + rest,
        st.sampled_from([0x80, 0x81, 0x8F, 0x90, 0xA0, 0xB3]),
        st.binary(max_size=90),
    ),
)


@settings(max_examples=300)
@given(st.lists(datagram, min_size=1, max_size=12))
def test_payloads_are_where_the_reference_finds_them(datagrams):
    data, lengths = columns(datagrams)
    at, size = packet.payloads(data, lengths)
    for row, one in enumerate(datagrams):
        expected = reference(one)
        if expected is None:
            assert size[row] < 0
        else:
            assert (at[row], data[row, at[row] : at[row] + size[row]].tobytes()) == expected


def test_rtcp_is_told_by_its_type():
    second = np.arange(256, dtype=np.uint8)
    assert np.nonzero(packet.is_rtcp(second))[0].tolist() == list(range(192, 224))


def test_build_and_read():
    built = packet.build(101, 0xFFFF, 1 << 31, 7, b"abcd", marker=True)
    assert built == struct.pack("!BBHII", 0x80, 101 | 0x80, 0xFFFF, 1 << 31, 7) + b"abcd"
