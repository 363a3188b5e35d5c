"""RTP packets, a batch at a time: headers are columns.

Runs in: rtp. Pure.
Owns: the bytes of RFC 3550 section 5.1, and what tells RTCP from RTP (RFC 5761 section 4).

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +---+-+-+-------+-+-------------+-------------------------------+
    |V=2|P|X|  CC   |M|     PT      |       sequence number         |   bytes  0 first,  1 second,  2 sequence
    +---+-+-+-------+-+-------------+-------------------------------+
    |                           timestamp                           |   bytes  4 timestamp
    +---------------------------------------------------------------+
    |                             SSRC                              |   bytes  8 ssrc
    +---------------------------------------------------------------+
    |                 CC CSRCs of 4 bytes, then with X: profile (2 bytes), words (2), words * 4 bytes

Rules
1. Nothing from the wire is believed before it is checked against the datagram's length; what does not hold is not valid.
2. A row of a batch is wider than its datagram: bytes beyond the length are never looked at for what they say.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

HEADER = np.dtype([("first", "u1"), ("second", "u1"), ("sequence", ">u2"), ("timestamp", ">u4"), ("ssrc", ">u4")])
HEADER_BYTES = HEADER.itemsize
PLAIN = 0x80  # version 2 and nothing else
MARKER = 0x80
_VERSION, _PADDING, _EXTENSION, _CSRCS = 0xC0, 0x20, 0x10, 0x0F
_RTCP_FIRST, _RTCP_LAST = 192, 223


class Payloads(NamedTuple):
    """Where the payload of each packet (k,) lies in its row; `size_bytes` is below 0 where the header contradicts itself."""

    at: NDArray[np.int64]
    size_bytes: NDArray[np.int64]


def headers(data: NDArray[np.uint8]) -> NDArray[np.void]:
    """Rows (k, ≥ 12), the last axis contiguous → their headers (k,), a view."""
    return data[:, :HEADER_BYTES].view(HEADER)[:, 0]


def is_rtcp(second: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Second bytes → which packets are RTCP, by their type."""
    return (second >= _RTCP_FIRST) & (second <= _RTCP_LAST)


def payloads(data: NDArray[np.uint8], length_bytes: NDArray[np.int64]) -> Payloads:
    """Rows (k, ≥ 12) and the datagrams' lengths (k,) → where their payloads are: behind CSRCs and extension, before padding."""
    payload_at = np.full(len(data), HEADER_BYTES, np.int64)
    payload_bytes = length_bytes - HEADER_BYTES
    is_odd = data[:, 0] != PLAIN
    if is_odd.any():
        _measure(data, length_bytes, np.nonzero(is_odd)[0], payload_at, payload_bytes)
    return Payloads(payload_at, payload_bytes)


def _measure(
    data: NDArray[np.uint8],
    length_bytes: NDArray[np.int64],
    rows: NDArray[np.int64],
    payload_at: NDArray[np.int64],
    payload_bytes: NDArray[np.int64],
) -> None:
    """Fill in where the payload of `rows` lies; its length is -1 where the header contradicts itself."""
    first = data[rows, 0]
    length = length_bytes[rows]
    start = HEADER_BYTES + 4 * (first & _CSRCS).astype(np.int64)
    extended = (first & _EXTENSION) != 0
    words_at = np.minimum(start + 2, data.shape[1] - 2)
    words = data[rows, words_at].astype(np.int64) << 8 | data[rows, words_at + 1]
    is_cut = extended & (start + 4 > length)
    start += np.where(extended, 4 + 4 * words, 0)
    padded = (first & _PADDING) != 0
    padding = np.where(padded, data[rows, np.maximum(length, 1) - 1].astype(np.int64), 0)
    size = length - start - padding
    is_bad = ((first & _VERSION) != PLAIN) | is_cut | (padded & (padding == 0)) | (length < HEADER_BYTES)
    payload_at[rows] = start
    payload_bytes[rows] = np.where(is_bad, -1, size)


def blank(count: int, payload_bytes: int) -> tuple[NDArray[np.uint8], NDArray[np.void], NDArray[np.uint8]]:
    """Room for `count` packets: the packets (count, 12 + payload), and views of their headers and payloads."""
    packets = np.zeros((count, HEADER_BYTES + payload_bytes), np.uint8)
    header = headers(packets)
    header["first"] = PLAIN
    return packets, header, packets[:, HEADER_BYTES:]


def build(
    payload_type: int, sequence: int, timestamp: int, ssrc: int, payload: bytes, *, marker: bool = False
) -> bytes:
    """One packet."""
    packets, header, room = blank(1, len(payload))
    header["second"] = payload_type | (MARKER if marker else 0)
    header["sequence"], header["timestamp"], header["ssrc"] = sequence, timestamp, ssrc
    room[0] = np.frombuffer(payload, np.uint8)
    return packets.tobytes()
