"""What may happen to a message on its way: loss, delay, duplication, and with them reordering.

A Tamper maps one message to the pieces that really travel, each with a delay in seconds. Phones apply one to what they
send and one to what they receive; a relay applies one per direction. All randomness comes from a given seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

Tamper = Callable[[bytes], list[tuple[float, bytes]]]


def untouched(data: bytes) -> list[tuple[float, bytes]]:
    return [(0.0, data)]


@dataclass
class Lossy:
    """Random loss, delay (which reorders) and duplication, the same for the same seed."""

    seed: int
    drop: float = 0.0
    duplicate: float = 0.0
    delay_ms: tuple[float, float] = (0.0, 0.0)
    dropped: int = 0
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def __call__(self, data: bytes) -> list[tuple[float, bytes]]:
        if self._random.random() < self.drop:
            self.dropped += 1
            return []
        copies = 2 if self._random.random() < self.duplicate else 1
        return [(self._random.uniform(*self.delay_ms) / 1000, data) for _ in range(copies)]


@dataclass
class Only:
    """Applies a fate to the first `times` messages that begin with one of `starts`; the rest pass."""

    starts: tuple[bytes, ...]
    times: int
    fate: Tamper = lambda _: []
    seen: int = 0

    def __call__(self, data: bytes) -> list[tuple[float, bytes]]:
        if data.startswith(self.starts) and self.seen < self.times:
            self.seen += 1
            return self.fate(data)
        return untouched(data)


def drop_first(times: int, *starts: str) -> Only:
    """Swallow the first `times` messages that begin with one of `starts`, e.g. `ACK` or `SIP/2.0 200`."""
    return Only(tuple(s.encode() for s in starts), times)


def twice(data: bytes) -> list[tuple[float, bytes]]:
    return [(0.0, data), (0.0, data)]
