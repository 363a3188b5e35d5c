"""Legs coming into rooms, moving between them and leaving.

Runs in: control.
Owns: `room.legs` and the room in a leg's facts.

Rules
1. Whoever brings or takes a leg holds its lock; a leg's end takes none and happens at once.
2. A leg counts as in a room once rtp and the room's worker have both confirmed. Until then nothing has happened: whatever
   fails or goes away meanwhile (leg, room, worker) is undone and the caller told.
3. Where two rooms are concerned the change holds from the same tick in every process.

Not here: what a room worker does -> `workers/room/`; rows -> `app/legs/paths.py`.
"""

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any

from msgspec import UNSET

from app.legs.answering import Answering
from app.legs.leg import Leg
from app.legs.legs import log
from app.legs.requests import check_room_id
from app.rooms.mixing import confirmed
from app.rooms.requests import AddLeg, check_streams
from app.rooms.room import Guest, Room
from app.rooms.rooms import Rooms
from shm.clock import tick_now
from shm.errors import CallerError, ResourceError, RoomtoneError
from shm.messages import RemoveParticipant, Row, SetParticipant

MOVE_TICKS = 3  # from the command to the tick it names
ANSWER_WAIT_S = 5.0  # how long a request waits for an auto-answered call
ANSWER_LIMIT_S = 30.0


