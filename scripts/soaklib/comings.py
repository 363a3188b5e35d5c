"""Calls and rooms that come and go.

Runs in: scripts/soak.
Rules:
 1. A call counts as up from the moment its phone knows it answered and acknowledged; from then on only a hang-up ends it.
 2. Each leg carries its call's name (app_id, or a header of the INVITE), so that it is found although a reply was lost.
"""

import asyncio
import random
import time
from contextlib import suppress
from typing import Any

from soaklib.asking import Asking, Lost
from soaklib.model import Call, Model, Room
from tests.flows.tools.phone import Phone
from tests.flows.tools.server import Server

HEADER = "X-Soak"
UP_WITHIN_S = 10.0
GONE_WITHIN_S = 12.0
RATES_HZ = (8000, 16000, 16000, 48000)
CODECS = ("PCMU", "PCMA")


class Comings:
    def __init__(self, model: Model, asking: Asking, server: Server, chance: random.Random) -> None:
        self.model, self.asking, self.server, self.chance = model, asking, server, chance

    # --- calls ------------------------------------------------------------------------------------------------

    async def call(self) -> None:
        """A new call, from a phone or to one, into a room or into none."""
        tone_hz = self.model.free_tone_hz()
        if tone_hz is None:
            return
        name = self.model.name("call")
        phone = Phone(name, tone_hz=tone_hz, codecs=(self.chance.choice(CODECS),), answering=True)
        await phone.__aenter__()
        call = Call(path="", name=name, tone_hz=tone_hz, phone=phone)
        self.model.calls.append(call)
        began_s = time.monotonic()
        with call.taken():
            room = self.chance.choice([*self.model.rooms, None]) if self.model.rooms else None
            room = None if room is None or room.is_over else room
            come = self._dialled if self.chance.random() < 0.5 else self._calling
            try:
                await come(call, room)
            except (AssertionError, Lost) as failure:
                if not self.model.died_since(began_s - 1) and not (room is not None and room.is_over):
                    self.model.fault(f"{name} did not come up: {failure}")
            await self._decide(call, room, began_s)

    async def _dialled(self, call: Call, room: Room | None) -> None:
        body: dict[str, Any] = {
            "type": "sip",
            "to": call.phone.uri,
            "app_id": call.name,
            "codecs": [*call.phone.codecs],
        }
        self.model.count("dialled")
        with suppress(Lost):
            call.leg_id = (
                await self.asking.ask("POST", "/legs", body | ({"room_id": room.id} if room else {}), expect={201})
            ).json.get("id", "")
        call.call = await call.phone.called(within_s=UP_WITHIN_S)
        await call.call.answered(within_s=UP_WITHIN_S)

    async def _calling(self, call: Call, room: Room | None) -> None:
        self.model.count("called in")
        call.call = await call.phone.dial(self.server.uri(), headers=[(HEADER, call.name)])
        leg = await self._find(call, within_s=UP_WITHIN_S)
        if leg is None:
            raise AssertionError("no leg was seen")
        call.leg_id = leg["id"]
        with suppress(Lost):
            if room is None:
                await self.asking.ask("POST", f"/legs/{call.leg_id}/answer", expect={202, 404, 409})
            else:
                await self.asking.ask("POST", f"{room.path}/legs", {"leg_id": call.leg_id}, expect={200, 400})
        await call.call.answered(within_s=UP_WITHIN_S)

    async def _find(self, call: Call, *, within_s: float) -> dict[str, Any] | None:
        deadline_s = time.monotonic() + within_s
        while time.monotonic() < deadline_s:
            for leg in (await self.asking.read("/legs")).json:
                if call.name in (leg.get("app_id"), leg.get("headers", {}).get(HEADER)):
                    return dict(leg)
            if call.call is not None and call.call.has_ended:
                return None
            await asyncio.sleep(0.1)
        return None

    async def _decide(self, call: Call, room: Room | None, began_s: float) -> None:
        """Is it up or not, for the phone and for the server?"""
        is_live = call.call is not None and not call.call.has_ended and await self._is_answered(call)
        if not is_live:
            call.is_over = True
            if call.leg_id:
                with suppress(Lost):
                    await self.asking.ask("DELETE", f"/legs/{call.leg_id}", expect={202, 404})
            await self.forget(call)
            return
        leg = await self._find(call, within_s=UP_WITHIN_S)
        if leg is None:
            if not call.call.has_ended and not (room is not None and room.is_over):
                self.model.fault(f"{call.name}: a call that is up has no leg")
            call.is_over = True
            await self.forget(call)
            return
        call.leg_id, call.path = leg["id"], f"/legs/{leg['id']}"
        call.is_up = True
        await self.asking.settle(call, began_s, state="connected", room_id=room.id if room else None)

    @staticmethod
    async def _is_answered(call: Call) -> bool:
        with suppress(AssertionError):
            await call.call.answered(within_s=0.5)
            return True
        return False

    async def hang_up(self, call: Call) -> None:
        """By the phone or by request; then its leg is gone."""
        with call.taken():
            call.is_over = True
            began_s = time.monotonic()
            if self.chance.random() < 0.5:
                self.model.count("phone hung up")
                with suppress(AssertionError):  # sip may have died; the server sees the call's end all the same
                    final = await call.call.hang_up(within_s=GONE_WITHIN_S)
                    if final.status not in (200, 481):
                        self.model.fault(f"{call.name}: BYE was answered {final}")
            else:
                self.model.count("hung up by request")
                await self._end_leg(call, began_s)
            await self._until_gone(call, began_s)
            await self.forget(call)

    async def _end_leg(self, call: Call, began_s: float) -> None:
        while True:
            try:
                await self.asking.ask("DELETE", call.path, expect={202, 404})
                break
            except Lost:
                await asyncio.sleep(0.1)
        try:
            await call.call.ended(within_s=GONE_WITHIN_S)
        except AssertionError as failure:
            if not self.model.died_since(began_s - 1, "sip", "control"):
                self.model.fault(str(failure))
            else:
                self.model.fault(f"{failure} (its leg was ended while something died)")

    async def _until_gone(self, call: Call, began_s: float) -> None:
        deadline_s = began_s + GONE_WITHIN_S + 3
        while await self.asking.leg(call) is not None:
            if time.monotonic() > deadline_s:
                self.model.fault(f"{call.name}: its leg {call.leg_id} is still there after the hang-up")
                return
            await asyncio.sleep(0.1)

    async def forget(self, call: Call) -> None:
        await call.phone.__aexit__()
        self.model.calls.remove(call)

    # --- rooms ------------------------------------------------------------------------------------------------

    async def make_room(self) -> None:
        room_id = self.model.name("room")
        room = Room(path=f"/rooms/{room_id}", id=room_id)
        body = {"id": room_id, "sample_rate": self.chance.choice(RATES_HZ)}
        self.model.count("room made")
        with room.taken():
            try:
                await self.asking.ask("POST", "/rooms", body, expect={201})
            except Lost:
                if (await self.asking.read(room.path)).status == 404:
                    return
            self.model.rooms.append(room)

    async def delete_room(self, room: Room) -> None:
        """All calls in it end with it."""
        calls = self.model.members(room)
        if any(call.is_taken for call in self.model.calls):  # one of them may be on its way into it
            return
        self.model.count("room deleted")
        began_s = time.monotonic()
        with room.taken():
            room.is_over = True
            for call in calls:
                call.is_over = call.is_taken = True
            while True:
                try:
                    await self.asking.ask("DELETE", room.path, expect={200, 404})
                    break
                except Lost:
                    await asyncio.sleep(0.1)
            for call in calls:
                try:
                    await call.call.ended(within_s=GONE_WITHIN_S)
                except AssertionError as failure:
                    self.model.fault(f"{failure}, after its room was deleted")
                await self._until_gone(call, began_s)
                await self.forget(call)
            for client in list(room.clients):
                room.clients.remove(client)
                await client.__aexit__()
            self.model.rooms.remove(room)
