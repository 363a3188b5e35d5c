"""The REST API as a plain client sees it: one call, one reply with its status and JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote

import aiohttp
from yarl import URL


@dataclass(frozen=True)
class Reply:
    status: int
    json: Any
    headers: dict[str, str]
    text: str

    def __getitem__(self, key: str) -> Any:
        return self.json[key]


class Rest:
    def __init__(self, base: str) -> None:
        self.base = base

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def call(
        self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, expect: int | None = None
    ) -> Reply:
        """`body` is sent as JSON, `raw` as it is; `path` is below /v1 unless it is /metrics."""
        url = self.base + (path if path == "/metrics" else f"/v1{path}")
        options = {"data": raw} if raw is not None else {"json": body} if body is not None else {}
        async with self._session.request(method, URL(url, encoded=True), **options) as response:
            text = await response.text()
            json = await response.json(content_type=None) if "json" in response.content_type else None
            reply = Reply(response.status, json, dict(response.headers), text)
        if expect is not None:
            assert reply.status == expect, f"{method} {path}: {reply.status} instead of {expect}: {text}"
        return reply

    async def get(self, path: str, *, expect: int = 200) -> Reply:
        return await self.call("GET", path, expect=expect)

    async def post(self, path: str, body: Any = None, *, expect: int | None = 200) -> Reply:
        return await self.call("POST", path, body, expect=expect)

    async def delete(self, path: str, body: Any = None, *, expect: int | None = 200) -> Reply:
        return await self.call("DELETE", path, body, expect=expect)

    # the words of the house

    async def room(self, room_id: str, **fields: Any) -> Reply:
        return await self.post("/rooms", {"id": room_id, **fields}, expect=201)

    async def join(self, room_id: str, leg_id: str, **fields: Any) -> Reply:
        return await self.post(f"/rooms/{quote(room_id, safe='')}/legs", {"leg_id": leg_id, **fields})

    async def dial(self, to: str, **fields: Any) -> str:
        """The id of a new outbound SIP leg."""
        return (await self.post("/legs", {"type": "sip", "to": to, **fields}, expect=201))["id"]

    async def leg(self, leg_id: str) -> dict[str, Any]:
        return (await self.get(f"/legs/{leg_id}")).json

    async def everything(self) -> tuple[Any, Any]:
        """All rooms and legs: compare two of them to show that a refused request changed nothing."""
        return (await self.get("/rooms")).json, (await self.get("/legs")).json
