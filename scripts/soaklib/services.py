"""What runs in rooms and on legs: playback, speech, recording, an agent, WebSocket clients.

Runs in: scripts/soak.
Rules:
 1. Each start that was answered 200 is noted in `model.started`: endings.py wants exactly one end for it.
 2. 409 is an answer too: nobody is in the room, or the service runs already.
"""

import random
import time
from contextlib import suppress
from typing import Any

from websockets.exceptions import WebSocketException

from soaklib.asking import CALM_S, Asking, Lost
from soaklib.model import Model, Room, Service, Venue
from tests.flows.tools.room_client import RoomClient
from tests.flows.tools.server import Server

TONES = ("ringback", "busy", "de_dial", "fr_busy")
CLIENT_HZ = 350.0
WORDS = ("Please hold the line.", "Nobody is left behind.", "One two three.")


class Services:
    def __init__(
        self, model: Model, asking: Asking, server: Server, chance: random.Random, *, file_url: str, bot_url: str
    ) -> None:
        self.model, self.asking, self.server, self.chance = model, asking, server, chance
        self.file_url, self.bot_url = file_url, bot_url

    async def _start(self, venue: Venue, what: str, body: dict[str, Any]) -> dict[str, Any] | None:
        self.model.count(what)
        try:
            reply = await self.asking.ask("POST", f"{venue.path}/{what}", body, expect={200, 404, 409})
        except Lost:
            self.model.lost_starts[what] = self.model.lost_starts.get(what, 0) + 1
            return None
        return dict(reply.json) if reply.status == 200 else None

    # --- playback and speech ----------------------------------------------------------------------------------

    async def play(self, venue: Venue) -> None:
        """A tone, or a file once, twice or without end."""
        tone = {"tone": self.chance.choice(TONES)}
        file = {"url": self.file_url, "repeat": self.chance.choice((0, 2, -1))}
        await self.play_this(venue, self.chance.choice((tone, file)))

    async def play_this(self, venue: Venue, source: dict[str, Any]) -> None:
        began = await self._start(venue, "play", {**source, "volume": self.chance.randint(-6, 0)})
        if began is not None:
            self._note(venue, began["playback_id"], is_tone="tone" in source)

    async def speak(self, venue: Venue) -> None:
        venue.noisy_s = time.monotonic()
        body = {"provider": "local", "voice": "en", "text": self.chance.choice(WORDS)}
        began = await self._start(venue, "tts", body)
        if began is not None:
            self._note(venue, began["tts_id"])

    def _note(self, venue: Venue, id_: str, *, is_tone: bool = False) -> None:
        self.model.started[id_] = venue.path
        venue.services.append(Service(id_, is_tone))

    async def louder(self, venue: Venue) -> None:
        if venue.services:
            self.model.count("volume")
            chosen = self.chance.choice(venue.services)
            body = {"volume": self.chance.randint(-8, 0)}
            with suppress(Lost):
                await self.asking.ask("PATCH", f"{venue.path}/play/{chosen.id}", body, expect={200, 404})

    async def silence(self, venue: Venue) -> None:
        if venue.services:
            self.model.count("stop")
            chosen = venue.services.pop(self.chance.randrange(len(venue.services)))
            venue.noisy_s = time.monotonic() if chosen.is_tone else venue.noisy_s
            with suppress(Lost):
                await self.asking.ask("DELETE", f"{venue.path}/play/{chosen.id}", expect={200, 404})

    # --- recording --------------------------------------------------------------------------------------------

    async def record(self, venue: Venue) -> None:
        """Start, pause, resume or stop, whichever fits."""
        if not venue.records:
            body = {"multi_channel": self.chance.random() < 0.5} if isinstance(venue, Room) else {}
            began = await self._start(venue, "record", body)
            if began is not None:
                self.model.started[began["file"]] = venue.path
                venue.records = True
            return
        what = self.chance.choice(("pause", "resume", "stop"))
        self.model.count(f"record {what}")
        with suppress(Lost):
            if what == "stop":
                venue.records = False
                await self.asking.ask("DELETE", f"{venue.path}/record", expect={200, 404})
            else:
                reply = await self.asking.ask("POST", f"{venue.path}/record/{what}", expect={200, 404})
                venue.records = reply.status != 404

    # --- agents and clients -----------------------------------------------------------------------------------

    async def agent(self, venue: Venue) -> None:
        if venue.has_agent:
            venue.has_agent = False
            with suppress(Lost):
                await self.asking.ask("DELETE", f"{venue.path}/agent", expect={200, 404})
        elif await self._start(venue, "agent/pipecat", {"websocket_url": self.bot_url}) is not None:
            venue.has_agent = True
            self.model.agents_started += 1

    async def client(self, room: Room) -> None:
        """One more, or one less."""
        began_s = time.monotonic()
        if room.clients and self.chance.random() < 0.5:
            client = room.clients.pop()
            if client.socket.close_code not in (None, 1012) and not self.model.died_since(began_s - 60, "stream"):
                self.model.fault(f"a client of {room.id} was closed with {client.socket.close_code}")
            await client.__aexit__()
            return
        self.model.count("client")
        client = RoomClient(self.server.base, room.id, tone_hz=CLIENT_HZ)
        try:
            await client.__aenter__()
        except (OSError, TimeoutError, WebSocketException, KeyError) as failure:
            if not self.model.died_since(began_s - CALM_S) and not room.is_over:
                self.model.fault(f"a client could not enter {room.id}: {failure!r}")
            return
        room.clients.append(client)