class Membership:
    """Implements `app.legs.legs.Rooming`."""

    def __init__(self, rooms: Rooms, answering: Answering) -> None:
        self._rooms = rooms
        self._mixing = rooms.mixing
        self._legs = rooms.legs
        self._answering = answering

    # ---------------------------------------------------------------------------------------- requests

    async def add(self, *, room_id: str, request: AddLeg) -> dict[str, Any]:
        if not request.leg_id:
            raise CallerError("leg_id is required")
        leg = self._find(request.leg_id)
        if leg.joined is not None:  # one after the other
            await asyncio.wait({leg.joined}, timeout=ANSWER_WAIT_S)
        async with leg.lock:
            self._check(leg, room_id, request)
            was_in = leg.facts.room_id
            room = self._rooms.provide(room_id, leg.facts.app_id)
            if was_in or not _is_ringing_inbound(leg):
                await self._bring(leg, room, request)
                return {"status": "moved", "from": was_in, "to": room_id} if was_in else {"status": "added"}
            self._apply(leg, request)
            joined = self._wish(leg, room_id)
        return await self._wait_for(leg, joined)

    async def remove(self, *, room_id: str, leg_id: str) -> dict[str, Any]:
        room = self._rooms.find(room_id)
        if room is None:
            raise CallerError("room not found")
        leg = self._find(leg_id)
        async with leg.lock:
            if leg.is_over or leg.facts.room_id != room_id or room.is_deleted:
                raise CallerError("leg is not in this room")
            await self._take_out(leg, room)
        return {"status": "removed"}

    def _find(self, leg_id: str) -> Leg:
        leg = self._legs.find(leg_id)
        if leg is None:
            raise CallerError("leg not found")
        return leg

    def _check(self, leg: Leg, room_id: str, request: AddLeg) -> None:
        """Steps 2 to 5 of rooms.md A6."""
        facts = leg.facts
        if leg.is_over:
            raise CallerError("leg not found")
        if facts.room_id == room_id:
            raise CallerError("leg is already in this room")
        if not facts.room_id and facts.state not in ("connected", "early_media") and not _is_ringing_inbound(leg):
            raise CallerError(f"leg is {facts.state}")
        if leg.joined is not None and not leg.joined.done():
            raise CallerError("leg is still on its way into a room", 409)
        check_streams(request.streams)
        check_room_id(room_id)

    # ---------------------------------------------------------------------------------------- auto-answer

    def _wish(self, leg: Leg, room_id: str) -> asyncio.Future[None]:
        """Answer the leg, if nobody has, and join it as soon as it is connected."""
        leg.facts.wished_room_id = room_id
        leg.joined = asyncio.get_running_loop().create_future()
        if leg.facts.is_answered:
            self._legs.save(leg)
        else:
            self._answering.order(leg)
        return leg.joined

    async def _wait_for(self, leg: Leg, joined: asyncio.Future[None]) -> dict[str, Any]:
        await asyncio.wait({joined}, timeout=ANSWER_WAIT_S)
        leg.joined = None
        if not joined.done():
            loop = asyncio.get_running_loop()
            loop.call_later(ANSWER_LIMIT_S - ANSWER_WAIT_S, self._give_up, leg, leg.facts.wished_room_id)
            return {"status": "adding"}
        joined.result()
        return {"status": "added"}

    def _give_up(self, leg: Leg, room_id: str) -> None:
        if not leg.is_over and leg.facts.wished_room_id == room_id:
            leg.facts.wished_room_id = ""
            self._legs.save(leg)
            self._legs.command_failed(leg, "add_to_room", f"not connected within {ANSWER_LIMIT_S:.0f} s")

    # ---------------------------------------------------------------------------------------- what legs ask of rooms

    def provide(self, room_id: str, app_id: str) -> None:
        self._rooms.provide(room_id, app_id)

    def seat(self, room_id: str) -> tuple[int, int | None]:
        room = self._rooms.find(room_id)
        if room is None:
            return self._legs.config.default_sample_rate, None
        return room.facts.rate_hz, room.facts.phase if room.worker is not None else None

    async def join_wished(self, leg: Leg) -> None:
        """The leg is connected or has early media: fulfil its wish, or tell why not."""
        async with leg.lock:
            room_id, leg.facts.wished_room_id = leg.facts.wished_room_id, ""
            if leg.is_over or not room_id:
                return
            try:
                room = self._rooms.find(room_id)
                if room is None:
                    raise CallerError("room was deleted")
                await self._bring(leg, room, AddLeg())
            except RoomtoneError as error:
                self._legs.save(leg)
                if leg.joined is not None and not leg.joined.done():
                    leg.joined.set_exception(CallerError(str(error), 500))
                else:
                    self._legs.command_failed(leg, "add_to_room", error)
            else:
                if leg.joined is not None and not leg.joined.done():
                    leg.joined.set_result(None)

    async def refresh(self, leg: Leg) -> None:
        """Tell the mix that `muted` or `deaf` has changed."""
        facts = leg.facts
        room = self._rooms.of(leg)
        if room is None or room.worker is None or leg.is_over:
            return
        await room.worker.call(
            SetParticipant(
                room_id=room.facts.id,
                leg_id=facts.id,
                muted=facts.muted,
                deaf=facts.deaf,
            )
        )

    def leave(self, leg: Leg) -> Awaitable[object] | None:
        """The leg ends: its services, then out of its room at once."""
        ending = self._rooms.services.leg_ends(leg)
        room = self._rooms.of(leg)
        if room is not None:
            if room.worker is not None:
                room.worker.tell(self._exit(room, leg))
            self._gone(leg, room)
            self._rooms.services.moved(leg, room, None)
            self._mixing.release_if_idle(room)
        self._rooms.drop_hidden(leg)
        return ending

    def relocated(self, leg: Leg) -> None:
        """A service that listens to a leg in no room has to follow it from row to row, too."""
        self._rooms.services.moved(leg, None, None)

    def neighbours(self, leg: Leg) -> Iterable[Leg]:
        room = self._rooms.find(leg.facts.room_id)
        return [other for other in room.legs.values() if other is not leg] if room is not None else ()

    # ---------------------------------------------------------------------------------------- in

    async def _bring(self, leg: Leg, room: Room, request: AddLeg) -> None:
        """Into `room`, out of the one it is in. Raises CallerError, ResourceError; then all is as it was."""
        paths = self._legs.paths
        old = self._rooms.of(leg)
        room.arrivals += 1
        try:
            worker = await self._mixing.open(room)
            self._still_wanted(leg, room)
            if leg.facts.path is None:
                raise ResourceError("the leg has no audio path")
            own_row, own_phase = leg.facts.path.row, leg.phase
            row, phase = paths.row_at(leg, room.facts.rate_hz), room.facts.phase
            at_tick = tick_now() + MOVE_TICKS if old is not None else 0
            muted = leg.facts.muted if request.mute is None else request.mute
            deaf = leg.facts.deaf if request.deaf is None else request.deaf
            calls: list[Awaitable[Any]] = [worker.call(room.entry(leg, row, muted=muted, deaf=deaf, at_tick=at_tick))]
            if paths.needs_move(leg, row, phase):
                calls.append(paths.move(leg, row, phase, at_tick))
            if old is not None and old.worker is not None:
                calls.append(old.worker.call(self._exit(old, leg, at_tick)))
            if room.opened is not None and not room.opened.done():
                calls.append(self._mixing.opened(room))
            leg.moved_at_tick = at_tick
            try:
                await confirmed(*calls)
                self._still_wanted(leg, room)
            except BaseException:
                self._undo(leg, room, old, own_row, own_phase)
                paths.drop(row)
                raise
            paths.settle(leg, row, phase)
            self._came(leg, room, old, request)
        finally:
            room.arrivals -= 1
            self._mixing.release_if_idle(room)

    @staticmethod
    def _still_wanted(leg: Leg, room: Room) -> None:
        """Leg and room may have ended while others were waited for."""
        if leg.is_over:
            raise CallerError("leg not found")
        if room.is_deleted:
            raise CallerError("room was deleted")

    def _undo(self, leg: Leg, room: Room, old: Room | None, row: Row, phase: int | None) -> None:
        """Back to the old room, or to none: the same changes the other way, from the same tick on."""
        if room.worker is not None:
            room.worker.tell(self._exit(room, leg))
        if leg.is_over:
            return
        if old is not None and old.worker is not None:
            facts = leg.facts
            old.worker.tell(old.entry(leg, row, muted=facts.muted, deaf=facts.deaf, at_tick=leg.moved_at_tick))
        self._legs.paths.move_back(leg, row, phase, leg.moved_at_tick)

    def _came(self, leg: Leg, room: Room, old: Room | None, request: AddLeg) -> None:
        if old is not None:
            self._gone(leg, old)
        self._apply(leg, request)
        leg.facts.room_id = "" if room.is_hidden else room.facts.id
        leg.facts.is_mixed_alone = room.is_hidden
        leg.facts.joined_ns = self._legs.clock()
        room.legs[leg.facts.id] = leg
        self._mixing.count(room, 1)
        self._legs.save(leg)
        if not room.is_hidden:
            self._legs.publish(leg, "leg.joined_room", with_room=True)
        self._rooms.services.moved(leg, old, room)
        if old is not None:
            self._mixing.release_if_idle(old)

    def _apply(self, leg: Leg, request: AddLeg) -> None:
        """What the request says about the leg itself. No events for these (rooms.md A6)."""
        facts = leg.facts
        if request.mute is not None:
            facts.muted = request.mute
        if request.deaf is not None:
            facts.deaf = request.deaf
        if request.accept_dtmf is not None:
            facts.accept_dtmf = request.accept_dtmf
        if request.role is not UNSET:
            facts.role = request.role
        self._legs.follow_speech(leg)

    # ---------------------------------------------------------------------------------------- services of a leg in no room

    async def mixed_room(self, leg: Leg) -> Room:
        """The room whose mix the leg is in; a hidden one is made where it is in none. The caller holds the leg's lock."""
        room = self._rooms.of(leg)
        if room is None:
            room = self._rooms.hidden(leg)
            await self._bring(leg, room, AddLeg())
        return room

    async def leave_hidden(self, leg: Leg) -> None:
        """Where no service of the leg needs it any more."""
        async with leg.lock:
            room = self._rooms.of(leg)
            if room is not None and room.is_hidden and not leg.is_over and not self._rooms.services.needs_mix(leg):
                try:
                    await self._take_out(leg, room)
                except RoomtoneError as error:  # it serves as well there
                    log.info("hidden room kept", leg_id=leg.facts.id, error=str(error))

    # ---------------------------------------------------------------------------------------- guests

    async def admit(self, room: Room, guest: Guest) -> None:
        """Into the mix. Raises ResourceError; CallerError when the room is gone meanwhile."""
        room.arrivals += 1
        try:
            worker = await self._mixing.open(room)
            await worker.call(room.guest_entry(guest))
            if room.is_deleted:
                raise CallerError("room was deleted")
            room.guests[guest.id] = guest
            self._mixing.count(room, 1)
            self._rooms.services.guest_came(room, guest)
        finally:
            room.arrivals -= 1
            self._mixing.release_if_idle(room)

    def dismiss(self, room: Room, guest_id: str) -> None:
        """Out of the mix."""
        guest = room.guests.pop(guest_id, None)
        if guest is None:
            return
        if room.worker is not None:
            room.worker.tell(RemoveParticipant(room_id=room.facts.id, leg_id=guest_id))
        self._mixing.count(room, -1)
        self._rooms.services.guest_left(room, guest)
        self._mixing.release_if_idle(room)

    # ---------------------------------------------------------------------------------------- out

    @staticmethod
    def _exit(room: Room, leg: Leg, at_tick: int = 0) -> RemoveParticipant:
        return RemoveParticipant(room_id=room.facts.id, leg_id=leg.facts.id, at_tick=at_tick)

    async def _take_out(self, leg: Leg, room: Room) -> None:
        """Out of `room` into none, onto a row of the leg's own rate if there is one; where services go on, into a hidden one."""
        paths = self._legs.paths
        if not room.is_hidden and self._rooms.services.needs_mix(leg):
            await self._bring(leg, self._rooms.hidden(leg), AddLeg())
            return
        assert leg.facts.path is not None
        try:
            row = paths.row_at(leg, paths.idle_rate_hz(leg))
        except RoomtoneError:
            row = leg.facts.path.row
        calls: list[Awaitable[Any]] = [paths.relocate(leg, row, None)]
        if room.worker is not None:
            calls.append(room.worker.call(self._exit(room, leg)))
        await confirmed(*calls)
        if leg.is_over:
            raise CallerError("leg not found")
        self._gone(leg, room)
        self._legs.save(leg)
        self._rooms.services.moved(leg, room, None)
        self._mixing.release_if_idle(room)

    def _gone(self, leg: Leg, room: Room) -> None:
        """Out of the books. The caller tells the services and then lets go of an idle room, in this order."""
        if not room.is_hidden:
            self._legs.publish(leg, "leg.left_room", with_room=True)
        leg.facts.room_id, leg.facts.is_mixed_alone = "", False
        del room.legs[leg.facts.id]
        self._mixing.count(room, -1)


def _is_ringing_inbound(leg: Leg) -> bool:
    return leg.facts.type == "sip_inbound" and leg.facts.state == "ringing"
