"""A room worker: one room (dedicated) or many (shared), the same code.

Runs in: the process `roomtone: room <id>`.
Owns: the answers to control's commands about its rooms; everything else is in `membership`, `mixer` and `loop`.

Not here: packets, codecs, sockets, vendors -> the row's I/O process. A room worker knows rows and nothing else.
"""

import os
from typing import Any, Literal

import msgspec

from shm import messages
from shm.channel import Channel
from shm.clock import tick_now
from shm.errors import CallerError, ResourceError
from shm.instance import Instance
from shm.messages import Done, Failed
from shm.outbox import Outbox
from workers.process import Lifeline, run_in_real_time
from workers.room.loop import TickLoop, mix_group
from workers.room.membership import Membership, example_membership
from workers.room.playbacks import Playbacks
from workers.room.recordings import Recordings

INVENTORY_PARTICIPANTS = 200  # about 25 KiB a part

RoomCommand = (
    messages.OpenRoom
    | messages.CloseRoom
    | messages.AddParticipant
    | messages.SetParticipant
    | messages.RemoveParticipant
    | messages.StartPlayback
    | messages.SetVolume
    | messages.StopPlayback
    | messages.StartRecording
    | messages.PauseRecording
    | messages.StopRecording
)


def warm() -> None:
    """Run the mix once in the zygote, so that its forks find code and caches ready."""
    from shm.bank import Bank  # noqa: PLC0415 - only the zygote needs a bank of its own

    bank = Bank(16000, 64, "warm")
    tick = tick_now()
    for talkers in (0, 1, 2):
        bank.rx[:talkers, tick % 32] = 1000
        bank.rx_tick[:3, tick % 32] = tick
        for group in example_membership({16000: bank}, 16000).groups[0]:
            mix_group(group, tick)


def run(instance: Instance, channel: Channel[messages.ToRoom], start: bytes) -> None:
    settings = msgspec.msgpack.decode(start, type=messages.RoomStart)
    run_in_real_time()
    desk = Desk(instance, channel, settings)
    loop = TickLoop(desk.membership, desk.stats, lambda: desk.recordings.is_waiting)
    lifeline = Lifeline(instance)
    while not desk.leaves:
        has_published = loop.run_once(channel.fileno(), desk.serve)
        if desk.is_busy:
            desk.settle()
        if has_published and lifeline.is_overdue():
            break
    desk.recordings.end()


class Desk:
    """Takes control's commands and answers each once."""

    def __init__(self, instance: Instance, channel: Channel[messages.ToRoom], settings: messages.RoomStart) -> None:
        self._channel = channel
        self._outbox = Outbox(channel)
        self._lent: list[int] = []  # descriptors on their way to control
        self.stats = instance.stats.row(settings.stats_row)
        self.membership = Membership(instance.banks, with_comfort_noise=settings.comfort_noise)
        self.playbacks = Playbacks(self.membership, self._outbox.post)
        self.recordings = Recordings(self.membership, channel.send, self._outbox.post)
        self.is_busy = False  # there is something to `settle`
        self.leaves = False

    def serve(self) -> None:
        self.is_busy = True
        while (received := self._channel.receive_with_descriptors()) is not None:
            message, descriptors = received
            match message:
                case messages.Hello():
                    self._send_inventory()
                    self._outbox.repeat()
                case messages.Leave():
                    self.leaves = True
                case messages.Acknowledge():
                    self._outbox.acknowledge(message.number)
                case messages.StartRecording() | messages.StopRecording():
                    self._answer(message, descriptors, is_answered_later=True)
                case _:
                    self._answer(message, descriptors)

    def settle(self) -> None:
        """After each tick: send what has happened."""
        self.playbacks.settle()
        self.recordings.settle()
        is_flushed = self._channel.flush()
        if is_flushed:
            while self._lent:
                os.close(self._lent.pop())
        self.is_busy = not is_flushed or self.playbacks.are_running or self.recordings.are_known

    def _answer(self, command: RoomCommand, descriptors: list[int], *, is_answered_later: bool = False) -> None:
        try:
            self._do(command, descriptors)
        except (ResourceError, CallerError) as error:
            for descriptor in descriptors:
                os.close(descriptor)
            blame: Literal["resource", "caller"] = "resource" if isinstance(error, ResourceError) else "caller"
            self._channel.send(Failed(command_id=command.command_id, error=str(error), blame=blame))
        else:
            if not is_answered_later:
                self._channel.send(Done(command_id=command.command_id))

    def _do(self, command: RoomCommand, descriptors: list[int]) -> None:
        match command:
            case messages.OpenRoom():
                self.membership.open(command)
            case messages.CloseRoom():
                self.playbacks.end_room(command.room_id)
                self.recordings.end_room(command.room_id)
                self.membership.close(command)
            case messages.StartPlayback():
                self.playbacks.start(command, descriptors)
            case messages.SetVolume():
                self.playbacks.set_volume(command)
            case messages.StopPlayback():
                self.playbacks.stop(command)
            case messages.StartRecording():
                self.recordings.start(command)
            case messages.PauseRecording():
                self.recordings.pause(command)
            case messages.StopRecording():
                self.recordings.stop(command)
            case _:
                if not self.membership.schedule(command):
                    self.stats["commands_late"] += 1

    def _send_inventory(self) -> None:
        for room in self.membership.rooms.values():
            everyone = list(room.participants.values())
            for first in range(0, max(len(everyone), 1), INVENTORY_PARTICIPANTS):
                self._tell(room.room_id, participants=tuple(everyone[first : first + INVENTORY_PARTICIPANTS]))
        for playback, descriptors in self.playbacks.inventory():
            self._tell(playback.room_id, descriptors, playback=playback)
            self._lent += descriptors
        for running in self.recordings.inventory():
            self._tell(
                running.command.room_id,
                recording=running.going_on(),
                channels=running.participants,
                is_stopping=running.is_ending,
            )
        self._channel.send(messages.RoomInventoryPart(last=True))

    def _tell(self, room_id: str, descriptors: tuple[int, ...] = (), **facts: Any) -> None:
        """One part of the inventory; without the room's facts when it is closed and only its last recording ends."""
        room = self.membership.rooms.get(room_id)
        if room is not None:
            facts |= {"room_id": room_id, "rate_hz": room.rate_hz, "phase": room.phase}
        self._channel.send(messages.RoomInventoryPart(**facts), descriptors)
