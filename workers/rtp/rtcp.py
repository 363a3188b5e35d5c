"""RTCP packets: sender and receiver reports, CNAME, BYE (RFC 3550 section 6).

Runs in: rtp. Pure: bytes in and out.
Owns: their layout.

     0       1       2       3                                     a report block (24 bytes)
    +-------+-------+---------------+                             +-------------------------------+
    |2|P| RC|  type | words - 1     |                             | SSRC reported about           |
    +-------+-------+---------------+                             | fraction | lost (24 bits)     |
    | SSRC of the sender            |                             | highest sequence, extended    |
    | SR only: NTP (8), RTP time,   |                             | jitter                        |
    |          packets, octets      |                             | last SR (middle 32 bits)      |
    | RC report blocks, 24 bytes    |                             | delay since it, 1/65536 s     |
    +-------------------------------+                             +-------------------------------+

Rules
1. A compound begins with a report and holds a CNAME (section 6.1); a BYE ends it.
2. Reading stops at the first length that does not hold; what was read before counts.
"""

import struct
import time
from dataclasses import dataclass

SENDER_REPORT, RECEIVER_REPORT, SOURCE_DESCRIPTION, BYE = 200, 201, 202, 203
_NTP_EPOCH_S = 2_208_988_800


def ntp_now() -> int:
    """64 bits: seconds since 1900 and a fraction."""
    return (time.time_ns() + _NTP_EPOCH_S * 1_000_000_000 << 32) // 1_000_000_000


def ntp_middle(ntp: int) -> int:
    """The 32 bits that report blocks carry, in 1/65536 s."""
    return ntp >> 16 & 0xFFFFFFFF


@dataclass(frozen=True)
class Block:
    ssrc: int
    fraction: int  # of 256
    lost: int
    highest: int
    jitter: int
    last_sr: int
    delay: int


@dataclass(frozen=True)
class Report:
    ssrc: int
    ntp: int  # 0 in a receiver report
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Sent:
    """What a sender report says of us."""

    ntp: int
    timestamp: int
    packets: int
    octets: int


def build(ssrc: int, sent: Sent | None, block: Block | None, *, bye: bool = False) -> bytes:
    """A compound: SR (where we have sent) or RR, CNAME, and BYE at the end of the stream."""
    blocks = b""
    if block is not None:
        lost = min(max(block.lost, -0x800000), 0x7FFFFF) & 0xFFFFFF
        blocks = struct.pack(
            "!IIIIII",
            block.ssrc,
            block.fraction << 24 | lost,
            block.highest & 0xFFFFFFFF,
            block.jitter,
            block.last_sr,
            block.delay,
        )
    count = 0x80 | (1 if blocks else 0)
    if sent is None:
        report = struct.pack("!BBHI", count, RECEIVER_REPORT, 1 + len(blocks) // 4, ssrc)
    else:
        report = struct.pack(
            "!BBHIQIII",
            count,
            SENDER_REPORT,
            6 + len(blocks) // 4,
            ssrc,
            sent.ntp,
            sent.timestamp & 0xFFFFFFFF,
            sent.packets & 0xFFFFFFFF,
            sent.octets & 0xFFFFFFFF,
        )
    name = f"{ssrc:08x}".encode()  # says nothing about host or user (RFC 7022)
    item = struct.pack("!BB", 1, len(name)) + name
    item += bytes(4 - len(item) % 4)
    description = struct.pack("!BBHI", 0x81, SOURCE_DESCRIPTION, 1 + len(item) // 4, ssrc) + item
    ending = struct.pack("!BBHI", 0x81, BYE, 1, ssrc) if bye else b""
    return report + blocks + description + ending


def parse(data: bytes) -> list[Report]:
    """The sender and receiver reports of one datagram; other types are passed over."""
    reports = []
    at = 0
    while at + 8 <= len(data):
        first, kind, words, ssrc = struct.unpack_from("!BBHI", data, at)
        end = at + 4 * (words + 1)
        if first >> 6 != 2 or end > len(data):
            break
        if kind in (SENDER_REPORT, RECEIVER_REPORT):
            start = at + (28 if kind == SENDER_REPORT else 8)
            count = first & 31
            if start + 24 * count > end:
                break
            ntp = struct.unpack_from("!Q", data, at + 8)[0] if kind == SENDER_REPORT else 0
            reports.append(Report(ssrc, ntp, tuple(_block(data, start + 24 * index) for index in range(count))))
        at = end
    return reports


def _block(data: bytes, at: int) -> Block:
    ssrc, loss, highest, jitter, last_sr, delay = struct.unpack_from("!IIIIII", data, at)
    lost = loss & 0xFFFFFF
    return Block(ssrc, loss >> 24, lost - 0x1000000 if lost & 0x800000 else lost, highest, jitter, last_sr, delay)


def round_trip_ms(block: Block, now_middle: int) -> float | None:
    """RFC 3550 section 6.4.1, or None where the peer has not heard a report of ours, or computes nonsense."""
    if not block.last_sr:
        return None
    units = (now_middle - block.last_sr - block.delay) & 0xFFFFFFFF
    if units >= 0x80000000:  # below zero: our clocks' resolution
        return 0.0 if units > 0xFFFFFFFF - 655 else None
    return units * 1000 / 65536 if units < 60 * 65536 else None
