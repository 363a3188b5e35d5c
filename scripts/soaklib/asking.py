"""Requests to a server whose control process may die under them.

Runs in: scripts/soak.
Rules:
 1. A reply that was lost is told from one that refuses: `Lost`. Whether the request took effect is then unknown.
 2. A status that was not expected is a fault, except 503 while something had just died.
"""

import asyncio
import time
from typing import Any

import aiohttp

from soaklib.model import Call, Model
from tests.flows.tools.rest import Reply, Rest

CALM_S = 4.0  # so long after a death a request may still be told 503
ANSWERS_WITHIN_S = 12.0
SETTLED_WITHIN_S = 8.0


class Lost(Exception):
    """No reply came."""


class Asking:
    def __init__(self, rest: Rest, model: Model) -> None:
        self.rest, self.model = rest, model

    async def ask(self, method: str, path: str, body: Any = None, *, expect: set[int]) -> Reply:
        """One request. Raises Lost."""
        began_s = time.monotonic()
        try:
            reply = await self.rest.call(method, path, body)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if not self.model.died_since(began_s - CALM_S, "control"):
                self.model.fault(f"{method} {path}: {type(error).__name__} {error} although control was alive")
            raise Lost from None
        is_excused = reply.status == 503 or "ended before it could join" in reply.text  # still ringing when sip died
        if reply.status not in expect and not (is_excused and self.model.died_since(began_s - CALM_S)):
            self.model.fault(f"{method} {path} {body}: {reply.status} {reply.text.strip()}")
        return reply

    async def read(self, path: str) -> Reply:
        """A GET, repeated until control answers."""
        began_s = time.monotonic()
        while True:
            try:
                return await self.ask("GET", path, expect={200, 404})
            except Lost:
                if time.monotonic() > began_s + ANSWERS_WITHIN_S:
                    self.model.fault(f"GET {path}: no answer for {ANSWERS_WITHIN_S:g} s")
                    raise
                await asyncio.sleep(0.05)

    async def leg(self, call: Call) -> dict[str, Any] | None:
        """The leg as the server shows it; None when it has none."""
        reply = await self.read(f"/legs/{call.leg_id}")
        return reply.json if reply.status == 200 else None

    async def settle(self, call: Call, began_s: float, **wished: Any) -> None:
        """Wait until the leg is as wished. When something died since `began_s`, as before will do."""
        deadline_s = time.monotonic() + SETTLED_WITHIN_S
        before = {
            "muted": call.muted,
            "deaf": call.deaf,
            "held": call.held,
            "room_id": call.room.id if call.room else None,
        }
        while True:
            leg = await self.leg(call)
            if leg is None:
                if not call.is_over and not call.call.has_ended:
                    self.model.fault(f"{call.name}: its leg {call.leg_id} is unknown although its call is up")
                return
            seen = {name: leg.get("room_id") if name == "room_id" else leg[name] for name in wished}
            if seen == wished:
                break
            if time.monotonic() > deadline_s:
                as_before = all(seen[name] in (wished[name], before.get(name)) for name in wished)
                if not (as_before and self.model.died_since(began_s - CALM_S)):
                    self.model.fault(f"{call.name}: {seen} instead of {wished} after {SETTLED_WITHIN_S:g} s")
                break
            await asyncio.sleep(0.1)
        self.adopt(call, leg)

    def adopt(self, call: Call, leg: dict[str, Any]) -> None:
        call.muted, call.deaf, call.held = leg["muted"], leg["deaf"], leg["held"]
        call.room = next((room for room in self.model.rooms if room.id == leg.get("room_id")), None)
