"""What control wants of this process, carried out.

Runs in: rtp, in the loop, after the audio of a wake-up.
Owns: the order in which a change touches the stages; what waits for its tick or its port; replies.

Rules
1. One reply a command; the last REPLIES_KEPT are kept, so that a repeated command is answered again and done once.
2. A placement takes effect at the wake-up of its tick (4 * at_tick): the room before has mixed, the next one has not.
3. A port of a leg to be resumed may still be held by the dying process: it is tried anew at each wake-up for BIND_WAKES.
4. Commands get TURN_NS a wake-up, so that a burst of calls does not delay audio; the rest waits here and in the channel.
"""

import secrets
from collections import OrderedDict, deque

import numpy as np

from shm.channel import Channel
from shm.clock import PHASES, monotonic_ns
from shm.errors import ResourceError, RoomtoneError
from shm.messages import (
    Acknowledge,
    CloseLeg,
    DetectSpeech,
    Done,
    Failed,
    FromRtp,
    Hello,
    Leave,
    OpenLeg,
    PlaceLeg,
    RtpInventoryPart,
    RtpLeg,
    SendDigits,
    SetMedia,
    SpeechChanged,
    ToRtp,
)
from shm.outbox import Outbox
from workers.rtp import address
from workers.rtp.legs import Leg
from workers.rtp.media import agree
from workers.rtp.stages import Stages

REPLIES_KEPT = 4096
BIND_WAKES = 40  # 200 ms
TURN_NS = 1_500_000
_INVENTORY_LEGS = 200  # a part stays far below 64 KiB


