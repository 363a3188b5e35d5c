"""The stream process: control's channel on one side, vendors, clients and storage on the other.

Runs in: stream.
Owns: the loop's life, command ids, the inventory, the heartbeat, how the process ends.

Rules
1. The last MEMORY replies are kept: a command that comes twice is answered twice and done once.
2. `Leave`: everything is told to end and the process is gone LEAVE_S later at the latest. The lifeline's end: LIFELINE_S.
3. An inventory part names PART_IDS ids at most.

Not here: what commands mean → `desk.py`.
"""

import asyncio
import os
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
from workers.stream.desk import Desk

HEARTBEAT_S = 0.1
LEAVE_S = 1.5
LIFELINE_S = 3.0
MEMORY = 4096
PART_IDS = 500

LogFields = dict[str, str | int | float | bool | None]
_PENDING = None  # a command that is not answered yet


def run(instance: Instance, channel: Channel[wire.ToStream], start: bytes) -> None:
    """Serve until told to leave, until the master is gone, or until nobody holds the channel's other end."""
    decoded = msgspec.msgpack.decode(start, type=wire.StreamStart)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_Process(instance, channel, decoded).serve())


class _Process:
    def __init__(self, instance: Instance, channel: Channel[wire.ToStream], start: wire.StreamStart) -> None:
        self._instance = instance
        self._channel = channel
        self._start = start
        self._outbox = Outbox(channel)
        self._stats = instance.stats.row(start.stats_row)
        self._replies: OrderedDict[int, wire.Done | wire.Failed | None] = OrderedDict()
        self._grace_s = 0.0
        self._desk: Desk
        self._told: asyncio.Event

    async def serve(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._unhandled)
        self._told = asyncio.Event()
        self._desk = Desk(self._instance, self._start, self._channel.send, self._outbox.post)
        self._beat()
        await self._desk.resume()
        loop.add_reader(self._channel.fileno(), self._read_channel)
        loop.add_reader(self._instance.lifeline_fd, self._end, LIFELINE_S)
        self._read_channel()
        await self._told.wait()
        loop.remove_reader(self._channel.fileno())
        loop.remove_reader(self._instance.lifeline_fd)
        try:
            async with asyncio.timeout(self._grace_s):
                await self._desk.close()
        except TimeoutError:
            pass  # what hangs ends with the process
        self._channel.flush()

    def _unhandled(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """The outermost frame of everything the loop runs: one bad session must not end all."""
        error = context.get("exception")
        if isinstance(error, WireError):
            self._end(LIFELINE_S)
            return
        where = "".join(traceback.format_exception(error)[-3:]) if error else ""
        fields: LogFields = {"error": repr(error), "what": str(context.get("message")), "where": where}
        self._channel.send(wire.LogLine(level="error", event="unhandled error in stream", fields=fields))

    def _end(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._told.set()

    def _beat(self) -> None:
        self._stats["heartbeat_ns"] = monotonic_ns()
        self._stats["messages_dropped"] = self._channel.dropped
        try:
            flushed = self._channel.flush()
        except ChannelClosed:
            self._end(LIFELINE_S)
        else:
            self._desk.settle(flushed=flushed)
        asyncio.get_running_loop().call_later(HEARTBEAT_S, self._beat)

    def _read_channel(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while (received := self._channel.receive_with_descriptors()) is not None:
                loop.call_soon(self._received, *received)  # each by itself: one that fails takes no other along
        except ChannelClosed:
            # Neither control nor the zygote is left: so is the master's end near, and nobody can be told anything.
            self._end(LIFELINE_S)

    def _received(self, message: wire.ToStream, descriptors: list[int]) -> None:
        match message:
            case wire.Acknowledge():
                self._outbox.acknowledge(message.number)
            case wire.Leave():
                self._end(LEAVE_S)
            case wire.Hello():
                self._send_inventory()
                self._channel.send(wire.Done(command_id=message.command_id))
                self._outbox.repeat()
            case _:
                self._command(message, descriptors)

    def _command(self, command: wire.Command, descriptors: list[int]) -> None:
        command_id = command.command_id
        if command_id in self._replies:
            for descriptor in descriptors:
                os.close(descriptor)
            earlier = self._replies[command_id]
            if earlier is not _PENDING:
                self._channel.send(earlier)
            return
        self._replies[command_id] = _PENDING
        while len(self._replies) > MEMORY:
            self._replies.popitem(last=False)
        self._desk.execute(command, descriptors, self._reply)

    def _reply(self, reply: wire.Done | wire.Failed) -> None:
        self._replies[reply.command_id] = reply
        self._channel.send(reply)

    def _send_inventory(self) -> None:
        ids = self._desk.ids()
        for start in range(0, len(ids), PART_IDS):
            self._channel.send(wire.StreamInventoryPart(session_ids=tuple(ids[start : start + PART_IDS])))
        self._channel.send(wire.StreamInventoryPart(last=True))
