"""One room: the facts that must survive control, who is in it, and the worker that mixes it.

Runs in: control.
Owns: the fields of a room and how the API shows them (contract rooms.md section A1).

Rules
1. `legs` is in join order and says with `guests` who is in the mix; `worker` is None exactly while nobody is or is coming.
2. A hidden room is one leg's own, while it is in no room and something plays to it or listens to it. The API knows it not.
"""

import asyncio
from typing import Any

import msgspec

from app.legs.leg import Leg
from app.supervisor import Worker
from shm.messages import AddParticipant, OpenRoom, Row

NO_PHASE = -1


class RoomFacts(msgspec.Struct, omit_defaults=True, kw_only=True):
    id: str
    rate_hz: int
    app_id: str = ""
    phase: int = NO_PHASE  # of its latest mixing; kept while its worker may still be the same
    hides_leg_id: str = ""  # a hidden room's only leg
    is_over: bool = False  # but `room.deleted` waits for a recording to be finished


class Guest(msgspec.Struct, frozen=True):
    """A participant that is no leg: an agent, or a room-WebSocket client (`is_client`)."""

    id: str
    row: Row
    is_client: bool = False
    is_deaf: bool = False


class Room:
    __slots__ = (
        "__weakref__",
        "arrivals",
        "facts",
        "guests",
        "is_deleted",
        "last_worker",
        "legs",
        "opened",
        "opening",
        "worker",
    )

    def __init__(self, facts: RoomFacts) -> None:
        self.facts = facts
        self.legs: dict[str, Leg] = {}
        self.guests: dict[str, Guest] = {}
        self.arrivals = 0  # participants on their way in
        self.worker: Worker | None = None
        self.last_worker: Worker | None = None
        self.opening: asyncio.Task[Worker] | None = None
        self.opened: asyncio.Task[Any] | None = None  # the answer to OpenRoom
        self.is_deleted = False

    @property
    def is_hidden(self) -> bool:
        return bool(self.facts.hides_leg_id)

    @property
    def size(self) -> int:
        return len(self.legs) + len(self.guests)

    @property
    def is_occupied(self) -> bool:
        """Rooms.md L3."""
        return bool(self.legs) or any(guest.is_client for guest in self.guests.values())

    def view(self) -> dict[str, Any]:
        """The room object of the API."""
        facts = self.facts
        shown: dict[str, Any] = {
            "id": facts.id,
            "participants": [leg.view() for leg in self.legs.values()],
            "sample_rate": facts.rate_hz,
        }
        if facts.app_id:
            shown["app_id"] = facts.app_id
        return shown

    def opening_command(self) -> OpenRoom:
        return OpenRoom(room_id=self.facts.id, rate_hz=self.facts.rate_hz, phase=self.facts.phase)

    def entry(self, leg: Leg, row: Row, *, muted: bool, deaf: bool, at_tick: int = 0) -> AddParticipant:
        return AddParticipant(
            room_id=self.facts.id, leg_id=leg.facts.id, row=row, muted=muted, deaf=deaf, at_tick=at_tick
        )

    def guest_entry(self, guest: Guest) -> AddParticipant:
        return AddParticipant(
            room_id=self.facts.id, leg_id=guest.id, row=guest.row, deaf=guest.is_deaf, has_track=guest.is_client
        )

    def entries(self) -> list[AddParticipant]:
        """Everybody in the mix, for a worker that knows nobody."""
        legs = [
            self.entry(leg, leg.facts.path.row, muted=leg.facts.muted, deaf=leg.facts.deaf)
            for leg in self.legs.values()
            if leg.facts.path is not None
        ]
        return legs + [self.guest_entry(guest) for guest in self.guests.values()]
