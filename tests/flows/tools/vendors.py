"""All fakes of the vendors (tests/vendors) behind one address, which a server is told before anything listens there.

Rules
1. The port is reserved once, the fakes are new for each test and live in its loop. Between tests nobody answers there.
2. The shared server has no vendor's key: a test gives `api_key` with the request, as all fakes know it (`KEY`, `POLLY_KEY`).
3. Their paths do not meet, so one address stands for all base URLs.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from aiohttp import web

from tests.vendors.convai import ConvAi
from tests.vendors.deepgram_agent import DeepgramConverse
from tests.vendors.deepgram_stt import DeepgramStt
from tests.vendors.deepgram_tts import DeepgramTts
from tests.vendors.elevenlabs_stt import ElevenLabsStt
from tests.vendors.elevenlabs_tts import ElevenLabsTts
from tests.vendors.google_tts import GoogleTts
from tests.vendors.pipecat import Pipecat
from tests.vendors.polly import Polly
from tests.vendors.vapi import Vapi

KEY = "good-key"
POLLY_KEY = "AKIDEXAMPLE:very/secret"
HTTP_BASES = ("ELEVENLABS_API_BASE", "DEEPGRAM_API_BASE", "VAPI_API_BASE", "POLLY_ENDPOINT", "GOOGLE_TTS_BASE")


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port of loopback that is nobody else's until the end, whether fakes listen there or not."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def environment(port: int) -> dict[str, str]:
    """What points a server at the fakes."""
    bases = dict.fromkeys(HTTP_BASES, f"http://127.0.0.1:{port}")
    return {**bases, "DEEPGRAM_AGENT_BASE": f"ws://127.0.0.1:{port}"}


class Vendors:
    def __init__(self, port: int) -> None:
        self.port = port
        self.environment = environment(port)
        self.elevenlabs_tts, self.elevenlabs_stt, self.convai = ElevenLabsTts(KEY), ElevenLabsStt(KEY), ConvAi(KEY)
        self.deepgram_tts, self.deepgram_stt = DeepgramTts(KEY), DeepgramStt(KEY)
        self.deepgram_agent = DeepgramConverse(KEY)
        self.google, self.polly = GoogleTts(KEY), Polly(POLLY_KEY)
        self.vapi, self.pipecat = Vapi(KEY), Pipecat()

    @property
    def pipecat_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}{self.pipecat.path}"

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=8 * 1024 * 1024)
        fakes: tuple[Any, ...] = (
            self.elevenlabs_tts, self.elevenlabs_stt, self.convai, self.deepgram_tts, self.deepgram_stt,
            self.deepgram_agent, self.google, self.polly, self.vapi, self.pipecat,
        )  # fmt: skip
        for fake in fakes:
            fake.url = f"http://127.0.0.1:{self.port}"
            fake.add_routes(application)
        self._runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_port=True).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Nobody answers any more, and what was connected is cut; idempotent."""
        await self._runner.cleanup()
