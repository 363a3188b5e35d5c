"""The clock of live sessions: everybody of one phase is told which tick has just been mixed.

Runs in: stream.
Owns: one timer of the loop for each phase in use.

    ──┬─────────────┬──────────────────────────────┬────────▶ time
      mix of T      wake-up: read what T became,    mix of T+1
      (+2 ms)       write what is said for T+1      (17 ms later)
                    (+5 ms)

Rules
1. Deadlines are absolute: a late wake-up never shifts the next one. A wake-up that comes after the next mix already tells that
   one's tick; ticks nobody was told of are counted as skipped.
2. Each session runs as a call of its own: one that fails takes no other along.

Not here: what a session does → `rows.py`, `sockets.py`.
"""

import asyncio
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from shm.clock import MIX_OFFSET_NS, PHASE_NS, PHASES, TICK_NS, monotonic_ns
from shm.stats import lateness_bin

OnTick = Callable[[int], None]  # gets the latest tick that its phase has mixed


def mixed_tick(now_ns: int, phase: int) -> int:
    """The latest tick whose mix was due in rooms of this phase."""
    return (now_ns - phase * PHASE_NS - MIX_OFFSET_NS) // TICK_NS


class Ticker:
    """One per process, used in its loop."""

    def __init__(self, stats: NDArray[np.void]) -> None:
        self._stats = stats
        self._sessions: list[list[OnTick]] = [[] for _ in range(PHASES)]
        self._latest = [0] * PHASES
        self._timers: list[asyncio.TimerHandle | None] = [None] * PHASES

    def join(self, phase: int, on_tick: OnTick) -> None:
        """From the next tick on."""
        self._sessions[phase].append(on_tick)
        if self._timers[phase] is None:
            self._latest[phase] = mixed_tick(monotonic_ns(), phase)
            self._arm(phase)

    def leave(self, phase: int, on_tick: OnTick) -> None:
        """At once, also from within `on_tick`."""
        self._sessions[phase].remove(on_tick)
        timer = self._timers[phase]
        if not self._sessions[phase] and timer is not None:
            timer.cancel()
            self._timers[phase] = None

    def _arm(self, phase: int) -> None:
        deadline_ns = (self._latest[phase] + 1) * TICK_NS + (phase + 1) * PHASE_NS
        loop = asyncio.get_running_loop()
        wait_s = max(0, deadline_ns - monotonic_ns()) / 1e9
        self._timers[phase] = loop.call_later(wait_s, self._wake, phase, deadline_ns)

    def _wake(self, phase: int, deadline_ns: int) -> None:
        now_ns = monotonic_ns()
        tick = mixed_tick(now_ns, phase)
        told = tick > self._latest[phase]  # the loop's timers may come 1 ms early
        if told:
            late_ns = max(0, now_ns - deadline_ns)
            self._stats["ticks"] += 1
            self._stats["ticks_skipped"] += tick - self._latest[phase] - 1
            self._stats["lateness"][lateness_bin(late_ns)] += 1
            self._stats["lateness_sum_ns"] += late_ns
            self._latest[phase] = tick
        self._arm(phase)
        if told:
            loop = asyncio.get_running_loop()
            for on_tick in self._sessions[phase]:
                loop.call_soon(self._tell, phase, on_tick, tick)

    def _tell(self, phase: int, on_tick: OnTick, tick: int) -> None:
        if on_tick in self._sessions[phase]:  # it may have left a moment ago
            on_tick(tick)
