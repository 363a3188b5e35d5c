"""What the fakes of WebSocket vendors have in common: how they are served, told to fail, and asked what they saw.

A test in the same loop uses `async with DeepgramStt() as fake`, its attributes and `until`. A test of the real server starts
`python -m tests.vendors.deepgram_stt [PORT]`, reads the base URL from its first line and uses the same by HTTP:

    POST /_fake  {"outcomes": [401, "cut"], "tone_hz": 800, …}   sets attributes; the next connections take one outcome each
    GET  /_fake  {"connections": […], "texts": […], "audio_bytes": 64000}

Outcomes: a status (the upgrade is refused), or
    reset         the connection breaks before any answer        stall        no answer ever
    mute          after the upgrade nothing ever, not even pongs garbage      a text message that is no JSON
    junk          a binary message that means nothing            wrong_types  the vendor's own message with wrong types in it
    huge          a message of 5 MiB                             deep         JSON of 100,000 brackets
    close         a close in good order after `fail_after_chunks`
    policy        close code 1008 with the key in its reason     cut          after `fail_after_chunks` the connection breaks
    deaf          after `fail_after_chunks` nothing more is read redirect     307 to another path
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import deque
from typing import Any, ClassVar

import numpy as np
from aiohttp import WSMsgType, web

RATE_HZ = 16_000
CHUNK_BYTES = 640
QUERY: web.ResponseKey[Any] = web.ResponseKey("query", object)
AUDIO_KEPT_BYTES = 10 * 2 * RATE_HZ


def sine(tone_hz: float, audio_ms: int, rate_hz: int = RATE_HZ) -> bytes:
    """s16le mono at half scale."""
    samples = np.arange(audio_ms * rate_hz // 1000)
    return np.rint(16384 * np.sin(2 * np.pi * tone_hz * samples / rate_hz)).astype("<i2").tobytes()


class SocketFake:
    """One vendor, any number of connections."""

    path: ClassVar[str]
    settable: ClassVar[set[str]] = {"key", "outcomes", "fail_after_chunks"}

    def __init__(self, key: str = "good-key") -> None:
        self.key = key
        self.outcomes: deque[int | str] = deque()
        self.fail_after_chunks = 5
        self.connections: list[dict[str, Any]] = []
        self.sockets: list[web.WebSocketResponse] = []  # of all connections that were welcome, in order
        self.texts: list[Any] = []  # text messages that came, decoded
        self.audio = bytearray()  # the last that came, as it came
        self.audio_bytes = 0
        self.piece_bytes: set[int] = set()  # how long pieces of it were
        self.heard: list[bytearray] = []  # the same by conversation
        self.closes: list[int | None] = []  # codes with which connections ended
        self._moved = asyncio.Event()

    # What a vendor fills in

    def refusal(self, request: web.Request) -> int:
        """HTTP status for an upgrade that it would not take; 0: welcome."""
        raise NotImplementedError

    def wrong_types(self) -> str | bytes:
        """A message of the vendor's with wrong types."""
        raise NotImplementedError

    async def greet(self, ws: web.WebSocketResponse) -> None:
        """Right after the upgrade."""

    async def take(self, ws: web.WebSocketResponse, message: str | bytes) -> bytes | None:
        """One message; returns the audio in it."""
        raise NotImplementedError

    async def counted(self, ws: web.WebSocketResponse, chunks: int) -> None:
        """`chunks` of 20 ms have come on this connection."""

    def add_routes(self, app: web.Application) -> None:
        app.router.add_get(self.path, self.connect)

    # The same for all

    async def connect(self, request: web.Request) -> web.StreamResponse:
        query = [list(pair) for pair in request.query.items()]
        self.connections.append({"path": request.path, "query": query, "headers": dict(request.headers)})
        self.tell()
        outcome = self.outcomes.popleft() if self.outcomes else ""
        if status := outcome if isinstance(outcome, int) else self.refusal(request):
            return web.json_response({"error": f"refused, {request.headers}"}, status=status)
        match outcome:
            case "reset":
                request.transport.abort()
                return web.Response()
            case "stall":
                await asyncio.Event().wait()
            case "redirect":
                raise web.HTTPTemporaryRedirect("/elsewhere")
        ws = web.WebSocketResponse(autoping=outcome != "mute", max_msg_size=1024 * 1024, timeout=0.2)
        await ws.prepare(request)
        ws[QUERY] = request.query
        self.sockets.append(ws)
        try:
            await self._converse(ws, request, str(outcome))
        except ConnectionError:
            pass
        finally:
            self.closes.append(ws.close_code)
            self.tell()
        return ws

    async def _converse(self, ws: web.WebSocketResponse, request: web.Request, outcome: str) -> None:
        match outcome:
            case "mute":
                async for _ in ws:
                    pass
            case "garbage":
                await ws.send_str('{"type":')
            case "junk":
                await ws.send_bytes(b"\xff\xff\xff\xff")
            case "wrong_types":
                wrong = self.wrong_types()
                await (ws.send_bytes(wrong) if isinstance(wrong, bytes) else ws.send_str(wrong))
            case "huge":
                await ws.send_bytes(bytes(5 * 1024 * 1024))
            case "deep":
                await ws.send_str("[" * 100_000)
            case "policy":
                await ws.close(code=1008, message=f"bad key {self.key}".encode())
            case _:
                await self.greet(ws)
        chunks = taken_bytes = 0
        heard = bytearray()
        self.heard.append(heard)
        async for message in ws:
            if message.type not in {WSMsgType.TEXT, WSMsgType.BINARY}:
                break
            if message.type is WSMsgType.TEXT:
                self.texts.append(json.loads(message.data))
            audio = await self.take(ws, message.data)
            if audio is not None:
                self._keep(audio)
                heard += audio
                del heard[:-AUDIO_KEPT_BYTES]
                taken_bytes += len(audio)
                while not ws.closed and chunks < self.chunks_in(taken_bytes):
                    chunks += 1
                    if chunks == self.fail_after_chunks:
                        await self._fail(ws, request, outcome)
                    await self.counted(ws, chunks)
            self.tell()

    async def _fail(self, ws: web.WebSocketResponse, request: web.Request, outcome: str) -> None:
        match outcome:
            case "cut":
                request.transport.abort()
            case "close":
                await ws.close()
            case "deaf":
                request.transport.pause_reading()
                await asyncio.Event().wait()

    def chunks_in(self, audio_bytes: int) -> int:
        return audio_bytes // CHUNK_BYTES

    def _keep(self, audio: bytes) -> None:
        self.audio_bytes += len(audio)
        self.piece_bytes.add(len(audio))
        self.audio += audio
        del self.audio[:-AUDIO_KEPT_BYTES]

    def tell(self) -> None:
        self._moved.set()

    async def until(self, holds: Any) -> None:
        """Wait for `holds()`, at most 10 s."""
        async with asyncio.timeout(10):
            while not holds():
                self._moved.clear()
                await self._moved.wait()

    def app(self) -> web.Application:
        app = web.Application()
        self.add_routes(app)
        app.router.add_post("/_fake", self._set)
        app.router.add_get("/_fake", self._report)
        return app

    async def _set(self, request: web.Request) -> web.Response:
        for name, value in (await request.json()).items():
            if name not in self.settable:
                raise web.HTTPBadRequest(text=name)
            setattr(self, name, deque(value) if name == "outcomes" else value)
        return web.json_response({})

    def report(self) -> dict[str, Any]:
        return {
            "connections": self.connections,
            "texts": [text for text in self.texts if not self.is_audio(text)],
            "audio_bytes": self.audio_bytes,
            "closes": self.closes,
        }

    def is_audio(self, text: Any) -> bool:
        """Whether a text message is but audio."""
        return False

    async def _report(self, _request: web.Request) -> web.Response:
        return web.json_response(self.report())

    async def start(self, port: int = 0) -> str:
        """Serve on loopback; returns the base URL."""
        self._runner = web.AppRunner(self.app(), handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self.url

    async def __aenter__(self):
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


class AgentFake(SocketFake):
    """An agent that has heard enough tells what it understood, answers with words and a sine in one burst, and may be
    interrupted later."""

    settable: ClassVar[set[str]] = SocketFake.settable | {
        "tone_hz",
        "burst_ms",
        "speak_after_chunks",
        "interrupt_after_chunks",
        "user_text",
        "agent_text",
    }

    def __init__(self, key: str = "good-key") -> None:
        super().__init__(key)
        self.tone_hz = 440.0
        self.burst_ms = 2000
        self.speak_after_chunks = 10
        self.interrupt_after_chunks = 20
        self.user_text = "what time is it"
        self.agent_text = "it is noon"

    async def say(self, ws: web.WebSocketResponse) -> None:
        """The sine, in one burst."""
        raise NotImplementedError

    async def tell_texts(self, ws: web.WebSocketResponse) -> None:
        """What it understood and answers."""
        raise NotImplementedError

    async def interrupt(self, ws: web.WebSocketResponse) -> None:
        """Somebody speaks over it."""
        raise NotImplementedError

    async def counted(self, ws: web.WebSocketResponse, chunks: int) -> None:
        if chunks == self.speak_after_chunks:
            await self.tell_texts(ws)
            await self.say(ws)
        if chunks == self.interrupt_after_chunks:
            await self.interrupt(ws)


def serve(fake_type: type[SocketFake]) -> None:
    """As a process of its own: the URL on standard output, then until killed."""

    async def run() -> None:
        print(await fake_type().start(int(sys.argv[1]) if len(sys.argv) > 1 else 0), flush=True)
        await asyncio.Event().wait()

    asyncio.run(run())
