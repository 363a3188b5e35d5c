"""The tick loop of a room worker.

Runs in: a room worker, SCHED_FIFO where the host allows it.
Owns: when its rooms mix, and the order: apply changes, prepare sources, gather, mix, scatter, record.

Rules
1. A room of phase p mixes tick T at T*20 + 5p + 2 ms; between mixes the process sleeps on its channel, so that commands
   are answered at once.
2. A mix more than a period late is skipped and counted: nobody would play it.
3. Nothing in here logs, allocates membership, opens files or catches.
"""

from collections.abc import Callable

import numpy as np

from shm import clock
from shm.bank import RX_SLOTS, TX_SLOTS
from shm.stats import STATS, lateness_bin
from workers.room.membership import Group, Membership
from workers.room.mixer import make_plan, mix

IDLE_WAIT_NS = 200_000_000


class TickLoop:
    """`is_waiting`: whether the rest of the process has something to do soon, also where nothing is mixed."""

    def __init__(
        self,
        membership: Membership,
        stats: np.ndarray[tuple[()], np.dtype[np.void]],
        is_waiting: Callable[[], bool] = lambda: False,
    ) -> None:
        assert stats.dtype == STATS
        self._membership = membership
        self._stats = stats
        self._is_waiting = is_waiting
        self._mixed_until_ns = 0

    def run_once(self, fd: int, on_readable: Callable[[], None]) -> None:
        """Sleep to the next mix of any room here and do it; at most 200 ms when there is none."""
        phase, deadline_ns = self._next_mix()
        while clock.wait_until_ns(deadline_ns, fd):
            on_readable()
            phase, deadline_ns = self._next_mix()
        now_ns = clock.monotonic_ns()
        self._stats["heartbeat_ns"] = now_ns
        if phase < 0:
            self._membership.apply_due(now_ns // clock.TICK_NS)
            return
        tick = (deadline_ns - clock.MIX_OFFSET_NS) // clock.TICK_NS
        late_ns = now_ns - deadline_ns
        self._membership.apply_due(tick)
        self._stats["lateness"][lateness_bin(late_ns)] += 1
        self._stats["lateness_sum_ns"] += late_ns
        self._stats["ticks"] += 1
        if late_ns > clock.TICK_NS:
            self._stats["ticks_skipped"] += 1
        else:
            self._stats["frames_missing"] += mix_phase(self._membership, phase, tick)
        self._mixed_until_ns = deadline_ns

    def _next_mix(self) -> tuple[int, int]:
        """(phase, deadline) of the next mix after the last one; (-1, soon) without rooms."""
        now_ns = clock.monotonic_ns()
        phases = self._membership.phases
        if not phases:
            self._mixed_until_ns = now_ns
            is_waiting = self._membership.is_waiting or self._is_waiting()
            return -1, now_ns + (clock.TICK_NS if is_waiting else IDLE_WAIT_NS)
        after_ns = max(self._mixed_until_ns, now_ns - 10 * clock.TICK_NS)
        best = (1 << 63, -1)
        for phase in phases:
            offset_ns = clock.mix_time_ns(0, phase)
            deadline_ns = ((after_ns - offset_ns) // clock.TICK_NS + 1) * clock.TICK_NS + offset_ns
            best = min(best, (deadline_ns, phase))
        return best[1], best[0]


def mix_phase(membership: Membership, phase: int, tick: int) -> int:
    """One tick of all rooms of one phase; returns how many rows had no frame."""
    missing = 0
    for group in membership.groups.get(phase, ()):
        if group.sources is not None:
            group.sources.prepare(tick)
        missing += mix_group(group, tick)
    return missing


def mix_group(group: Group, tick: int) -> int:
    """One tick of one group, bank to bank; returns how many rows had no frame."""
    bank, batch = group.bank, group.batch
    slot, out = tick % RX_SLOTS, tick % TX_SLOTS
    stamped = bank.rx_tick[batch.rows, slot] == tick
    missing = len(stamped) - int(np.count_nonzero(stamped))
    if not batch.all_audible:
        stamped &= batch.audible
    talkers = stamped.nonzero()[0]
    frames = bank.rx[batch.rows[talkers], slot]
    if group.sources is not None:
        talkers, frames = group.sources.join(talkers, frames)
    loud = frames.view(np.int64).any(axis=1)
    if not loud.all():
        talkers = talkers[loud]
        frames = frames[loud]
    key = talkers.tobytes()
    plan = group.plan
    if plan is None or key != group.talkers:
        plan = group.plan = make_plan(batch, talkers, comfort_noise=group.noise is not None)
        group.talkers = key
    totals = frames
    if len(talkers):
        totals, without_own = mix(frames, plan)
        bank.tx[plan.total_rows, out] = totals[plan.total_of]
        bank.tx[plan.own_rows, out] = without_own
    if plan.noise_row >= 0 and group.noise is not None:
        bank.tx[plan.noise_row, out] = group.noise[tick % len(group.noise)]
    bank.tx_from[batch.rows, out] = plan.hears
    bank.tx_tick[batch.rows, out] = tick
    if group.taps is not None:
        group.taps.take(tick, plan, totals)
    return missing
