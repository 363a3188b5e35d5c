"""What the fakes of speech vendors have in common: how they are served, told to fail, and asked what they saw.

A test in the same loop uses `async with ElevenLabsTts() as fake` and its attributes. A test of the real server starts
`python -m tests.vendors.elevenlabs_tts [PORT]`, reads the URL from its first line and uses the same by HTTP:

    POST /_fake  {"outcomes": [429, "cut"], "audio_ms": 2000, …}   sets attributes; the next requests take one outcome each
    GET  /_fake  {"requests": […], "abandoned": 1}

Outcomes: a status (the vendor's own error body), or
    reset         the connection breaks before any answer         stall          no answer ever
    cut           it breaks in mid-sentence                       stall_midway   half a sentence, then nothing ever
    html          200 with a web page                             garbage        200 with bytes that mean nothing
    empty         200 with no audio                               endless        audio without end
    redirect      307 to another path
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import Any, ClassVar

import numpy as np
from aiohttp import web

RATE_HZ = 16_000
SETTABLE = {"key", "tone_hz", "audio_ms", "outcomes"}


def sine(tone_hz: float, audio_ms: int, rate_hz: int = RATE_HZ) -> bytes:
    """s16le mono at half scale."""
    samples = np.arange(audio_ms * rate_hz // 1000)
    return np.rint(16384 * np.sin(2 * np.pi * tone_hz * samples / rate_hz)).astype("<i2").tobytes()


class SpeechFake:
    """A vendor answers POSTs with the sine of `tone_hz`, `audio_ms` long, in chunks, unless told otherwise."""

    content_type = "audio/pcm"
    path: ClassVar[str]
    chunk_bytes = 1001  # odd: samples are torn between chunks, as they are on the real wire

    def __init__(self, key: str = "good-key", *, tone_hz: float = 440.0, audio_ms: int = 400) -> None:
        self.key = key
        self.tone_hz = tone_hz
        self.audio_ms = audio_ms
        self.outcomes: deque[int | str] = deque()
        self.requests: list[dict[str, Any]] = []
        self.was_asked = asyncio.Event()
        self.abandoned = 0  # how many replies the client did not hear to their end
        self.was_abandoned = asyncio.Event()
        self.may_go_on = asyncio.Event()  # cleared by a test that wants to hear the beginning before the end exists
        self.may_go_on.set()

    # What a vendor fills in

    def refusal(self, request: web.Request, body: Any) -> web.Response | None:
        """The vendor's answer to a request that it would not take."""
        raise NotImplementedError

    def error(self, status: int) -> web.Response:
        """The vendor's words for a status asked for by a test."""
        raise NotImplementedError

    def payload(self) -> bytes:
        return sine(self.tone_hz, self.audio_ms)

    def add_routes(self, app: web.Application) -> None:
        app.router.add_post(self.path, self.speak)

    # The same for all

    async def speak(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        try:
            body = await request.json()
        except ValueError:
            body = None
        seen = {"path": request.path, "query": dict(request.query), "headers": dict(request.headers), "body": body}
        self.requests.append({**seen, "raw": raw.decode("utf-8", "replace")})
        self.was_asked.set()
        if refused := self.refusal(request, body):
            return refused
        try:
            return await self._outcome(request, self.outcomes.popleft() if self.outcomes else "")
        except (asyncio.CancelledError, ConnectionError):
            self.abandoned += 1
            self.was_abandoned.set()
            raise

    async def _outcome(self, request: web.Request, outcome: int | str) -> web.StreamResponse:
        match outcome:
            case int():
                return self.error(outcome)
            case "reset":
                request.transport.abort()
                return web.Response()
            case "stall":
                await asyncio.Event().wait()
            case "html":
                return web.Response(text="<html>Please log in</html>", content_type="text/html")
            case "garbage":
                return web.Response(body=bytes(range(256)) * 8, content_type=self.content_type)
            case "redirect":
                raise web.HTTPTemporaryRedirect("/elsewhere")
        response = web.StreamResponse(headers={"Content-Type": self.content_type})
        response.enable_chunked_encoding()
        await response.prepare(request)
        payload = b"" if outcome == "empty" else self.payload()
        for start in range(0, len(payload), self.chunk_bytes):
            if start > len(payload) // 2:
                if outcome == "cut":
                    request.transport.abort()
                    return response
                if outcome == "stall_midway":
                    await asyncio.Event().wait()
            await response.write(payload[start : start + self.chunk_bytes])
            await self.may_go_on.wait()
        while outcome == "endless":
            await response.write(payload)
        await response.write_eof()
        return response

    def app(self) -> web.Application:
        app = web.Application(client_max_size=8 * 1024 * 1024)
        self.add_routes(app)
        app.router.add_post("/_fake", self._set)
        app.router.add_get("/_fake", self._report)
        return app

    async def _set(self, request: web.Request) -> web.Response:
        for name, value in (await request.json()).items():
            if name not in SETTABLE:
                raise web.HTTPBadRequest(text=name)
            setattr(self, name, deque(value) if name == "outcomes" else value)
        return web.json_response({})

    async def _report(self, _request: web.Request) -> web.Response:
        return web.json_response({"requests": self.requests, "abandoned": self.abandoned})

    async def start(self, port: int = 0) -> str:
        """Serve on loopback; returns the base URL."""
        self._runner = web.AppRunner(self.app(), handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self.url

    async def __aenter__(self):
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


def serve(fake_type: type[SpeechFake]) -> None:
    """As a process of its own: the URL on standard output, then until killed."""

    async def run() -> None:
        print(await fake_type().start(int(sys.argv[1]) if len(sys.argv) > 1 else 0), flush=True)
        await asyncio.Event().wait()

    asyncio.run(run())
