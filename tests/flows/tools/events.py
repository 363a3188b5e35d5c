"""The event WebSocket `/v1/vsi` as a client: events in order, commands with their results."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any, Self

import aiohttp

from tests.flows.tools.history import History

Event = dict[str, Any]


class Vsi:
    """Rule: from `__aenter__` on no event is missed; `frames` keeps every frame, `events` those that are events."""

    def __init__(self, base: str, *, app_id: str = "") -> None:
        self._url = base.replace("http", "ws", 1) + "/v1/vsi"
        self._app_id = app_id
        self._numbers = itertools.count(1)
        self.frames: History[Event] = History("VSI frames", _show)
        self.events: History[Event] = History("events", _show)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession()
        params = {"app_id": self._app_id} if self._app_id else None
        self.socket = await self._session.ws_connect(self._url, params=params)
        self._reader = asyncio.ensure_future(self._read())
        await self.frames.first(lambda f: f["type"] == "connected", named="connected")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.socket.close()
        await self._reader
        await self._session.close()

    async def _read(self) -> None:
        async for frame in self.socket:
            event = json.loads(frame.data)
            self.frames.add(event)
            if event["type"] == "ping":
                await self.socket.send_json({"type": "pong"})
            elif "event_id" in event:
                self.events.add(event)

    async def wait(self, kind: str, *, within_s: float = 5.0, after: int = 0, **fields: Any) -> Event:
        """The first event of this type with these fields."""
        return await self.events.first(
            lambda e: _matches(e, kind, fields), within_s=within_s, after=after, named=f"{kind} {fields}"
        )

    def of(self, **fields: Any) -> list[str]:
        """The types of all events with these fields, in order."""
        return [e["type"] for e in self.events if all(e.get(k) == v for k, v in fields.items())]

    def all(self, kind: str, **fields: Any) -> list[Event]:
        return self.events.matching(lambda e: _matches(e, kind, fields))

    async def command(self, kind: str, *, within_s: float = 5.0, **payload: Any) -> Event:
        """Send a command and return its reply frame (`….result` or `error`)."""
        request_id = f"vsi-{next(self._numbers)}"
        await self.socket.send_json({"type": kind, "request_id": request_id, "payload": payload})
        return await self.frames.first(
            lambda f: f.get("request_id") == request_id, within_s=within_s, named=f"reply to {kind}"
        )


def _matches(event: Event, kind: str, fields: dict[str, Any]) -> bool:
    return event["type"] == kind and all(event.get(k) == v for k, v in fields.items())


def _show(event: Event) -> str:
    return json.dumps({k: v for k, v in event.items() if k not in ("event_id", "instance_id", "timestamp")})
