"""A web server on loopback that playbacks are fetched from: plain files, and every kind of unkindness.

Rules
1. `files[path]` is a body or a handler; anything else is 404. `asked` lists the paths, in order.
2. Handlers of its own end with the client: `gone` counts those whose client hung up.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Self

from aiohttp import web

from tests.flows.tools.history import History

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class FileServer:
    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.files: dict[str, bytes | Handler] = {}
        self.asked: History[str] = History("requests", str)
        self.gone: History[str] = History("clients that hung up", str)

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_get("/{tail:.*}", self._answer)
        self._runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls).start()
        self.port: int = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def url(self, path: str) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}{path}"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.add(request.path)
        found = self.files.get(request.path)
        if found is None:
            return web.Response(status=404)
        return web.Response(body=found) if isinstance(found, bytes) else await found(request)

    # --- handlers ---------------------------------------------------------------------------------------------

    async def endless(self, request: web.Request) -> web.StreamResponse:
        """Chunks without end."""
        return await self._pour(request, bytes(1 << 16), pause_s=0.0)

    async def drip(self, request: web.Request) -> web.StreamResponse:
        """A byte now and then: a slow loris."""
        return await self._pour(request, b"R", pause_s=0.05)

    async def huge(self, request: web.Request) -> web.StreamResponse:
        """Two gigabytes, announced."""
        return await self._pour(request, bytes(1 << 16), pause_s=0.0, headers={"Content-Length": str(2 << 30)})

    async def silent(self, request: web.Request) -> web.StreamResponse:
        """Accepts and says nothing."""
        try:
            return await asyncio.Event().wait()  # type: ignore[return-value]  # never
        finally:
            self.gone.add(request.path)

    async def _pour(
        self, request: web.Request, piece: bytes, *, pause_s: float, headers: dict[str, str] | None = None
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers=headers)
        try:
            await response.prepare(request)
            while True:
                await response.write(piece)
                await asyncio.sleep(pause_s)
        finally:
            self.gone.add(request.path)


def page(text: str, content_type: str = "text/html", **headers: str) -> Handler:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(text=text, content_type=content_type, headers=headers)

    return answer


def redirect(to: str) -> Handler:
    async def answer(_request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(to)

    return answer
