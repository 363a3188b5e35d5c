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
from shm.stats import STATS, WakeUps
from workers.room.membership import Group, Membership
from workers.room.mixer import Samples, is_loud, mix
from workers.room.small import Small

IDLE_WAIT_NS = 150_000_000
PUBLISH_NS = 100_000_000


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
        self._wake_ups = WakeUps()
        self._missing = 0
        self._mixed_until_ns = self._published_ns = 0

    def run_once(self, fd: int, on_readable: Callable[[], None]) -> bool:
        """Sleep to the next mix of any room here and do it; at most 150 ms when there is none. True a few times a second, when
        the stats row was written: for what else need not be done each time."""
        phase, deadline_ns = self._next_mix()
        while clock.wait_until_ns(deadline_ns, fd):
            on_readable()
            phase, deadline_ns = self._next_mix()
        now_ns = clock.monotonic_ns()
        if phase < 0:
            self._membership.apply_due(now_ns // clock.TICK_NS)
        else:
            tick = (deadline_ns - clock.MIX_OFFSET_NS) // clock.TICK_NS
            late_ns = now_ns - deadline_ns
            self._membership.apply_due(tick)
            is_skipped = late_ns > clock.TICK_NS
            if not is_skipped:
                self._missing += mix_phase(self._membership, phase, tick)
            self._wake_ups.count(late_ns, skipped=int(is_skipped))
            self._mixed_until_ns = deadline_ns
        if now_ns - self._published_ns < PUBLISH_NS:
            return False
        self._publish(now_ns)
        return True

    def _publish(self, now_ns: int) -> None:
        self._published_ns = now_ns
        self._wake_ups.publish(self._stats, now_ns)
        if self._missing:
            self._stats["frames_missing"] += self._missing
            self._missing = 0

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
    if group.small is not None:
        return mix_small(group, group.small, tick)
    bank, out = group.bank, tick % TX_SLOTS
    frames, missing = gather(group, tick)
    plan = group.plan
    totals = frames
    if len(frames):
        totals, without_own = mix(frames, plan)
        bank.tx_frames[group.total_at + out] = totals[plan.total_of]
        if len(without_own):
            bank.tx_frames[group.own_at + out] = without_own
    if plan.noise_row >= 0 and group.noise is not None:
        bank.tx[plan.noise_row, out] = group.noise[tick % len(group.noise)]
    group.route(out)
    bank.tx_stamps[group.tx_at + out] = tick
    if group.taps is not None:
        group.taps.take(tick, plan, totals)
    return missing


def mix_small(group: Group, small: Small, tick: int) -> int:
    """The same for few legs and sources."""
    talking, missing = small.gather(tick)
    if talking != group.key:
        group.follow(np.flatnonzero([talking >> one & 1 for one in range(len(group.batch.room_of))]), talking)
    small.tell(tick)
    group.route(tick % TX_SLOTS)
    small.stamp(tick)
    if group.taps is not None:
        group.taps.take_few(tick, small)
    return missing


def gather(group: Group, tick: int) -> tuple[Samples, int]:
    """What is heard in `tick`: the frames (k, n) of `group.plan`'s talkers, and how many rows had none.

    All rows are fetched, of which only the stamped, audible and loud ones count: choosing first would cost more calls.
    """
    bank, batch = group.bank, group.batch
    at = group.rx_at + tick % RX_SLOTS
    stamped = bank.rx_stamps.take(at) == tick
    frames = bank.rx_frames.take(at, axis=0)
    heard = is_loud(frames)
    heard &= stamped
    if not batch.all_audible:
        heard &= batch.audible
    missing = 0 if stamped.tobytes() == group.all_stamped else len(stamped) - int(np.count_nonzero(stamped))
    if group.sources is not None:
        talkers = heard.nonzero()[0]
        talkers, frames = group.sources.join(talkers, frames[talkers])
        key = talkers.tobytes()
        if key != group.key:
            group.follow(talkers, key)
        return frames, missing
    key = heard.tobytes()
    if key != group.key:
        group.follow(heard.nonzero()[0], key)
    return frames if group.takes_all else frames[group.talkers], missing
