"""A recording: received RTP packets laid out as samples by RTP timestamp.

Rules
1. Each (SSRC, payload type) run is one segment; segments follow each other in order of arrival.
2. What did not arrive is zeros in `audio` and False in `present`; duplicates count once.
3. Packets are decoded in sequence order. G722 has a memory: the packets before the wanted ones are decoded too and left
   out, so that a window taken from the middle of a call sounds as it did in the call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from tests.flows.tools.codecs import Codec
from tests.flows.tools.rtp import Packet


@dataclass
class Recording:
    rate_hz: int
    audio: NDArray[np.int16]
    present: NDArray[np.bool_]
    packets: list[Packet] = field(default_factory=list)

    @property
    def longest_arrival_gap_ms(self) -> float:
        """The longest time between two arrivals."""
        return max((1000 * (b.arrived_s - a.arrived_s) for a, b in pairwise(self.packets)), default=float("inf"))

    @property
    def lost(self) -> int:
        """Packets missing by sequence number, over all segments."""
        total = 0
        for _, run in groupby(self.packets, key=lambda p: p.ssrc):
            numbers = sorted({_unwrap(p.sequence, 16, base) for p, base in _with_base(list(run), "sequence")})
            total += numbers[-1] - numbers[0] + 1 - len(numbers)
        return total


def record(packets: list[Packet], codecs: Mapping[int, Codec], *, before: Sequence[Packet] = ()) -> Recording:
    """Decode the audio packets among `packets`, which `before` preceded; all codecs used must share one sample rate."""
    audio_packets = [p for p in packets if p.payload_type in codecs and p.payload]
    if not audio_packets:
        return Recording(8000, np.zeros(0, np.int16), np.zeros(0, bool), [])
    segments = [
        _segment(list(run), codecs[payload_type], before)
        for (_, payload_type), run in groupby(audio_packets, key=lambda p: (p.ssrc, p.payload_type))
    ]
    rates = {rate for rate, _, _ in segments}
    assert len(rates) == 1, f"one recording holds several sample rates: {rates}"
    return Recording(
        rates.pop(),
        np.concatenate([audio for _, audio, _ in segments]),
        np.concatenate([present for _, _, present in segments]),
        audio_packets,
    )


def _segment(
    packets: list[Packet], codec: Codec, before: Sequence[Packet]
) -> tuple[int, NDArray[np.int16], NDArray[np.bool_]]:
    decode = codec.decoder()
    if codec.name == "G722":
        for packet in before:
            if (packet.ssrc, packet.payload_type) == (packets[0].ssrc, packets[0].payload_type):
                decode(packet.payload)
    placed: dict[int, NDArray[np.int16]] = {}
    base = packets[0]
    in_order = sorted(packets, key=lambda p: _unwrap(p.sequence, 16, base.sequence))
    seen: set[int] = set()
    for packet in in_order:
        if packet.sequence in seen:
            continue
        seen.add(packet.sequence)
        ticks = _unwrap(packet.timestamp, 32, base.timestamp)
        placed[ticks * codec.rate_hz // codec.clock_hz] = decode(packet.payload)
    start = min(placed)
    length = max(at + samples.size for at, samples in placed.items()) - start
    assert length <= codec.rate_hz * 3600, "RTP timestamps jump by more than an hour"
    audio, present = np.zeros(length, np.int16), np.zeros(length, bool)
    for at, samples in placed.items():
        audio[at - start : at - start + samples.size] = samples
        present[at - start : at - start + samples.size] = True
    return codec.rate_hz, audio, present


def _unwrap(value: int, bits: int, base: int) -> int:
    """The number nearest to `base` that equals `value` modulo 2**bits."""
    half = 1 << (bits - 1)
    return base + (value - base + half) % (1 << bits) - half


def _with_base(packets: list[Packet], name: str) -> list[tuple[Packet, int]]:
    """Each packet with the unwrapped value before it, so that long recordings may wrap."""
    pairs, base = [], getattr(packets[0], name)
    for packet in packets:
        pairs.append((packet, base))
        base = _unwrap(getattr(packet, name), 16, base)
    return pairs
