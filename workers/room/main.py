"""A room worker: one room (dedicated) or many (shared), the same code.

Runs in: the process `roomtone: room <id>`.
Owns: the answers to control's commands about its rooms; everything else is in `membership`, `mixer` and `loop`.

Not here: packets, codecs, sockets, vendors -> the row's I/O process. A room worker knows rows and nothing else.
"""

import msgspec

from shm import messages
from shm.channel import Channel
from shm.clock import tick_now
from shm.errors import ResourceError
from shm.instance import Instance
from shm.messages import Done, Failed
from workers.process import Lifeline, run_in_real_time
from workers.room.loop import TickLoop, mix_group
from workers.room.membership import Membership, example_membership

INVENTORY_PARTICIPANTS = 200  # about 25 KiB a part


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
    loop = TickLoop(desk.membership, desk.stats)
    lifeline = Lifeline(instance)
    while not desk.leaves and not lifeline.is_overdue():
        loop.run_once(channel.fileno(), desk.serve)
        channel.flush()


class Desk:
    """Takes control's commands and answers each once."""

    def __init__(self, instance: Instance, channel: Channel[messages.ToRoom], settings: messages.RoomStart) -> None:
        self._channel = channel
        self.stats = instance.stats.row(settings.stats_row)
        self.membership = Membership(instance.banks, with_comfort_noise=settings.comfort_noise)
        self.leaves = False

    def serve(self) -> None:
        for message in self._channel.receive():
            match message:
                case messages.Hello():
                    self._send_inventory()
                case messages.Leave():
                    self.leaves = True
                case messages.Acknowledge():
                    pass  # a room worker has no numbered events yet
                case _:
                    self._answer(message)

    def _answer(
        self,
        command: messages.OpenRoom
        | messages.CloseRoom
        | messages.AddParticipant
        | messages.SetParticipant
        | messages.RemoveParticipant,
    ) -> None:
        try:
            match command:
                case messages.OpenRoom():
                    self.membership.open(command)
                case messages.CloseRoom():
                    self.membership.close(command)
                case _:
                    if not self.membership.schedule(command):
                        self.stats["commands_late"] += 1
        except ResourceError as error:
            self._channel.send(Failed(command_id=command.command_id, error=str(error), blame="resource"))
        else:
            self._channel.send(Done(command_id=command.command_id))

    def _send_inventory(self) -> None:
        for room in self.membership.rooms.values():
            everyone = list(room.participants.values())
            for first in range(0, max(len(everyone), 1), INVENTORY_PARTICIPANTS):
                self._channel.send(
                    messages.RoomInventoryPart(
                        room_id=room.room_id,
                        rate_hz=room.rate_hz,
                        phase=room.phase,
                        participants=tuple(everyone[first : first + INVENTORY_PARTICIPANTS]),
                    )
                )
        self._channel.send(messages.RoomInventoryPart(last=True))
