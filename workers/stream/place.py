"""Where a live session is in time: the phase it is called in, and the move it is told of in advance.

Runs in: stream.
Owns: a session's place on the ticker, and its next move.

Rules
1. A move takes place right before `at_tick` is mixed: after the ticks before it can be read, before it is spoken for.
2. Moved twice before the first move's tick, only the second takes place.

Not here: rows → `rows.py`.
"""

from collections.abc import Callable

from workers.stream.tick import Ticker


class Place:
    """`on_tick` gets the latest tick mixed, and so does what is called when a move takes place."""

    def __init__(self, ticker: Ticker, phase: int, on_tick: Callable[[int], None]) -> None:
        self._ticker = ticker
        self._phase = phase
        self._on_tick = on_tick
        self._move: tuple[int, int, Callable[[int], None]] | None = None
        self._is_left = False
        ticker.join(phase, self._tick)

    def move(self, at_tick: int, phase: int, take_place: Callable[[int], None]) -> None:
        """`at_tick` 0: at the next call."""
        self._move = at_tick, phase, take_place

    def leave(self) -> None:
        """Idempotent; no call follows."""
        if not self._is_left:
            self._is_left = True
            self._ticker.leave(self._phase, self._tick)

    def _tick(self, mixed: int) -> None:
        if self._move is not None and mixed + 1 >= self._move[0]:
            _, phase, take_place = self._move
            self._move = None
            take_place(mixed)
            if phase != self._phase:
                self._ticker.leave(self._phase, self._tick)
                self._phase = phase
                self._ticker.join(phase, self._tick)
                return  # the new phase has its own next tick
        self._on_tick(mixed)
