"""The four vendors of agents as a test meets them: what is asked of them, what they say and heard.

Rules
1. A fake says nothing until a test makes it: `vendor.socket` is its latest connection, `fake.say(vendor.socket)` its voice.
2. `request` sets every field there is, and `assert_asked` finds each of them on the wire as contract media.md §11 has it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
from aiohttp import web

from tests.flows.tools.codecs import CODECS
from tests.flows.tools.spectrum import HEARD_DB, SILENT_DB, level_db
from tests.flows.tools.vendors import KEY, Vendors
from tests.vendors.deepgram_agent import AUDIO
from tests.vendors.vapi import TRANSPORT

VOICE_HZ = 900.0
RATE_HZ = 16_000
WINDOW_MS = 400
VARIABLES = {"name": "Ann", "age": 7, "score": 1.5, "whole": 2.0, "vip": True}
FAKES = {"elevenlabs": "convai", "vapi": "vapi", "pipecat": "pipecat", "deepgram": "deepgram_agent"}
REQUESTS: dict[str, dict[str, Any]] = {
    "elevenlabs": {
        "agent_id": "agent 1",
        "first_message": "hi",
        "language": "de",
        "dynamic_variables": VARIABLES,
        "api_key": KEY,
    },
    "vapi": {"assistant_id": "assistant-1", "first_message": "hi", "variable_values": VARIABLES, "api_key": KEY},
    "pipecat": {},
    "deepgram": {
        "settings": {"type": "x", "audio": {}, "tags": ["a"], "agent": {"think": {"provider": {"type": "own"}}}},
        "greeting": "hi",
        "language": "de",
        "api_key": KEY,
    },
}
CONVERSATIONS = {"elevenlabs": "conv_1", "vapi": "call-1", "deepgram": "dg_1"}


@dataclass
class Vendor:
    name: str
    fake: Any  # the `AgentFake` of that name
    request: dict[str, Any]
    fakes: Vendors  # all there are, behind one address

    @property
    def socket(self) -> web.WebSocketResponse:
        return self.fake.sockets[-1]

    @property
    def conversation_id(self) -> str:
        return CONVERSATIONS.get(self.name) or self.request["websocket_url"]

    @property
    def path(self) -> str:
        """Below a room or a leg."""
        return f"agent/{self.name}"

    async def speak(self, ms: int = 10_000) -> None:
        """Its sine, all at once."""
        self.fake.burst_ms = ms
        await self.fake.say(self.socket)

    async def hears(self, wanted: set[float], *, not_: set[float] = frozenset(), within_s: float = 5.0) -> None:
        """Wait until 400 ms of what comes hold the wanted tones and none of the others."""
        fake, deadline_s = self.fake, asyncio.get_running_loop().time() + within_s
        size = RATE_HZ * 2 * WINDOW_MS // 1000
        while True:
            begun = fake.audio_bytes
            await fake.until(lambda: fake.audio_bytes >= begun + size)  # noqa: B023 - awaited right here
            audio = np.frombuffer(bytes(fake.audio[-size:]), "<i2")
            levels = {tone: level_db(audio, RATE_HZ, tone) for tone in wanted | not_}
            if all(levels[tone] > HEARD_DB for tone in wanted) and all(levels[tone] < SILENT_DB for tone in not_):
                return
            assert asyncio.get_running_loop().time() < deadline_s, f"wanted {wanted} without {not_}, heard {levels}"

    def impurity_db(self, tone_hz: float) -> float:
        """What the last second it heard holds beside one steady sine, against that sine: a gap or a seam is far above -40 dB."""
        audio = np.frombuffer(bytes(self.fake.audio[-2 * RATE_HZ :]), "<i2").astype(float)
        turns = 2 * np.pi * tone_hz / RATE_HZ * np.arange(audio.size)
        sine = np.stack([np.sin(turns), np.cos(turns)], axis=1)
        fitted = sine @ np.linalg.lstsq(sine, audio, rcond=None)[0]
        return float(20 * np.log10(np.linalg.norm(audio - fitted) / max(np.linalg.norm(fitted), 1.0)))

    def loudest_hz(self, form: str) -> float:
        """The strongest frequency of what it heard last, in one of ElevenLabs' formats."""
        encoding, _, rate = form.partition("_")
        data = bytes(self.fake.audio[-4000:])
        audio = CODECS["PCMU"].decoder()(data) if encoding == "ulaw" else np.frombuffer(data, "<i2")
        spectrum = np.abs(np.fft.rfft(audio * np.hanning(audio.size)))
        return float(np.argmax(spectrum)) * int(rate) / audio.size

    def assert_asked(self) -> None:
        """For everything in `request`, and nothing else."""
        fake = self.fake
        opening = [text for text in fake.texts if not fake.is_audio(text)][:1]
        match self.name:
            case "elevenlabs":
                assert fake.connections[-1]["query"] == [["agent_id", "agent 1"]]
                override = {"agent": {"first_message": "hi", "language": "de"}}
                kind = "conversation_initiation_client_data"
                assert opening == [
                    {"type": kind, "conversation_config_override": override, "dynamic_variables": VARIABLES}
                ]
                assert [type(value) for value in opening[0]["dynamic_variables"].values()] == [
                    str,
                    int,
                    float,
                    float,
                    bool,
                ]
            case "vapi":
                overrides = {"firstMessage": "hi", "variableValues": VARIABLES}
                assert fake.calls == [
                    {"assistantId": "assistant-1", "transport": TRANSPORT, "assistantOverrides": overrides}
                ]
            case "pipecat":
                assert not opening
                assert fake.connections[-1]["query"] == [["room", "a b"]]
            case "deepgram":
                agent = {"think": {"provider": {"type": "own"}}, "greeting": "hi", "language": "de"}
                assert opening == [{"type": "Settings", "audio": AUDIO, "tags": ["a"], "agent": agent}]


def vendor_of(fakes: Vendors, name: str) -> Vendor:
    fake = getattr(fakes, FAKES[name])
    fake.tone_hz, fake.speak_after_chunks, fake.interrupt_after_chunks = VOICE_HZ, 0, 0
    url = {"websocket_url": f"{fakes.pipecat_url}?room=a%20b"} if name == "pipecat" else {}
    return Vendor(name, fake, REQUESTS[name] | url, fakes)
