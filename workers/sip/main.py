"""The sip process: control's channel on one side, the SIP endpoint on the other.

Runs in: sip.
Owns: the loop's life, command ids, the inventory, the heartbeat, how the process ends.

Rules
1. The last MEMORY replies are kept: a command that comes twice is answered twice and done once.
2. `Leave`: everything still there gets its BYE, and the process is gone LEAVE_S later at the latest.
   The lifeline's end: the same, within LIFELINE_S. Control and zygote dead together: it goes without a word.
3. The sockets are read from `Listen` on, when all dialogs of a predecessor are restored: what came meanwhile waits there.
4. An inventory part holds PART_CALLS calls at most and stays below PART_BYTES.

Not here: what commands mean -> `calls.py`.
"""

import asyncio
import traceback
from collections import OrderedDict
from typing import Any

import msgspec
import uvloop

from shm import messages as wire
from shm.channel import Channel, ChannelClosed
from shm.clock import monotonic_ns
from shm.errors import WireError
from shm.instance import Instance
from shm.outbox import Outbox
from workers.sip.calls import Calls, Command
from workers.sip.transport import server_context

HEARTBEAT_S = 0.1
LEAVE_S = 0.8
LIFELINE_S = 3.0
POLL_S = 0.02
MEMORY = 4096
PART_CALLS = 100
PART_BYTES = 48 * 1024

LogFields = dict[str, str | int | float | bool | None]
_PENDING = None  # a command that is not answered yet


def run(instance: Instance, channel: Channel[wire.ToSip], start: bytes) -> None:
    """Serve until told to leave, until the master is gone, or until nobody holds the channel's other end."""
    decoded = msgspec.msgpack.decode(start, type=wire.SipStart)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Process(instance, channel, decoded).serve())


class _Process:
    def __init__(self, instance: Instance, channel: Channel[wire.ToSip], start: wire.SipStart) -> None:
        self._instance = instance
        self._channel = channel
        self._start = start
        self._outbox = Outbox(channel)
        self._stats = instance.stats.row(start.stats_row)
        self._replies: OrderedDict[int, wire.Done | wire.Failed | None] = OrderedDict()
        self._calls: Calls
        self._grace_s = 0.0
        self._is_orphaned = False
        self._told: asyncio.Event
        self._may_serve: asyncio.Event

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        self._told, self._may_serve = asyncio.Event(), asyncio.Event()
        self._calls = Calls(self._start, self._outbox.post, self._channel.send)
        transports = self._calls.transports
        await transports.listen(self._instance.sip_sockets, server_context(self._start.tls_cert, self._start.tls_key))
        loop.set_exception_handler(self._unhandled)
        loop.add_reader(self._channel.fileno(), self._read_channel)
        loop.add_reader(self._instance.lifeline_fd, self._end, LIFELINE_S)
        self._beat()
        self._read_channel()
        await self._may_serve.wait()
        await transports.serve()
        await self._told.wait()
        loop.remove_reader(self._channel.fileno())
        loop.remove_reader(self._instance.lifeline_fd)
        if not self._is_orphaned:
            await self._leave()
        transports.close()
        self._channel.flush()

    def _unhandled(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The outermost frame of everything the loop runs: one bad message must not end all calls."""
        error = context.get("exception")
        if isinstance(error, WireError):
            self._end(LIFELINE_S)
            return
        where = "".join(traceback.format_exception(error)[-3:]) if error else ""
        fields: LogFields = {"error": repr(error), "what": str(context.get("message")), "where": where}
        self._channel.send(wire.LogLine(level="error", event="unhandled error in sip", fields=fields))

    def _end(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._told.set()
        self._may_serve.set()

    async def _leave(self) -> None:
        """Give what was sent last the time to be answered: a BYE may need a repetition."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._grace_s
        self._calls.leave()
        while loop.time() < deadline and self._calls.is_busy:  # noqa: ASYNC110  the process has nothing else to do
            await asyncio.sleep(POLL_S)

    def _beat(self) -> None:
        stats = self._stats
        stats["heartbeat_ns"] = monotonic_ns()
        stats["packets_received"] = self._calls.endpoint.received
        stats["packets_refused"] = self._calls.endpoint.refused + self._calls.transports.refused
        stats["messages_dropped"] = self._channel.dropped
        try:
            self._channel.flush()
        except ChannelClosed:
            self._orphaned()
        asyncio.get_running_loop().call_later(HEARTBEAT_S, self._beat)

    def _read_channel(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            for message in self._channel.receive():
                loop.call_soon(self._received, message)  # each by itself: one that fails takes no other along
        except ChannelClosed:
            self._orphaned()

    def _orphaned(self) -> None:
        """Neither control nor the zygote is left. While the master lives, the next control restores all dialogs in a new process
        of ours: no BYE then."""
        self._is_orphaned = not self._instance.master_is_gone()
        self._end(LIFELINE_S)

    def _received(self, message: wire.ToSip) -> None:
        match message:
            case wire.Acknowledge():
                self._outbox.acknowledge(message.number)
            case wire.Leave():
                self._end(LEAVE_S)
            case wire.Listen():
                self._may_serve.set()
                self._channel.send(wire.Done(command_id=message.command_id))
            case wire.Hello():
                self._send_inventory()
                self._channel.send(wire.Done(command_id=message.command_id))
                self._outbox.repeat()
            case _:
                self._command(message)

    def _command(self, command: Command) -> None:
        command_id = command.command_id
        if command_id in self._replies:
            earlier = self._replies[command_id]
            if earlier is not _PENDING:
                self._channel.send(earlier)
            return
        self._replies[command_id] = _PENDING
        while len(self._replies) > MEMORY:
            self._replies.popitem(last=False)
        self._calls.execute(command, self._reply)

    def _reply(self, reply: wire.Done | wire.Failed) -> None:
        self._replies[reply.command_id] = reply
        self._channel.send(reply)

    def _send_inventory(self) -> None:
        part: list[wire.SipCall] = []
        size = 0
        for call in self._calls.inventory():
            call_size = len(msgspec.msgpack.encode(call))
            if part and (size + call_size > PART_BYTES or len(part) >= PART_CALLS):
                self._channel.send(wire.SipInventoryPart(calls=tuple(part)))
                part, size = [], 0
            part.append(call)
            size += call_size
        self._channel.send(wire.SipInventoryPart(calls=tuple(part), listens=self._may_serve.is_set(), last=True))