class Commands:
    def __init__(self, stages: Stages, channel: Channel[ToRtp], outbox: Outbox) -> None:
        self._stages = stages
        self._channel = channel
        self._outbox = outbox
        self._waiting: deque[ToRtp] = deque()  # at most what one `receive` brought: the channel holds the rest
        self._placements: dict[str, PlaceLeg] = {}
        self._openings: list[tuple[int, OpenLeg]] = []  # (last wake-up to try, command)
        self._replies: OrderedDict[int, Done | Failed] = OrderedDict()
        self.late = 0
        self.is_leaving = False

    @property
    def are_done(self) -> bool:
        """Whether none that has come waits for anything."""
        return not (self._waiting or self._openings or self._placements)

    def drain(self, wake: int) -> None:
        """Carry out what has come. Raises ChannelClosed."""
        if not self._waiting:
            self._channel.flush()
            self._waiting.extend(self._channel.receive())
        end_ns = monotonic_ns() + TURN_NS
        while self._waiting:
            self._execute(self._waiting.popleft(), wake)
            if monotonic_ns() > end_ns:
                break

    def due(self, wake: int) -> None:
        """Carry out what has waited for this wake-up."""
        if self._placements:
            for leg_id, command in list(self._placements.items()):
                if command.at_tick * PHASES <= wake:
                    del self._placements[leg_id]
                    self._place(self._stages.legs.by_id[leg_id], command, command.at_tick)
        if self._openings:
            openings, self._openings = self._openings, []
            for last_wake, opening in openings:
                self._open(opening, wake, last_wake)

    def _execute(self, command: ToRtp, wake: int) -> None:
        if isinstance(command, Acknowledge):
            self._outbox.acknowledge(command.number)
            return
        if isinstance(command, Leave):
            self.is_leaving = True
            return
        if isinstance(command, Hello):
            self._tell_inventory()
            self._channel.send(Done(command_id=command.command_id))
            return
        if command.command_id and command.command_id in self._replies:
            self._channel.send(self._replies[command.command_id])
            return
        if isinstance(command, OpenLeg):
            self._open(command, wake, wake + BIND_WAKES if command.resume else wake)
            return
        leg = self._stages.legs.by_id.get(command.leg_id)
        if leg is None:
            is_gone = isinstance(command, CloseLeg)
            self._reply(command.command_id, "" if is_gone else "no such leg", "resource")
        elif isinstance(command, SetMedia):
            agree(self._stages, leg, command.media, wake)
            self._reply(command.command_id)
        elif isinstance(command, PlaceLeg):
            self._schedule(leg, command, wake)
        elif isinstance(command, SendDigits):
            self._reply(command.command_id, self._stages.digits.queue(leg, command.digits), "caller")
        elif isinstance(command, DetectSpeech):
            self._detect(leg, command.enabled)
            self._reply(command.command_id)
        else:
            self.close(leg, wake)
            self._reply(command.command_id)

    def _reply(self, command_id: int, error: str = "", blame: str = "") -> None:
        reply: FromRtp
        if error:
            reply = Failed(command_id=command_id, error=error, blame="caller" if blame == "caller" else "resource")
        else:
            reply = Done(command_id=command_id)
        self._replies[command_id] = reply
        if len(self._replies) > REPLIES_KEPT:
            self._replies.popitem(last=False)
        self._channel.send(reply)

    # ------------------------------------------------------------------------------------------ legs

    def _open(self, command: OpenLeg, wake: int, last_wake: int) -> None:
        known = self._stages.legs.by_id.get(command.leg_id)
        try:
            if known is None:
                self._begin(command, wake)
            elif known.port != command.port:
                raise ResourceError(f"the leg is on port {known.port}")
            elif command.media is not None:
                agree(self._stages, known, command.media, wake)
        except RoomtoneError as error:
            self._reply(command.command_id, str(error))
        except OSError as error:
            if wake < last_wake:
                self._openings.append((last_wake, command))
            else:
                self._reply(command.command_id, f"port {command.port}: {error.strerror}")
        else:
            self._reply(command.command_id)

    def _begin(self, command: OpenLeg, wake: int) -> None:
        stages = self._stages
        if stages.legs.is_full:
            raise ResourceError("no more legs fit into this process")
        try:
            own = address.pack(command.host, command.port)
        except ValueError as error:
            raise ResourceError(str(error)) from error
        sock = address.bind(command.host, command.port)
        leg = stages.legs.open(command, sock, own)
        index = leg.index
        try:
            stages.transport.add(index, sock)
        except OSError:
            stages.legs.close(leg)
            sock.close()
            raise
        bank = stages.legs.bank_of(leg)
        stages.legs.phase[index] = -1 if command.phase is None else command.phase
        stages.playout.start(index, bank.rate_hz, 8000, index % PHASES if command.phase is None else command.phase)
        stages.reception.start(index, wake)
        stages.listening.start(index)
        stages.listening.is_detecting[index] = command.detect_speech
        stages.reporting.start(leg, wake)
        record = bank.leg[command.row.index]
        if command.resume and int(record["send_ssrc"]):
            ssrc, sequence, origin = (int(record[name]) for name in ("send_ssrc", "send_sequence", "send_timestamp"))
        else:
            ssrc, sequence, origin = secrets.randbits(32) or 1, secrets.randbits(16), secrets.randbits(32)
        stages.sending.start(index, ssrc, sequence, origin)
        if command.media is not None:
            agree(stages, leg, command.media, wake)
        if command.resume:
            peer = stages.survival.restore(leg)
            if peer is not None:
                stages.doors.lock(leg, peer)
        stages.sending.settle(index)
        stages.listening.regroup()
        for name, value in (("send_ssrc", ssrc), ("send_sequence", sequence), ("send_timestamp", origin)):
            bank.leg[name][command.row.index] = value

    def _detect(self, leg: Leg, enabled: bool) -> None:
        listening = self._stages.listening
        listening.is_detecting[leg.index] = enabled
        listening.regroup()
        if listening.speech.reset(leg.index):
            self._channel.send(SpeechChanged(leg_id=leg.leg_id, speaking=False))

    def close(self, leg: Leg, wake: int) -> None:
        """RTCP BYE, then nothing of the leg is left but its counters."""
        stages = self._stages
        one = np.array([leg.index], np.int64)
        self._placements.pop(leg.leg_id, None)
        stages.digits.forget(leg)
        stages.reporting.stop(leg, wake // PHASES)
        if stages.legs.owns_row(leg):
            stages.survival.save(one)
        stages.sending.is_sending[leg.index] = False
        stages.sending.refresh(leg.index)
        stages.listening.restart_stream(one)
        stages.transport.remove(leg.index)
        leg.sock.close()
        stages.legs.close(leg)
        stages.listening.regroup()

    # ------------------------------------------------------------------------------------------ placement

    def _schedule(self, leg: Leg, command: PlaceLeg, wake: int) -> None:
        if command.at_tick * PHASES > wake:
            self._placements[leg.leg_id] = command
        else:
            self.late += command.at_tick > 0
            self._placements.pop(leg.leg_id, None)
            self._place(leg, command, wake // PHASES + 1)
        self._reply(command.command_id)

    def _place(self, leg: Leg, command: PlaceLeg, from_tick: int) -> None:
        stages, index = self._stages, leg.index
        stages.sending.finish(index, from_tick - 1)
        old_bank, old_row = stages.legs.bank_of(leg), leg.row.index
        if command.row != leg.row:
            stages.legs.move(leg, command.row)
            bank = stages.legs.bank_of(leg)
            stages.listening.carry_over(old_bank, old_row, bank, leg.row.index, from_tick)
            bank.leg[leg.row.index] = _inherited(old_bank.leg[old_row], bank.leg[leg.row.index])
            stages.playout.set_pace(index, bank.rate_hz, int(stages.legs.clock_hz[index]))
            stages.survival.save(np.array([index], np.int64))
        stages.legs.phase[index] = -1 if command.phase is None else command.phase
        stages.playout.change_phase(index, index % PHASES if command.phase is None else command.phase)
        stages.sending.settle(index)
        stages.listening.regroup()

    def _tell_inventory(self) -> None:
        legs = self._stages.legs
        told = [
            RtpLeg(
                leg_id=leg.leg_id,
                row=leg.row,
                port=leg.port,
                speaking=bool(self._stages.listening.speech.speaking[leg.index]),
            )
            for leg in legs.by_id.values()
        ]
        parts = [tuple(told[start : start + _INVENTORY_LEGS]) for start in range(0, len(told), _INVENTORY_LEGS)] or [()]
        for number, part in enumerate(parts):
            self._channel.send(RtpInventoryPart(legs=part, last=number == len(parts) - 1))
        self._outbox.repeat()


def _inherited(old: np.void, new: np.void) -> np.void:
    """A leg takes its record along to another row; the row's generation stays the row's."""
    record = old.copy()
    record["generation"] = new["generation"]
    return record
