"""A webhook receiver that checks signatures and can fail or stall.

Owns an HTTP server on a free loopback port. Every attempt is kept, refused ones too.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from dataclasses import dataclass
from typing import Any, Self

from aiohttp import web

from tests.flows.tools.history import History


@dataclass(frozen=True)
class Delivery:
    """One attempt: what arrived, when, and what we answered. `signed` is None without a signature header."""

    path: str
    body: bytes
    headers: dict[str, str]
    arrived_s: float
    status: int
    signed: bool | None

    @property
    def event(self) -> dict[str, Any]:
        return json.loads(self.body)


class WebhookSink:
    def __init__(self, *, secret: str = "", fail_first: int = 0, fail_status: int = 500, delay_s: float = 0.0) -> None:
        self.secret, self.fail_first, self.fail_status, self.delay_s = secret, fail_first, fail_status, delay_s
        self.deliveries: History[Delivery] = History(
            "webhook deliveries", lambda d: f"{d.path} {d.event['type']} → {d.status}"
        )

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._receive)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def url(self, path: str = "hook") -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    async def _receive(self, request: web.Request) -> web.Response:
        body = await request.read()
        arrived_s = time.monotonic()
        given = request.headers.get("X-Signature-256")
        right = "sha256=" + hmac.new(self.secret.encode(), body, hashlib.sha256).hexdigest()
        status = self.fail_status if self.fail_first > 0 else 200
        self.fail_first -= 1
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        signed = None if given is None else hmac.compare_digest(given, right)
        self.deliveries.add(Delivery(request.path, body, dict(request.headers), arrived_s, status, signed))
        return web.Response(status=status)

    async def wait(self, kind: str, *, within_s: float = 5.0, accepted: bool = True, **fields: Any) -> Delivery:
        """The first delivery (by default: accepted delivery) of an event of this type with these fields."""
        return await self.deliveries.first(
            lambda d: (
                d.event["type"] == kind
                and all(d.event.get(k) == v for k, v in fields.items())
                and (d.status == 200 or not accepted)
            ),
            within_s=within_s,
            named=f"webhook {kind} {fields}",
        )

    def types(self, path: str | None = None) -> list[str]:
        """The accepted events' types in order of arrival."""
        return [d.event["type"] for d in self.deliveries if d.status == 200 and path in (None, d.path.strip("/"))]
