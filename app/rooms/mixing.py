"""Room workers as rooms use them: opened for the first leg, released after the last.

Runs in: control.
Owns: the phase of each room and how many participants each phase has.

Rules
1. A room takes the emptiest of its worker's phases when that starts, and keeps it while the worker lives.
2. `OpenRoom` is sent before anybody's entry but not waited for separately: both answers come in one tick.

Not here: which process mixes a room, and how long an idle one is kept -> `app/supervisor/`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakValueDictionary

from app.rooms.room import NO_PHASE, Room
from app.supervisor import Supervisor, Worker
from shm.clock import PHASES
from shm.errors import CallerError
from shm.messages import CloseRoom


async def confirmed(*calls: Awaitable[Any]) -> None:
    """Wait for all; then raise the first failure, if any. None is left running unobserved."""
    if len(calls) == 1:
        await calls[0]
        return
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


class Mixing:
    def __init__(
        self, supervisor: Supervisor, save: Callable[[Room], None], is_finishing: Callable[[str], bool]
    ) -> None:
        """`is_finishing`: whether a recording still ends in the worker of the room of that id."""
        self._is_finishing = is_finishing
        self._supervisor = supervisor
        self._save = save
        self._latest: WeakValueDictionary[str, Room] = WeakValueDictionary()
        self.loads = [0] * PHASES  # rooms being mixed and their participants, by phase

    async def open(self, room: Room) -> Worker:
        """The worker that mixes this room. Raises ResourceError; CallerError when the room is gone meanwhile."""
        if room.worker is not None:
            return room.worker
        if room.opening is None:
            self._latest[room.facts.id] = room
            room.opening = asyncio.ensure_future(self._open(room))
        return await asyncio.shield(room.opening)

    async def _open(self, room: Room) -> Worker:
        try:
            worker = await self._supervisor.room_worker(room.facts.id, shared=room.is_hidden)
            if room.is_deleted and self._latest.get(room.facts.id) is room:  # and no new one of this name asked for it
                self._give_back(room)
            self._check(room)
            if not room.size and (worker is not room.last_worker or room.facts.phase == NO_PHASE):
                room.facts.phase = min(self._supervisor.phases_of(worker), key=self.loads.__getitem__)
                self._save(room)
            opened = asyncio.ensure_future(worker.call(room.opening_command()))
            await asyncio.sleep(0)  # it is sent now: whoever finds a worker at the room sends an entry at once
            self._check(room)
            self.adopt(room, worker)
            room.opened = opened
        finally:
            room.opening = None
        return worker

    @staticmethod
    def _check(room: Room) -> None:
        if room.is_deleted:
            raise CallerError("room was deleted")

    def adopt(self, room: Room, worker: Worker) -> None:
        """`worker` mixes the room from now on."""
        if room.worker is None:
            self.loads[room.facts.phase] += 1 + room.size
        room.worker = room.last_worker = worker

    async def opened(self, room: Room) -> None:
        """Wait for the answer to OpenRoom, if it is not in yet."""
        if room.opened is not None:
            await asyncio.shield(room.opened)

    def count(self, room: Room, change: int) -> None:
        """A participant came (1) or went (-1)."""
        if room.worker is not None:
            self.loads[room.facts.phase] += change

    def release_if_idle(self, room: Room) -> None:
        is_idle = not room.size and not room.arrivals
        if is_idle and room.worker is not None and not self._is_finishing(room.facts.id):
            self._let_go(room)
            self._supervisor.release_room(room.facts.id)

    def close(self, room: Room) -> None:
        """The room is deleted; call it while its legs still count."""
        worker = room.worker
        self._let_go(room)
        if worker is not None and self._is_finishing(room.facts.id):
            worker.tell(CloseRoom(room_id=room.facts.id))
        self._give_back(room)

    def _give_back(self, room: Room) -> None:
        """The worker of a deleted room; where a recording still ends there, be it of an earlier room of this id, it is given back
        once that is done."""
        if not self._is_finishing(room.facts.id):
            self._supervisor.release_room(room.facts.id, at_once=True)

    def _let_go(self, room: Room) -> None:
        if room.worker is not None:
            self.loads[room.facts.phase] -= 1 + room.size
        room.worker = room.opened = None
