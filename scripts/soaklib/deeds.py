"""What is done to calls that are up: moved, muted, deafened, held, sent digits.

Runs in: scripts/soak.
Rules:
 1. A deed is one request and its outcome in the model; when the reply is lost the leg is read instead.
"""

import random
import time
from contextlib import suppress

from soaklib.asking import Asking, Lost
from soaklib.model import Call, Model, Room


class Deeds:
    def __init__(self, model: Model, asking: Asking, chance: random.Random) -> None:
        self.model, self.asking, self.chance = model, asking, chance

    async def _do(self, call: Call, method: str, path: str, body: object = None, **wished: object) -> None:
        began_s = time.monotonic()
        expect = {200, 202} | ({400, 404, 409} if self.model.died_since(began_s - 4) else set())
        with suppress(Lost):
            reply = await self.asking.ask(method, path, body, expect=expect)
            if reply.status not in (200, 202):
                wished = {}
        await self.asking.settle(call, began_s, **wished)

    async def move(self, call: Call, room: Room) -> None:
        if room is call.room or call.held or room.is_over:
            return
        self.model.count("moved" if call.room else "added")
        with call.taken(), room.taken():
            await self._do(call, "POST", f"{room.path}/legs", {"leg_id": call.leg_id}, room_id=room.id)

    async def remove(self, call: Call) -> None:
        if call.room is None:
            return
        self.model.count("removed")
        with call.taken():
            await self._do(call, "DELETE", f"{call.room.path}/legs/{call.leg_id}", room_id=None)

    async def mute(self, call: Call) -> None:
        self.model.count("mute")
        with call.taken():
            await self._do(call, "DELETE" if call.muted else "POST", f"{call.path}/mute", muted=not call.muted)

    async def deafen(self, call: Call) -> None:
        self.model.count("deaf")
        with call.taken():
            await self._do(call, "DELETE" if call.deaf else "POST", f"{call.path}/deaf", deaf=not call.deaf)

    async def hold(self, call: Call) -> None:
        self.model.count("hold")
        with call.taken():
            await self._do(call, "DELETE" if call.held else "POST", f"{call.path}/hold", held=not call.held)

    async def digits(self, call: Call) -> None:
        """To the phone by request, or from it: they go to the others of its room."""
        digits = "".join(self.chance.choices("0123456789*#", k=3))
        self.model.count("digits")
        with call.taken():
            if self.chance.random() < 0.5 and not call.held:
                await call.call.media.dtmf(digits)
            else:
                with suppress(Lost):
                    await self.asking.ask("POST", f"{call.path}/dtmf", {"digits": digits}, expect={200, 409})
