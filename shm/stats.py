"""Numbers in shared memory: what each process did, read by control for /metrics and to see who hangs.

Runs in: every process.
Owns: one row per process; control gives the row index out in the start message.

Rules
1. Only the process itself writes its row; a restarted process goes on counting in the same row.
2. `heartbeat_ns` moves at least every 200 ms; a row that stands still for 1 s belongs to a process that hangs.
"""

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from shm.segment import Segment

# Upper edges of the lateness histogram, ms; the last bin is everything above.
LATENESS_EDGES_MS = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
_EDGES_NS = tuple(int(edge * 1e6) for edge in LATENESS_EDGES_MS)

STATS = np.dtype(
    [
        ("heartbeat_ns", "i8"),  # CLOCK_MONOTONIC of the last sign of life
        ("ticks", "i8"),
        ("ticks_skipped", "i8"),  # more than a period late
        ("lateness", "i8", len(LATENESS_EDGES_MS) + 1),  # wake-up after its deadline, histogram
        ("lateness_sum_ns", "i8"),
        ("frames_missing", "i8"),  # rows without a frame for the tick they were read at
        ("packets_received", "i8"),
        ("packets_sent", "i8"),
        ("packets_late", "i8"),
        ("packets_lost", "i8"),
        ("frames_concealed", "i8"),
        ("packets_refused", "i8"),  # hostile, stray, truncated
        ("commands_late", "i8"),  # came after their at_tick
        ("messages_dropped", "i8"),  # telemetry that found no room in the channel
    ]
)


class Stats:
    """`rows` counter rows in one segment."""

    def __init__(self, rows: int, label: str) -> None:
        self._segment = Segment(f"{label}-stats", rows * STATS.itemsize)
        self._segment.back(0, rows * STATS.itemsize)
        self.table: NDArray[np.void] = np.frombuffer(self._segment.memory, STATS, rows)

    def row(self, index: int) -> NDArray[np.void]:
        """A writable zero-copy view of one row, shape (): `row["ticks"] += 1` counts."""
        return self.table[index : index + 1].reshape(())


class WakeUps:
    """The wake-ups of one tick loop, counted here and told to its stats row a few times a second: a store to the row costs as
    much as a dozen of these."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._count = self._skipped = self._late_ns = 0
        self._lateness = [0] * (len(LATENESS_EDGES_MS) + 1)

    def count(self, late_ns: int, skipped: int = 0) -> None:
        """One wake-up, so long after its deadline; with it so many periods were left out."""
        self._count += 1
        self._skipped += skipped
        self._late_ns += late_ns
        self._lateness[lateness_bin(late_ns)] += 1

    def publish(self, row: NDArray[np.void], now_ns: int) -> None:
        """Sign of life and counts into the row."""
        row["heartbeat_ns"] = now_ns
        if self._count:
            row["ticks"] += self._count
            row["ticks_skipped"] += self._skipped
            row["lateness_sum_ns"] += self._late_ns
            row["lateness"] += self._lateness
            self._begin()


def lateness_bin(late_ns: int) -> int:
    """Index into `lateness` for one wake-up."""
    return bisect_left(_EDGES_NS, late_ns)
