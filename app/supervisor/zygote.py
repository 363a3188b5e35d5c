"""Control's talk with the zygote: spawning, finding what is alive, adopting.

Runs in: control.
Owns: the spawns not yet answered.

Rules
1. A new zygote announces itself (`ZygoteStarted`): it gets all living workers, and every unanswered spawn once more.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from app.supervisor.worker import Worker, command_ids
from shm.channel import Channel
from shm.errors import ResourceError
from shm.messages import Adopt, Done, Failed, FromZygote, ListWorkers, Spawn, Spawned, ZygoteStarted

SPAWN_TIMEOUT_S = 5.0


@dataclass
class Found:
    """A living worker as the zygote hands it over."""

    name: str
    kind: str
    pid: int
    start: bytes
    channel_end: socket.socket
    pid_fd: int


def adoption(worker: Worker) -> Adopt:
    return Adopt(name=worker.name, kind=worker.kind, pid=worker.pid, start=msgspec.msgpack.encode(worker.start))


class ZygoteLink:
    def __init__(self, end: socket.socket, living: Callable[[], Iterable[Worker]]) -> None:
        self._living = living
        self._ids = command_ids()
        self._spawns: dict[int, tuple[Spawn, asyncio.Future[Found]]] = {}
        self._listing: tuple[int, list[Found], asyncio.Future[list[Found]]] | None = None
        self._loop = asyncio.get_running_loop()
        self._channel: Channel[FromZygote] = Channel(end, FromZygote, self._loop)
        self._loop.add_reader(self._channel.fileno(), self._read)

    async def spawn(self, name: str, kind: str, start: bytes) -> Found:
        """Raises ResourceError when the machine has no process left, or no zygote answers within 5 s."""
        command = Spawn(command_id=next(self._ids), name=name, kind=kind, start=start)  # type: ignore[arg-type]
        future: asyncio.Future[Found] = self._loop.create_future()
        self._spawns[command.command_id] = (command, future)
        self._channel.send(command)
        try:
            async with asyncio.timeout(SPAWN_TIMEOUT_S):
                return await future
        except TimeoutError:
            raise ResourceError("the zygote does not answer") from None
        finally:
            self._spawns.pop(command.command_id, None)

    async def list_workers(self) -> list[Found]:
        command = ListWorkers(command_id=next(self._ids))
        future: asyncio.Future[list[Found]] = self._loop.create_future()
        self._listing = (command.command_id, [], future)
        self._channel.send(command)
        async with asyncio.timeout(SPAWN_TIMEOUT_S):
            return await future

    def close(self) -> None:
        self._channel.close()

    def _read(self) -> None:
        while (received := self._channel.receive_with_descriptors()) is not None:
            message, descriptors = received
            match message:
                case Spawned():
                    self._on_spawned(message, descriptors)
                case ZygoteStarted():
                    self._on_new_zygote()
                case Failed():
                    if message.command_id in self._spawns:
                        self._spawns[message.command_id][1].set_exception(ResourceError(message.error))
                case Done():
                    if self._listing is not None and self._listing[0] == message.command_id:
                        self._listing[2].set_result(self._listing[1])
                        self._listing = None

    def _on_spawned(self, message: Spawned, descriptors: list[int]) -> None:
        waiting = self._spawns.get(message.command_id)
        listed = self._listing is not None and self._listing[0] == message.command_id
        if (waiting is None or waiting[1].done()) and not listed:
            for descriptor in descriptors:  # asked for by a control process before us; a listing names it again
                os.close(descriptor)
            return
        channel_fd, pid_fd = descriptors
        found = Found(message.name, message.kind, message.pid, message.start, socket.socket(fileno=channel_fd), pid_fd)
        if waiting is not None:
            waiting[1].set_result(found)
        elif self._listing is not None:
            self._listing[1].append(found)

    def _on_new_zygote(self) -> None:
        for worker in self._living():
            descriptors = worker.descriptors()
            if descriptors is not None:
                self._channel.send(adoption(worker), descriptors)
        for command, _future in self._spawns.values():
            self._channel.send(command)
