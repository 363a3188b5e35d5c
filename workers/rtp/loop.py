"""The wake-up loop: every 5 ms everything that arrived goes into the rows, and what a phase mixed goes out.

Runs in: rtp.
Owns: the order of a wake-up, housekeeping's share of it, the stats row.

Rules
1. Wake-up w is at w * 5 ms of CLOCK_MONOTONIC, 2 ms before phase w % 4 mixes tick w // 4; it sends what phase w - 1 mixed.
2. Deadlines are absolute. A late wake-up catches up in order; more than a tick late, what lies between is skipped and counted.
3. Packets are placed by the time it is, not by the wake-up's: a late process does not put audio where it was already mixed.
4. Housekeeping looks at a tenth of the legs every 100 ms: at each leg once a second.
5. Without legs the process sleeps until it is told something, and counts no wake-ups.
"""

import numpy as np
from numpy.typing import NDArray

from shm.channel import Channel, ChannelClosed
from shm.clock import MIX_OFFSET_NS, PHASE_NS, PHASES, TICK_NS, monotonic_ns, sleep_until_ns, wait_until_ns
from shm.instance import Instance
from shm.messages import MediaTimedOut, RtpStart, SpeechChanged, ToRtp
from shm.outbox import Outbox
from shm.stats import WakeUps
from workers.rtp.arrivals import Intake
from workers.rtp.commands import Commands
from workers.rtp.stages import Stages

_HOUSEKEEPING_WAKES = 20
_PARTS = 10
_LIFELINE_WAKES = 200
_ORPHAN_WAKES = 700  # without a master, control gets 3.5 s to end the calls


class Loop:
    def __init__(
        self,
        instance: Instance,
        channel: Channel[ToRtp],
        stages: Stages,
        outbox: Outbox,
        settings: RtpStart,
    ) -> None:
        self._instance = instance
        self._channel = channel
        self._stages = stages
        self._outbox = outbox
        self._intake = Intake(stages)
        self._commands = Commands(stages, channel, outbox)
        self._stats = instance.stats.row(settings.stats_row)
        self._timeout_wakes = settings.rtp_timeout_s * 1_000_000_000 // PHASE_NS
        self._lifeline_wake = 0  # when to look at the lifeline next
        self._orphan_since: int | None = None
        self._counted: dict[str, int] = {}
        self._wake_ups = WakeUps()

    def run(self) -> None:
        """Until told to leave, or nobody is left to tell."""
        wake = monotonic_ns() // PHASE_NS + 1
        try:
            while not self._is_over(wake):
                if self._is_idle:
                    wake = self._wait(wake)
                else:
                    sleep_until_ns(wake * PHASE_NS)
                now_ns = monotonic_ns()
                late_ns = now_ns - wake * PHASE_NS
                self._turn(wake, now_ns)
                behind = late_ns // TICK_NS
                if not self._is_idle:
                    self._wake_ups.count(late_ns, skipped=behind)
                wake += 1 + behind * PHASES
        except ChannelClosed:
            pass  # no control, no zygote: nobody will ever speak to us again
        self._end(wake)

    @property
    def _is_idle(self) -> bool:
        return not self._stages.legs.by_id and self._commands.are_done

    def _wait(self, wake: int) -> int:
        """Nothing to do: until a command comes or housekeeping is due. Returns the wake-up that it is then."""
        due = wake + -wake % _HOUSEKEEPING_WAKES
        wait_until_ns(due * PHASE_NS, self._channel.fileno())
        return max(wake, min(due, monotonic_ns() // PHASE_NS))

    def _turn(self, wake: int, now_ns: int) -> None:
        stages = self._stages
        tick, phase = divmod(wake, PHASES)
        self._commands.due(wake)
        arrived = stages.transport.receive()
        if arrived is not None:
            self._intake.take(arrived, max(wake, (now_ns - MIX_OFFSET_NS) // PHASE_NS + 1))
            stages.survival.count(arrived.leg)
        started, stopped = stages.listening.complete(tick, phase)
        stages.digits.send(wake)
        stages.sending.send(wake)
        stages.sending.submit()
        self._tell_speech(started, stopped)
        stages.reporting.poll(wake)
        self._commands.drain(wake)
        if wake % _HOUSEKEEPING_WAKES == 0:
            self._keep_house(wake)

    def _keep_house(self, wake: int) -> None:
        stages = self._stages
        number = wake // _HOUSEKEEPING_WAKES
        for index in stages.legs.dispossessed(stages.legs.active):
            self._commands.close(stages.legs[index], wake)
        active = stages.legs.active
        part = active[active % _PARTS == number % _PARTS]
        if len(part):
            stages.doors.review(part, stages.reception.last_wake[part], wake)
            stages.survival.save(part)
            stages.listening.review(part, wake)
            stages.reporting.review(part, wake)
            self._watch_timeouts(part, wake)
        if number % _PARTS == 0:
            stages.sending.forget_unused(wake // PHASES)
        self._publish(wake)

    def _watch_timeouts(self, part: NDArray[np.int64], wake: int) -> None:
        legs = self._stages.legs
        is_quiet = (self._stages.reception.last_wake[part] < wake - self._timeout_wakes) & legs.is_receiving[part]
        for index in part[is_quiet != legs.is_timed_out[part]].tolist():
            legs.is_timed_out[index] = not legs.is_timed_out[index]
            if legs.is_timed_out[index]:
                self._outbox.post(MediaTimedOut(leg_id=legs[index].leg_id))

    def _tell_speech(self, started: NDArray[np.integer], stopped: NDArray[np.integer]) -> None:
        for legs, speaking in ((started, True), (stopped, False)):
            for index in legs.tolist():
                self._channel.send(SpeechChanged(leg_id=self._stages.legs[index].leg_id, speaking=speaking))

    # ------------------------------------------------------------------------------------------ life and numbers

    def _is_over(self, wake: int) -> bool:
        if wake >= self._lifeline_wake and self._orphan_since is None:
            self._lifeline_wake = wake + _LIFELINE_WAKES
            if self._instance.master_is_gone():
                self._orphan_since = wake
        is_orphan_long = self._orphan_since is not None and (
            wake - self._orphan_since > _ORPHAN_WAKES or not self._stages.legs.by_id
        )
        return self._commands.is_leaving or is_orphan_long

    def _end(self, wake: int) -> None:
        for leg in list(self._stages.legs.by_id.values()):
            self._commands.close(leg, wake)
        self._stages.transport.close()
        self._publish(wake)

    def _publish(self, wake: int) -> None:
        stages = self._stages
        self._wake_ups.publish(self._stats, monotonic_ns())
        for name, total in (
            ("frames_missing", stages.sending.frames_missing),
            ("packets_received", self._intake.received),
            ("packets_sent", stages.sending.packets_sent),
            ("packets_late", self._intake.late),
            ("packets_lost", int(stages.reception.lost(stages.legs.active).sum()) if wake % 200 == 0 else None),
            ("frames_concealed", stages.listening.frames_concealed),
            ("packets_refused", self._intake.refused + stages.transport.refused),
            ("commands_late", self._commands.late),
            ("messages_dropped", self._channel.dropped),
        ):
            if total is not None:
                self._stats[name] += max(total - self._counted.get(name, 0), 0)
                self._counted[name] = total
