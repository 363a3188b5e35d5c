"""The server's REST API and event WebSocket as the bench uses them; above all the set-up of calls, timed by events.

Runs in: scripts/bench.
Owns:    one keep-alive HTTP session and one /v1/vsi connection.
Rules:
 1. A call's set-up lasts from just before its POST until `leg.joined_room` was read from the WebSocket.
 2. `concurrency` calls are in set-up at a time, never more; the events wait in a dict, at most one per leg.
 3. Every wait ends: a request and a call after CALL_WITHIN_S, the set-up of all of them after a time for each. Calls that
    were not tried by then count as failures.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from benchlib.server import BenchError

CALL_WITHIN_S = 10
SET_UP_WITHIN_S = 60  # and for each call
SET_UP_WITHIN_S_PER_CALL = 0.2
TOLD_WITHIN_S = 30
TOLD = ("playback.started", "playback.finished", "playback.error", "recording.started", "recording.finished")


@dataclass
class SetUp:
    """What setting up all calls took; failures say which call and why."""

    seconds: float = 0.0
    setup_ms: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    events_dropped: int = 0


class Caller:
    def __init__(self, http: aiohttp.ClientSession, vsi: aiohttp.ClientWebSocketResponse, url: str) -> None:
        self.http, self.vsi, self.url = http, vsi, url
        self.outcomes: dict[str, asyncio.Future[tuple[float, str]]] = {}
        self.told: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)  # events of TOLD by their type
        self.result = SetUp()

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str) -> AsyncIterator["Caller"]:
        """Yields a caller whose subscription to the events is active."""
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=CALL_WITHIN_S)
            ) as http,
            http.ws_connect(f"{url}/v1/vsi", heartbeat=20) as vsi,
        ):
            await vsi.receive_json(timeout=CALL_WITHIN_S)  # {"type":"connected"}
            caller = cls(http, vsi, url)
            listening = asyncio.create_task(caller.listen())
            try:
                yield caller
            finally:
                listening.cancel()

    def outcome(self, leg_id: str) -> asyncio.Future[tuple[float, str]]:
        """When a leg joined or ended, and why it ended; the event may come before the POST's reply."""
        return self.outcomes.setdefault(leg_id, asyncio.get_running_loop().create_future())

    async def listen(self) -> None:
        async for message in self.vsi:
            if message.type != aiohttp.WSMsgType.TEXT:
                continue
            event = message.json()
            kind = event.get("type")
            if kind == "ping":
                await self.vsi.send_json({"type": "pong"})
            elif kind == "events_dropped":
                self.result.events_dropped += event["count"]
            elif kind in ("leg.joined_room", "leg.disconnected"):
                why = "" if kind == "leg.joined_room" else str(event.get("cdr", {}).get("reason", "disconnected"))
                outcome = self.outcome(event["leg_id"])
                if not outcome.done():
                    outcome.set_result((time.monotonic(), why))
            elif kind in TOLD:
                self.told[kind].append(event)

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The reply to one request below /v1. Raises BenchError unless it is a success."""
        try:
            async with self.http.request(method, f"{self.url}/v1/{path}", json=body) as reply:
                said: dict[str, Any] = await reply.json()
        except TimeoutError:
            raise BenchError(f"{method} {path}: no answer within {CALL_WITHIN_S} s") from None
        if not reply.ok:
            raise BenchError(f"{method} {path}: {reply.status} {said.get('error', '')}")
        return said

    async def heard(self, kind: str, count: int) -> list[dict[str, Any]]:
        """So many events of a type of TOLD. Raises BenchError when they do not come, or a playback fails."""
        until = time.monotonic() + TOLD_WITHIN_S
        while len(self.told[kind]) < count:
            if self.told["playback.error"]:
                raise BenchError(f"a playback failed: {self.told['playback.error'][0]['error']}")
            if time.monotonic() > until:
                raise BenchError(f"{len(self.told[kind])} of {count} events {kind} within {TOLD_WITHIN_S} s")
            await asyncio.sleep(0.05)
        return self.told[kind]

    async def call(self, to: str, room_id: str, codec: str) -> None:
        began = time.monotonic()
        body = {"type": "sip", "to": to, "room_id": room_id, "codecs": [codec]}
        why = ""
        try:
            async with self.http.post(f"{self.url}/v1/legs", json=body) as reply:
                leg = await reply.json()
                why = "" if reply.status == 201 else f"{reply.status} {leg.get('error', '')}"
            if not why:
                joined, why = await asyncio.wait_for(self.outcome(leg["id"]), CALL_WITHIN_S)
        except TimeoutError:
            why = f"did not join within {CALL_WITHIN_S} s"
        except aiohttp.ClientError as error:
            why = str(error)
        if why:
            self.result.failures.append(f"{to}: {why}")
        else:
            self.result.setup_ms.append((joined - began) * 1e3)

    async def call_all(
        self, targets: list[tuple[str, str]], codec: str, concurrency: int, on_call: Callable[[int], None]
    ) -> SetUp:
        """Calls each (to, room_id), so many at a time."""
        left = iter(targets)
        began = time.monotonic()
        until = began + SET_UP_WITHIN_S + SET_UP_WITHIN_S_PER_CALL * len(targets)
        done = 0

        async def one_line() -> None:
            nonlocal done
            for to, room_id in left:
                if time.monotonic() > until:
                    self.result.failures.append(f"{to}: not tried, the calls before took too long")
                    continue
                await self.call(to, room_id, codec)
                done += 1
                on_call(done)

        await asyncio.gather(*(one_line() for _ in range(concurrency)))
        self.result.seconds = time.monotonic() - began
        return self.result
