"""RTP, RTCP and RFC 4733 bytes as the test phones write and read them (RFC 3550, RFC 4733)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

DIGITS = "0123456789*#ABCD"


@dataclass(frozen=True)
class Packet:
    """One received RTP packet; `arrived_s` is the kernel's receive time on the monotonic clock."""

    arrived_s: float
    payload_type: int
    marker: bool
    sequence: int
    timestamp: int
    ssrc: int
    payload: bytes
    source: tuple[str, int] = ("", 0)


def build(
    payload_type: int, sequence: int, timestamp: int, ssrc: int, payload: bytes, *, marker: bool = False
) -> bytes:
    return struct.pack(
        "!BBHII", 0x80, payload_type | (0x80 if marker else 0), sequence & 0xFFFF, timestamp & 0xFFFFFFFF, ssrc
    ) + bytes(payload)


def parse(data: bytes, arrived_s: float = 0.0, source: tuple[str, int] = ("", 0)) -> Packet | None:
    """None when the datagram is not RTP version 2; CSRCs, extension and padding are stripped."""
    if len(data) < 12 or data[0] >> 6 != 2:
        return None
    first, second, sequence, timestamp, ssrc = struct.unpack_from("!BBHII", data)
    start = 12 + 4 * (first & 0x0F)
    if first & 0x10:
        if len(data) < start + 4:
            return None
        start += 4 + 4 * struct.unpack_from("!H", data, start + 2)[0]
    end = len(data) - (data[-1] if first & 0x20 else 0)
    return Packet(
        arrived_s, second & 0x7F, bool(second & 0x80), sequence, timestamp, ssrc, data[start:end], tuple(source[:2])
    )


def is_rtcp(data: bytes) -> bool:
    """RFC 5761 §4: packet types 192…223 in the second byte are RTCP."""
    return len(data) >= 8 and data[0] >> 6 == 2 and 192 <= data[1] <= 223


def dtmf_payload(digit: str, duration: int, *, end: bool, volume: int = 10) -> bytes:
    return struct.pack("!BBH", DIGITS.index(digit.upper()), (0x80 if end else 0) | volume, duration)


@dataclass(frozen=True)
class Digit:
    digit: str
    duration: int
    timestamp: int


def digits(packets: list[Packet], payload_type: int) -> list[Digit]:
    """Each RFC 4733 event once: its first end packet, or its last packet when all ends were lost."""
    done: dict[int, Digit] = {}
    ended: set[int] = set()
    for packet in packets:
        if packet.payload_type != payload_type or len(packet.payload) < 4 or packet.timestamp in ended:
            continue
        event, flags, duration = struct.unpack_from("!BBH", packet.payload)
        done[packet.timestamp] = Digit(DIGITS[event & 0x0F], duration, packet.timestamp)
        if flags & 0x80:
            ended.add(packet.timestamp)
    return list(done.values())


@dataclass(frozen=True)
class ReportBlock:
    ssrc: int
    fraction_lost: int
    lost: int
    highest_sequence: int
    jitter: int
    last_sr: int
    delay_since_last_sr: int


@dataclass(frozen=True)
class RtcpReport:
    """A sender (200) or receiver (201) report; NTP and counters are 0 in a receiver report."""

    packet_type: int
    ssrc: int
    ntp: int
    timestamp: int
    packets: int
    octets: int
    blocks: tuple[ReportBlock, ...]


def parse_rtcp(data: bytes) -> tuple[list[RtcpReport], list[int]]:
    """The reports and the types of all packets of one compound datagram."""
    reports, types, at = [], [], 0
    while at + 8 <= len(data):
        first, kind, words, ssrc = struct.unpack_from("!BBHI", data, at)
        types.append(kind)
        if kind in (200, 201):
            ntp, timestamp, packets, octets = struct.unpack_from("!QIII", data, at + 8) if kind == 200 else (0, 0, 0, 0)
            start = at + (28 if kind == 200 else 8)
            blocks = []
            for i in range(first & 0x1F):
                source, lost, highest, jitter, last_sr, delay = struct.unpack_from("!IIIIII", data, start + 24 * i)
                blocks.append(ReportBlock(source, lost >> 24, lost & 0xFFFFFF, highest, jitter, last_sr, delay))
            reports.append(RtcpReport(kind, ssrc, ntp, timestamp, packets, octets, tuple(blocks)))
        at += 4 * (words + 1)
    return reports, types


def sender_report(ssrc: int, ntp: int, timestamp: int, packets: int, octets: int) -> bytes:
    cname = b"\x01\x05phone"
    chunk = cname + b"\0" * (4 - len(cname) % 4)
    report = struct.pack("!BBHIQIII", 0x80, 200, 6, ssrc, ntp, timestamp & 0xFFFFFFFF, packets, octets)
    return report + struct.pack("!BBHI", 0x81, 202, 1 + len(chunk) // 4, ssrc) + chunk
