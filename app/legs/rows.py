"""Rows of the banks: given out, taken back, rested.

Runs in: control.
Owns: which row of which bank belongs to somebody, and the `generation` field of `bank.leg`.

Rules
1. A row that comes back rests for 64 ticks, and its stamps are cleared when it is given out again: whoever read or wrote
   it for its last owner has stopped by then.
2. Rested rows go first, the longest rested foremost, so that the rows in use stay dense; memory is given to a block of
   rows when its first row is needed.

Not here: what a row holds -> `shm/bank.py`.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping

from shm.bank import BLOCK_ROWS, Bank
from shm.clock import tick_now
from shm.errors import ResourceError
from shm.messages import Row

REST_TICKS = 64


class Rows:
    def __init__(self, banks: Mapping[int, Bank], tick: Callable[[], int] = tick_now) -> None:
        self._banks = banks
        self._tick = tick
        self._resting: dict[int, deque[tuple[int, int]]] = {rate_hz: deque() for rate_hz in banks}  # (since, index)
        self._untouched = dict.fromkeys(banks, 0)  # rows from here on were never given out

    def take(self, rate_hz: int) -> Row:
        """A cleared row of its own generation. Raises ResourceError."""
        bank = self._banks[rate_hz]
        resting = self._resting[rate_hz]
        if resting and self._tick() - resting[0][0] >= REST_TICKS:
            _, index = resting.popleft()
        else:
            index = self._untouched[rate_hz]
            if index >= bank.rows:
                raise ResourceError(f"no row left at {rate_hz} Hz")
            if index % BLOCK_ROWS == 0:
                bank.back_block(index // BLOCK_ROWS)
            self._untouched[rate_hz] = index + 1
        bank.clear(index)
        generations = bank.leg["generation"]
        generations[index] += 1
        return Row(rate_hz=rate_hz, index=index, generation=int(generations[index]))

    def give_back(self, row: Row) -> None:
        self._resting[row.rate_hz].append((self._tick(), row.index))

    def resume(self, used: Iterable[Row]) -> None:
        """In a new control process: these rows are in use; all others up to the last of them rest from now on."""
        taken: dict[int, set[int]] = {rate_hz: set() for rate_hz in self._banks}
        for row in used:
            taken[row.rate_hz].add(row.index)
        now = self._tick()
        for rate_hz, indices in taken.items():
            rows = self._banks[rate_hz].rows
            # Whole blocks, so that the next untouched row begins one and its memory is asked for.
            end = min(-(-(max(indices) + 1) // BLOCK_ROWS) * BLOCK_ROWS, rows) if indices else 0
            self._untouched[rate_hz] = end
            self._resting[rate_hz] = deque((now, index) for index in range(end) if index not in indices)
