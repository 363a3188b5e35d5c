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


class Headers(NamedTuple):
    """Columns (k,) of one batch."""

    is_valid: NDArray[np.bool_]
    marker: NDArray[np.bool_]
    payload_type: NDArray[np.uint8]
    sequence: NDArray[np.uint16]
    timestamp: NDArray[np.uint32]
    ssrc: NDArray[np.uint32]
    payload_at: NDArray[np.int64]  # in the row
    payload_bytes: NDArray[np.int64]

    def only(self, chosen: NDArray[np.bool_]) -> "Headers":
        """The chosen rows."""
        return Headers(
            self.is_valid[chosen],
            self.marker[chosen],
            self.payload_type[chosen],
            self.sequence[chosen],
            self.timestamp[chosen],
            self.ssrc[chosen],
            self.payload_at[chosen],
            self.payload_bytes[chosen],
        )


def is_rtcp(data: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Rows (k, ≥ 2) → whether each is RTCP by its packet type."""
    second = data[:, 1]
    return (second >= _RTCP_FIRST) & (second <= _RTCP_LAST)


def parse(data: NDArray[np.uint8], length_bytes: NDArray[np.int64]) -> Headers:
    """Rows (k, ≥ 12), the last axis contiguous, and the datagrams' lengths (k,) → their headers."""
    header = data[:, :HEADER_BYTES].view(HEADER)[:, 0]
    first, second = header["first"], header["second"]
    payload_at = np.full(len(data), HEADER_BYTES, np.int64)
    payload_bytes = length_bytes - HEADER_BYTES
    is_plain = first == PLAIN
    if not is_plain.all():
        _measure(data, length_bytes, np.nonzero(~is_plain)[0], payload_at, payload_bytes)
    return Headers(
        payload_bytes >= 0,
        second >= MARKER,
        second & np.uint8(0x7F),
        header["sequence"].astype(np.uint16),
        header["timestamp"].astype(np.uint32),
        header["ssrc"].astype(np.uint32),
        payload_at,
        payload_bytes,
    )


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
    headers = packets[:, :HEADER_BYTES].view(HEADER)[:, 0]
    headers["first"] = PLAIN
    return packets, headers, packets[:, HEADER_BYTES:]


def build(
    payload_type: int, sequence: int, timestamp: int, ssrc: int, payload: bytes, *, marker: bool = False
) -> bytes:
    """One packet."""
    packets, headers, room = blank(1, len(payload))
    headers["second"] = payload_type | (MARKER if marker else 0)
    headers["sequence"], headers["timestamp"], headers["ssrc"] = sequence, timestamp, ssrc
    room[0] = np.frombuffer(payload, np.uint8)
    return packets.tobytes()
