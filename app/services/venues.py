"""Venues: the room or the leg that a service belongs to, and the room in whose mix it takes place.

Runs in: control.
Owns: how both are found, judged and spoken of in events.

Rules
1. A service of a leg takes place in the room the leg is in; in none, in a hidden room of the leg's own (`Rooms.hidden`).
2. What begins or moves a service of a leg holds the leg's lock (`entered`), so that it cannot move in between.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from app.legs.leg import Leg
from app.rooms.conference import Conference
from app.rooms.room import Room
from app.supervisor import Worker
from shm.errors import CallerError, ResourceError


class Venue(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of both ids, as in the API."""

    room_id: str = ""
    leg_id: str = ""


class Venues:
    def __init__(self, conference: Conference) -> None:
        self.legs = conference.legs
        self.rooms = conference.rooms
        self.membership = conference.membership
        self.ledger = conference.legs.ledger
        self.config = conference.legs.config
        self.supervisor = conference.legs.supervisor
        self.spawn = conference.legs.spawn

    # ---------------------------------------------------------------------------------------- judged

    def app_id(self, venue: Venue) -> str:
        """Of the room or leg, which must exist. Raises CallerError 404."""
        if venue.leg_id:
            return self.legs.get(venue.leg_id).facts.app_id
        room = self.rooms.find(venue.room_id)
        if room is None:
            raise CallerError("room not found", 404)
        return room.facts.app_id

    def check_audible(self, venue: Venue) -> None:
        """Somebody is there to hear it. Raises CallerError 404, 409."""
        self.app_id(venue)
        if venue.leg_id:
            facts = self.legs.get(venue.leg_id).facts
            if facts.path is None or facts.state not in ("connected", "held", "early_media"):
                raise CallerError(f"leg has no audio path: it is {facts.state}", 409)
        elif not self.rooms.existing(venue.room_id).is_occupied:
            raise CallerError("no participants", 409)

    def check_connected(self, leg: Leg) -> None:
        """A held leg is not (legs.md section 3). Raises CallerError 409."""
        if leg.facts.state != "connected" or leg.facts.path is None:
            raise CallerError(f"leg is {leg.facts.state}", 409)

    def rate_hz(self, venue: Venue) -> int:
        """Of the mix it takes or would take place in."""
        if venue.leg_id:
            leg = self.legs.get(venue.leg_id)
            room = self.rooms.of(leg)
            return room.facts.rate_hz if room is not None else self.legs.paths.idle_rate_hz(leg)
        room = self.rooms.find(venue.room_id)
        return room.facts.rate_hz if room is not None else self.config.default_sample_rate

    # ---------------------------------------------------------------------------------------- entered

    @asynccontextmanager
    async def entered(self, venue: Venue) -> AsyncIterator[tuple[Room, Worker]]:
        """The room it takes place in, with the worker that mixes it. Raises CallerError, ResourceError."""
        if not venue.leg_id:
            room = self.rooms.existing(venue.room_id)
            yield room, await self.rooms.mixing.open(room)
            return
        leg = self.legs.get(venue.leg_id)
        async with leg.lock:
            if leg.is_over:
                raise CallerError("leg not found", 404)
            room = await self.membership.mixed_room(leg)
            if room.worker is None:
                raise ResourceError("the leg's room is not mixed")
            yield room, room.worker

    def worker_of(self, room_id: str) -> Worker | None:
        """Of a room as workers know it; the last one, where the room is empty by now."""
        room = self.rooms.mixed(room_id)
        return (room.worker or room.last_worker) if room is not None else None

    def settle(self, venue: Venue) -> None:
        """A service of it has ended: a leg may not need its hidden room any more."""
        leg = self.legs.find(venue.leg_id) if venue.leg_id else None
        if leg is not None and leg.facts.is_mixed_alone:
            self.spawn(self.membership.leave_hidden(leg))

    # ---------------------------------------------------------------------------------------- told

    def publish(self, venue: Venue, app_id: str, event_type: str, **fields: Any) -> None:
        self.legs.bus.publish(event_type, leg_id=venue.leg_id, room_id=venue.room_id, app_id=app_id, **fields)
