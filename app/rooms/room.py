"""One room: the facts that must survive control, who is in it, and the worker that mixes it.

Runs in: control.
Owns: the fields of a room and how the API shows them (contract rooms.md section A1).

Rule: `legs` is in join order and says who is in the mix; `worker` is None exactly while nobody is or is coming.
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


class Room:
    __slots__ = ("__weakref__", "arrivals", "facts", "is_deleted", "last_worker", "legs", "opened", "opening", "worker")

    def __init__(self, facts: RoomFacts) -> None:
        self.facts = facts
        self.legs: dict[str, Leg] = {}
        self.arrivals = 0  # legs on their way in
        self.worker: Worker | None = None
        self.last_worker: Worker | None = None
        self.opening: asyncio.Task[Worker] | None = None
        self.opened: asyncio.Task[Any] | None = None  # the answer to OpenRoom
        self.is_deleted = False

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

    def entries(self) -> list[AddParticipant]:
        """Everybody in the mix, for a worker that knows nobody."""
        return [
            self.entry(leg, leg.facts.path.row, muted=leg.facts.muted, deaf=leg.facts.deaf)
            for leg in self.legs.values()
            if leg.facts.path is not None
        ]
