"""All rooms, and the requests about rooms as such: create, list, get, delete.

Runs in: control.
Owns: the registry of rooms.

Rules
1. A room exists from its creation to its deletion; being empty ends nothing but its worker.
2. Deleting happens at once and in the order of contract rooms.md A5; the legs' BYEs go out behind it. Only the last events, of
   the room and of its legs, wait FAREWELL_LIMIT_S at most for its recording to be finished, or until a new room takes the id.

Not here: coming and going of legs -> `membership.py`.
"""

import asyncio
import uuid
from collections.abc import Awaitable
from typing import Any

from app.legs.leg import Leg
from app.legs.legs import Legs
from app.rooms.mixing import Mixing
from app.rooms.requests import CreateRoom, check_new_room
from app.rooms.room import Room, RoomFacts
from app.rooms.services import NoServices, Services
from shm.errors import CallerError, ResourceError

HIDDEN_PREFIX = "leg "
FAREWELL_LIMIT_S = 2.0
FAREWELL_SETTLE_S = 1.0  # what a predecessor waited for comes soon after the workers are met


class Rooms:
    def __init__(self, legs: Legs) -> None:
        self.legs = legs
        self.services: Services = NoServices()
        self.mixing = Mixing(legs.supervisor, self.save, self._is_finishing)
        self._rooms: dict[str, Room] = {}
        self._hidden: dict[str, Room] = {}  # by the id of their leg, whether it is in there or not
        self._parting: dict[str, tuple[RoomFacts, asyncio.Future[None]]] = {}  # over, but for the last event

    def __len__(self) -> int:
        return len(self._rooms)

    def find(self, room_id: str) -> Room | None:
        return self._rooms.get(room_id)

    # ---------------------------------------------------------------------------------------- hidden rooms

    def mixed(self, room_id: str) -> Room | None:
        """The room of that id as room workers know it: hidden ones too."""
        return self._rooms.get(room_id) or self._hidden.get(room_id.removeprefix(HIDDEN_PREFIX))

    def all_mixed(self) -> list[Room]:
        return [*self._rooms.values(), *self._hidden.values()]

    def of(self, leg: Leg) -> Room | None:
        """The room whose mix the leg is in, be it hidden."""
        if leg.facts.is_mixed_alone:
            return self._hidden.get(leg.facts.id)
        return self._rooms.get(leg.facts.room_id)

    def hidden(self, leg: Leg) -> Room:
        """The leg's own room, at the rate of its codec. Raises ResourceError."""
        rate_hz = self.legs.paths.idle_rate_hz(leg)
        room = self._hidden.get(leg.facts.id)
        if room is not None and room.facts.rate_hz != rate_hz and not room.size:
            self.drop_hidden(leg)
            room = None
        if room is None:
            room_id = HIDDEN_PREFIX + leg.facts.id
            if room_id in self._rooms:
                raise ResourceError(f"somebody called a room {room_id}")
            room = Room(RoomFacts(id=room_id, rate_hz=rate_hz, hides_leg_id=leg.facts.id))
            self._hidden[leg.facts.id] = room
            self.save(room)
        return room

    def drop_hidden(self, leg: Leg) -> None:
        """The leg ends, and with it the room that it may have had."""
        room = self._hidden.pop(leg.facts.id, None)
        if room is not None:
            self.mixing.close(room)
            room.is_deleted = True
            self.legs.ledger.drop("room", room.facts.id)

    def _is_finishing(self, room_id: str) -> bool:
        return self.services.is_finishing(room_id)

    def save(self, room: Room) -> None:
        if not room.is_deleted:
            self.legs.ledger.put("room", room.facts.id, room.facts)

    # ---------------------------------------------------------------------------------------- requests

    async def create(self, *, request: CreateRoom) -> dict[str, Any]:
        check_new_room(request)
        room_id = request.id or str(uuid.uuid4())
        if self.mixed(room_id) is not None:
            raise CallerError("room already exists", 409)
        return self.make(room_id, request).view()

    async def list(self) -> list[dict[str, Any]]:
        return [room.view() for room in self._rooms.values()]

    async def get(self, *, room_id: str) -> dict[str, Any]:
        return self.existing(room_id).view()

    async def delete(self, *, room_id: str) -> dict[str, Any]:
        await self.remove(self.existing(room_id), "room_deleted")
        return {"status": "deleted"}

    def existing(self, room_id: str) -> Room:
        """Raises CallerError 404."""
        room = self._rooms.get(room_id)
        if room is None:
            raise CallerError("room not found", 404)
        return room

    # ---------------------------------------------------------------------------------------- what they do

    def make(self, room_id: str, wishes: CreateRoom) -> Room:
        """`wishes.id` does not matter."""
        self.say_farewell(room_id)  # of an earlier room of this id
        webhooks = self.legs.webhooks
        webhooks.unregister_room(room_id)
        if wishes.webhook_url:
            webhooks.register_room(room_id, wishes.webhook_url, wishes.webhook_secret)
        rate_hz = wishes.sample_rate or self.legs.config.default_sample_rate
        room = Room(RoomFacts(id=room_id, rate_hz=rate_hz, app_id=wishes.app_id))
        self._rooms[room_id] = room
        self.save(room)
        self.legs.bus.publish("room.created", room_id=room_id, app_id=wishes.app_id)
        return room

    def provide(self, room_id: str, app_id: str) -> Room:
        """The room of that id, made if there is none."""
        return self._rooms.get(room_id) or self.make(room_id, CreateRoom(app_id=app_id))

    def remove(self, room: Room, reason: str) -> asyncio.Future[None]:
        """The room and the calls in it end; what is returned is done when `room.deleted` is out."""
        facts, legs = room.facts, list(room.legs.values())
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if room.is_hidden:
            for leg in legs:
                self.legs.hang_up(leg, reason)
            told.set_result(None)
            return told
        ending = self.services.room_ends(room)
        legs_ending = [self.services.leg_ends(leg) for leg in legs]  # while their mix is there
        del self._rooms[facts.id]
        self.mixing.close(room)
        facts.is_over = True
        self.save(room)
        room.is_deleted = True
        room.legs = {}
        for leg in legs:
            self.legs.dismiss(leg)
            self.legs.fall_silent(leg)
            leg.facts.room_id = ""  # no leg.left_room from a deleted room
        self._parting[facts.id] = (facts, told)
        if ending is None:
            self.say_farewell(facts.id)
        else:
            self.legs.spawn(self._part(facts.id, ending, told))
        for leg, leg_ending in zip(legs, legs_ending, strict=True):
            self.legs.end(leg, reason, after=[told] if leg_ending is None else [told, leg_ending])
        if ending is None:
            self.legs.webhooks.unregister_room(facts.id)
        return told

    async def _part(self, room_id: str, ending: Awaitable[object], told: asyncio.Future[None]) -> None:
        """A slow upload's event comes late, and still goes to the room's webhook."""
        ended: asyncio.Future[Any] = asyncio.ensure_future(ending)
        await asyncio.wait((ended, told), timeout=FAREWELL_LIMIT_S, return_when=asyncio.FIRST_COMPLETED)
        if not told.done():
            self.say_farewell(room_id)
        await ended
        if room_id not in self._rooms:
            self.legs.webhooks.unregister_room(room_id)

    def say_farewell(self, room_id: str) -> None:
        """`room.deleted`, where it has not been told yet."""
        if room_id in self._parting:
            facts, told = self._parting.pop(room_id)
            self.legs.bus.publish("room.deleted", room_id=room_id, app_id=facts.app_id)
            self.legs.ledger.drop("room", room_id)
            told.set_result(None)

    def say_farewells(self) -> None:
        for room_id in list(self._parting):
            self.say_farewell(room_id)

    def load(self) -> None:
        """What the predecessor's ledger knows; after the legs."""
        for room_id, facts in self.legs.ledger.load("room", RoomFacts).items():
            if facts.hides_leg_id:
                self._hidden[facts.hides_leg_id] = Room(facts)
            elif facts.is_over:
                told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._parting[room_id] = (facts, told)
                self.legs.spawn(self._part(room_id, asyncio.sleep(FAREWELL_SETTLE_S), told))
            else:
                self._rooms[room_id] = Room(facts)
        for leg in sorted(self.legs, key=lambda leg: leg.facts.joined_ns):
            room = self.of(leg)
            if room is not None:
                room.legs[leg.facts.id] = leg
                leg.phase = room.facts.phase
            else:
                leg.facts.room_id, leg.facts.is_mixed_alone = "", False
