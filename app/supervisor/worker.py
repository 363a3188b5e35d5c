"""One worker process as control sees it: a name that outlives the process behind it.

Runs in: control.
Owns: the channel to the present process, and the commands not yet answered.

Rules
1. A command that was not answered when its process died is sent again to the successor, after everything the successor has
   to know; commands are idempotent. Signalling is the exception: what was ringing is over, so only hang-ups are repeated.
2. Events are acknowledged once their consequences are with the ledger and the bus, that is when the handler has returned.
3. A process found alive by a new control says `Hello` first; whatever it sent before its inventory is stale and ignored.
4. Descriptors that go with a command are duplicated here until it is answered; those that come with an event are the
   handler's to close.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import structlog

from shm import messages
from shm.channel import Channel, ChannelClosed
from shm.clock import monotonic_ns
from shm.errors import CallerError, PeerError, ResourceError, RoomtoneError
from shm.messages import Acknowledge, Command, Done, Event, Failed, LogLine

CALL_TIMEOUT_S = 10.0
INCOMING: dict[str, Any] = {
    "sip": messages.FromSip,
    "rtp": messages.FromRtp,
    "room": messages.FromRoom,
    "stream": messages.FromStream,
}
INVENTORY = (
    messages.SipInventoryPart,
    messages.RtpInventoryPart,
    messages.RoomInventoryPart,
    messages.StreamInventoryPart,
)
SENDERS_OF_DESCRIPTORS = ("room", "stream")  # the others' messages are read many at once
BLAME: dict[str, type[RoomtoneError]] = {"caller": CallerError, "peer": PeerError, "resource": ResourceError}

_log = structlog.get_logger()


@dataclass
class _Unanswered:
    command: Command
    answer: asyncio.Future[Done]
    descriptors: tuple[int, ...] = ()


class Order(NamedTuple):
    """A command to a fresh process, with what travels along."""

    command: Command
    descriptors: tuple[int, ...] = ()


class Worker:
    """`kind` "sip" | "rtp" | "room" | "stream"; `index` counts rtp and stream workers; `stats_row` is its row for good."""

    def __init__(self, name: str, kind: str, stats_row: int, start: msgspec.Struct, index: int = 0) -> None:
        self.name = name
        self.kind = kind
        self.index = index
        self.stats_row = stats_row
        self.start = start
        self.pid = 0  # 0 = no process behind the name
        self.gone = asyncio.Event()
        self.attached_at_ns = 0
        self.deaths_ns: list[int] = []
        self.wanted = True
        self._pid_fd = -1
        self._channel: Channel[Any] | None = None
        self._unanswered: dict[int, _Unanswered] = {}
        self._inventory: list[Any] | None = None
        self.lent: dict[int, list[int]] = {}  # what came with the inventory, by place in it
        self._inventory_done: asyncio.Future[list[Any]] | None = None
        self._acknowledge_number = 0
        self._is_ready = False
        self._ids = command_ids()
        self.on_event: Callable[[Worker, Any, Sequence[int]], None] = lambda _worker, _event, _descriptors: None
        self.on_death: Callable[[Worker], None] = lambda _worker: None

    # ------------------------------------------------------------------------------------------ commands

    async def call(self, command: Command, timeout_s: float = CALL_TIMEOUT_S, descriptors: Sequence[int] = ()) -> Done:
        """Send and wait for the answer. Raises CallerError, PeerError, ResourceError as the worker blames.

        Waits across a restart of the process, `timeout_s` at most.
        """
        future = self._send(command, descriptors)
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            raise ResourceError(f"{self.name} does not answer") from None

    def tell(self, command: Command, descriptors: Sequence[int] = ()) -> None:
        """Send without waiting; a failure is logged."""
        self._send(command, descriptors).add_done_callback(self._log_failure)

    def _send(self, command: Command, descriptors: Sequence[int] = ()) -> asyncio.Future[Done]:
        numbered = msgspec.structs.replace(command, command_id=next(self._ids))
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Done] = loop.create_future()
        own = tuple(os.dup(descriptor) for descriptor in descriptors)
        self._unanswered[numbered.command_id] = _Unanswered(numbered, future, own)
        future.add_done_callback(lambda _: self._answered(numbered.command_id))
        if self._is_ready:
            self._write(numbered, own)
        return future

    def _answered(self, command_id: int) -> None:
        entry = self._unanswered.pop(command_id, None)
        if entry is not None:
            _close(entry.descriptors)

    def _log_failure(self, future: asyncio.Future[Done]) -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            _log.warning("command failed", worker=self.name, error=str(error))

    def _write(self, message: msgspec.Struct, descriptors: tuple[int, ...] = ()) -> None:
        if self._channel is not None:
            with contextlib.suppress(
                ChannelClosed
            ):  # its death arrives by pidfd; the successor gets what is unanswered
                self._channel.send(message, descriptors)

    # ------------------------------------------------------------------------------------------ life

    def attach(self, channel_end: Any, pid_fd: int, pid: int) -> None:
        """A process stands behind the name now. It is not ready for commands until `introduce` or `meet`."""
        loop = asyncio.get_running_loop()
        self.pid, self._pid_fd = pid, pid_fd
        self.gone.clear()
        self._channel = Channel(channel_end, INCOMING[self.kind], loop)
        self.attached_at_ns = monotonic_ns()
        loop.add_reader(self._channel.fileno(), self._read)
        loop.add_reader(pid_fd, self._on_exit)

    def introduce(self, replay: Iterable[Command | Order]) -> None:
        """A fresh process: tell it all it must know, then what is still unanswered."""
        waiting = list(self._unanswered.values())
        self._is_ready = True
        for one in replay:
            self.tell(*(one if isinstance(one, Order) else Order(one)))
        for entry in waiting:
            self._write(entry.command, entry.descriptors)

    async def meet(self) -> list[Any]:
        """A process that was there before us: its inventory, what came with it in `lent`. Raises ResourceError after 10 s."""
        self._inventory, self.lent = [], {}
        self._inventory_done = asyncio.get_running_loop().create_future()
        self._write(messages.Hello(command_id=next(self._ids)))
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                parts = await self._inventory_done
        except TimeoutError:
            raise ResourceError(f"{self.name} does not tell what it has") from None
        self._is_ready = True
        for entry in list(self._unanswered.values()):
            self._write(entry.command, entry.descriptors)
        return parts

    def kill(self) -> None:
        if self._pid_fd >= 0:
            with contextlib.suppress(ProcessLookupError):  # gone already: _on_exit follows
                signal.pidfd_send_signal(self._pid_fd, signal.SIGKILL)

    def leave(self) -> None:
        """Tell it to end; it will not be restarted."""
        self.wanted = False
        self._write(messages.Leave())

    def descriptors(self) -> tuple[int, int] | None:
        """(channel, pidfd) of the living process, for a new zygote."""
        return (self._channel.fileno(), self._pid_fd) if self._channel is not None else None

    def fail_unanswered(self, keep: tuple[type[Command], ...]) -> None:
        """Give up on everything but the kinds in `keep`: their world ended with the process."""
        for entry in list(self._unanswered.values()):
            if not isinstance(entry.command, keep) and not entry.answer.done():
                entry.answer.set_exception(ResourceError(f"{self.name} was restarted"))

    def _on_exit(self) -> None:
        self._read()  # what it said before it died still counts
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._pid_fd)
        os.close(self._pid_fd)
        if self._channel is not None:
            self._channel.close()
        self._channel, self._pid_fd, self._is_ready, self._acknowledge_number = None, -1, False, 0
        self.pid = 0
        self.gone.set()
        self.deaths_ns = [*self.deaths_ns[-9:], monotonic_ns()]
        self.on_death(self)

    # ------------------------------------------------------------------------------------------ what it says

    def _read(self) -> None:
        if self._channel is None:
            return
        try:
            if self.kind in SENDERS_OF_DESCRIPTORS:
                while self._channel is not None and (one := self._channel.receive_with_descriptors()) is not None:
                    self._take(*one)
                return
            received = self._channel.receive()
        except ChannelClosed:
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            return
        for message in received:
            self._take(message, ())

    def _take(self, message: Any, descriptors: Sequence[int]) -> None:
        if isinstance(message, INVENTORY):
            if self._inventory is not None and self._inventory_done is not None:
                if descriptors:
                    self.lent[len(self._inventory)] = list(descriptors)
                self._inventory.append(message)
                if message.last:
                    self._inventory_done.set_result(self._inventory)
                    self._inventory = None
            else:
                _close(descriptors)
            return
        if isinstance(message, LogLine):
            _log.log(_LEVELS[message.level], message.event, worker=self.name, **message.fields)
            return
        if self._inventory is not None:
            _close(descriptors)
            return  # meant for the control process before us
        match message:
            case Done():
                entry = self._unanswered.get(message.command_id)
                if entry is not None and not entry.answer.done():
                    entry.answer.set_result(message)
            case Failed():
                entry = self._unanswered.get(message.command_id)
                if entry is not None and not entry.answer.done():
                    entry.answer.set_exception(BLAME[message.blame](message.error))
            case Event():
                self.on_event(self, message, descriptors)
                if message.number:
                    self._acknowledge(message.number)

    def _acknowledge(self, number: int) -> None:
        """Once per turn of the event loop, however many events came."""
        if not self._acknowledge_number:
            asyncio.get_running_loop().call_soon(self._send_acknowledgement)
        self._acknowledge_number = number

    def _send_acknowledgement(self) -> None:
        if self._acknowledge_number:
            self._write(Acknowledge(number=self._acknowledge_number))
            self._acknowledge_number = 0


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def command_ids() -> Any:
    """Ids that no earlier control process has used: a random base, then counting."""
    number = int.from_bytes(os.urandom(5)) << 20
    while True:
        number += 1
        yield number
