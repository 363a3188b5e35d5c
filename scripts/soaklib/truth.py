"""Is what REST says true? Legs, rooms and who is where are compared with the model, again and again.

Runs in: scripts/soak.
Rules:
 1. Compared is what nobody changed while the reading went on: taken, changed or over in between does not count.
 2. An end that nobody wished is found here too: by the phone, at once.
"""

import asyncio
import time

from soaklib.asking import Asking, Lost
from soaklib.model import Model

EVERY_S = 0.5


class Truth:
    def __init__(self, model: Model, asking: Asking) -> None:
        self.model, self.asking = model, asking
        self.compared = 0
        self._suspects: dict[str, int] = {}  # legs of no call, and how often they were seen

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            self._ends()
            began_s = time.monotonic()
            try:
                legs = {leg["id"]: leg for leg in (await self.asking.read("/legs")).json}
                middle_s = time.monotonic()
                rooms = {room["id"]: room for room in (await self.asking.read("/rooms")).json}
            except Lost:
                continue
            self._legs(legs, time.monotonic() - began_s)
            self._rooms(rooms, time.monotonic() - middle_s)

    def _ends(self) -> None:
        for call in self.model.calls:
            if call.is_up and not call.is_over and call.call.has_ended:
                call.is_over = True
                self.model.fault(f"{call.name} ({call.leg_id}) ended and nobody had hung up")

    def _legs(self, legs: dict, age_s: float) -> None:
        for call in self.model.calls:
            if not (call.is_up and call.steady(age_s + 0.05)):
                continue
            self.compared += 1
            leg = legs.get(call.leg_id)
            if leg is None:
                self.model.fault(f"{call.name} is up and /legs lacks {call.leg_id}")
                continue
            wished = {
                "muted": call.muted,
                "deaf": call.deaf,
                "held": call.held,
                "state": "held" if call.held else "connected",
                "room_id": call.room.id if call.room else None,
            }
            seen = {name: leg.get(name) for name in wished}
            if seen != wished:
                wrong = {name: seen[name] for name in wished if seen[name] != wished[name]}
                self.model.fault(f"{call.name}: /legs says {wrong}")
        if not any(call.is_taken for call in self.model.calls):
            for leg_id in legs.keys() - {call.leg_id for call in self.model.calls}:
                self._strange(leg_id)

    def _strange(self, leg_id: str) -> None:
        """A leg of no call; one that has just ended may have been read before."""
        self._suspects[leg_id] = self._suspects.get(leg_id, 0) + 1
        if self._suspects[leg_id] == 10:
            self.model.fault(f"/legs has {leg_id}, which belongs to no call")

    def _rooms(self, rooms: dict, age_s: float) -> None:
        for room in self.model.rooms:
            if not room.steady(age_s + 0.05):
                continue
            if room.id not in rooms:
                self.model.fault(f"/rooms lacks {room.id}")
                continue
            there = {leg["id"] for leg in rooms[room.id]["participants"]}
            for call in self.model.calls:
                if call.is_up and call.steady(age_s + 0.05) and (call.leg_id in there) != (call.room is room):
                    self.model.fault(f"{call.name} is {'' if call.leg_id in there else 'not '}in {room.id} by /rooms")
