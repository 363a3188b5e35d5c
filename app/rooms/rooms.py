"""All rooms, and the requests about rooms as such: create, list, get, delete.

Runs in: control.
Owns: the registry of rooms.

Rules
1. A room exists from its creation to its deletion; being empty ends nothing but its worker.
2. Deleting happens at once and in the order of contract rooms.md A5; the legs' BYEs go out behind it.

Not here: coming and going of legs -> `membership.py`.
"""

import uuid
from typing import Any

from app.legs.legs import Legs
from app.rooms.mixing import Mixing
from app.rooms.requests import CreateRoom, check_new_room
from app.rooms.room import Room, RoomFacts
from shm.errors import CallerError


class Rooms:
    def __init__(self, legs: Legs) -> None:
        self.legs = legs
        self.mixing = Mixing(legs.supervisor, self.save)
        self._rooms: dict[str, Room] = {}

    def __len__(self) -> int:
        return len(self._rooms)

    def find(self, room_id: str) -> Room | None:
        return self._rooms.get(room_id)

    def all(self) -> list[Room]:
        return list(self._rooms.values())

    def save(self, room: Room) -> None:
        if not room.is_deleted:
            self.legs.ledger.put("room", room.facts.id, room.facts)

    # ---------------------------------------------------------------------------------------- requests

    async def create(self, *, request: CreateRoom) -> dict[str, Any]:
        check_new_room(request)
        room_id = request.id or str(uuid.uuid4())
        if room_id in self._rooms:
            raise CallerError("room already exists", 409)
        if request.webhook_url:
            self.legs.webhooks.register_room(room_id, request.webhook_url, request.webhook_secret)
        return self.make(room_id, request.app_id, request.sample_rate).view()

    async def list(self) -> list[dict[str, Any]]:
        return [room.view() for room in self._rooms.values()]

    async def get(self, *, room_id: str) -> dict[str, Any]:
        return self._get(room_id).view()

    async def delete(self, *, room_id: str) -> dict[str, Any]:
        self.remove(self._get(room_id), "room_deleted")
        return {"status": "deleted"}

    def _get(self, room_id: str) -> Room:
        room = self._rooms.get(room_id)
        if room is None:
            raise CallerError("room not found", 404)
        return room

    # ---------------------------------------------------------------------------------------- what they do

    def make(self, room_id: str, app_id: str, rate_hz: int = 0) -> Room:
        room = Room(RoomFacts(id=room_id, rate_hz=rate_hz or self.legs.config.default_sample_rate, app_id=app_id))
        self._rooms[room_id] = room
        self.save(room)
        self.legs.bus.publish("room.created", room_id=room_id, app_id=app_id)
        return room

    def provide(self, room_id: str, app_id: str) -> Room:
        """The room of that id, made if there is none."""
        return self._rooms.get(room_id) or self.make(room_id, app_id)

    def remove(self, room: Room, reason: str) -> None:
        """The room and the calls in it end."""
        facts, legs = room.facts, list(room.legs.values())
        del self._rooms[facts.id]
        self.mixing.close(room)
        room.is_deleted = True
        room.legs = {}
        for leg in legs:
            self.legs.dismiss(leg)
            self.legs.fall_silent(leg)
            leg.facts.room_id = ""  # no leg.left_room from a deleted room
        self.legs.bus.publish("room.deleted", room_id=facts.id, app_id=facts.app_id)
        for leg in legs:
            self.legs.end(leg, reason)
        self.legs.webhooks.unregister_room(facts.id)
        self.legs.ledger.drop("room", facts.id)

    def load(self) -> None:
        """What the predecessor's ledger knows; after the legs."""
        for room_id, facts in self.legs.ledger.load("room", RoomFacts).items():
            self._rooms[room_id] = Room(facts)
        for leg in sorted(self.legs, key=lambda leg: leg.facts.joined_ns):
            room = self._rooms.get(leg.facts.room_id)
            if room is not None:
                room.legs[leg.facts.id] = leg
                leg.phase = room.facts.phase
            else:
                leg.facts.room_id = ""
