"""Deadlines as data: one heap for thousands of timers of which few ever fire.

Runs in: sip.
Owns: which object is due next. Pure: the caller says what time it is.

Rules
1. A `Timed` object says when it wants to be woken in `deadline` (seconds, NEVER = not at all) and may change it at any time;
   whoever moves it earlier calls `Timers.watch`. Moving it later or to NEVER costs nothing: the heap finds out by itself.
2. An object sits in the heap at most once per earlier deadline; stale entries are skipped, and swept out when the heap
   has doubled: a session timer of half an hour would keep its finished call's alarm for as long.

Not here: the loop that sleeps until `next_deadline` -> `endpoint.py`.
"""

import heapq
from collections.abc import Callable, Iterator

NEVER = float("inf")
SWEEP_FLOOR = 4096  # entries; below it stale ones do not matter


class Timed:
    """Something that is woken at `deadline`."""

    __slots__ = ("_queued", "deadline")

    def __init__(self) -> None:
        self.deadline = NEVER
        self._queued = NEVER

    def expire(self, now: float) -> None:
        raise NotImplementedError


class Alarm(Timed):
    """One deadline that calls back; `deadline = NEVER` disarms it."""

    __slots__ = ("_callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        super().__init__()
        self._callback = callback

    def expire(self, now: float) -> None:  # noqa: ARG002  the protocol of Timed
        self.deadline = NEVER
        self._callback()

    def cancel(self) -> None:
        """For good: lets go of what it would have woken, though the heap may keep the alarm itself for long."""
        self.deadline = NEVER
        self._callback = _nothing


def _nothing() -> None:
    pass


class Timers:
    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timed]] = []
        self._serial = 0  # breaks ties: Timed objects do not compare
        self._swept_size = SWEEP_FLOOR

    @property
    def next_deadline(self) -> float:
        return self._heap[0][0] if self._heap else NEVER

    def watch(self, timed: Timed) -> None:
        """Take notice of a deadline that is new or earlier than before."""
        if timed.deadline < timed._queued:  # noqa: SLF001  the heap's own mark on its entries
            timed._queued = timed.deadline  # noqa: SLF001
            self._serial += 1
            heapq.heappush(self._heap, (timed.deadline, self._serial, timed))
            if len(self._heap) > 2 * self._swept_size:
                self._sweep()

    def due(self, now: float) -> Iterator[Timed]:
        """What is due; each may be expired, and may call `watch`, before the next one is asked for."""
        heap = self._heap
        while heap and heap[0][0] <= now:
            when, _serial, timed = heapq.heappop(heap)
            if when != timed._queued:  # noqa: SLF001  an earlier entry has taken its place
                continue
            timed._queued = NEVER  # noqa: SLF001
            if timed.deadline <= now:
                yield timed
            self.watch(timed)

    def _sweep(self) -> None:
        kept = []
        for entry in self._heap:
            timed = entry[2]
            if entry[0] == timed._queued:  # noqa: SLF001  the current entry of its object
                if timed.deadline == NEVER:
                    timed._queued = NEVER  # noqa: SLF001
                else:
                    kept.append(entry)
        heapq.heapify(kept)
        self._heap[:] = kept
        self._swept_size = max(SWEEP_FLOOR, len(kept))
