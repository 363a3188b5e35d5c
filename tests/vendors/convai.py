"""ElevenLabs Conversational AI."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import numpy as np
from aiohttp import web

from tests.vendors.socket_fake import AgentFake, serve, sine
from workers.audio.g711 import ulaw_encode


class ConvAi(AgentFake):
    path = "/v1/convai/conversation"
    settable = AgentFake.settable | {"output_format", "input_format", "id_at_top"}

    def __init__(self, key: str = "good-key") -> None:
        super().__init__(key)
        self.output_format = "pcm_16000"
        self.input_format = "pcm_16000"
        self.id_at_top = False  # as the original expected it

    def refusal(self, request: web.Request) -> int:
        if request.headers.get("xi-api-key") != self.key:
            return 401
        return 0 if list(request.query) == ["agent_id"] else 400

    def wrong_types(self) -> str:
        return '{"type":"audio","audio_event":{"audio_base_64":"***","event_id":1}}'

    async def greet(self, ws: web.WebSocketResponse) -> None:
        event = {
            "conversation_id": "conv_1",
            "agent_output_audio_format": self.output_format,
            "user_input_audio_format": self.input_format,
        }
        top = {"conversation_id": event.pop("conversation_id")} if self.id_at_top else {}
        kind = {"type": "conversation_initiation_metadata", "conversation_initiation_metadata_event": event}
        await asyncio.sleep(0.05)  # audio that does not wait for the formats comes now
        await ws.send_json(kind | top)
        await ws.send_json({"type": "ping", "ping_event": {"event_id": 7, "ping_ms": 50}})

    async def take(self, ws: web.WebSocketResponse, message: str | bytes) -> bytes | None:
        said = json.loads(message)
        if set(said) == {"user_audio_chunk"}:
            return base64.b64decode(said["user_audio_chunk"], validate=True)
        if said["type"] not in {"pong", "conversation_initiation_client_data"}:
            await ws.close(code=1008, message=b"unknown message")
        return None

    def chunks_in(self, audio_bytes: int) -> int:
        encoding, _, rate = self.input_format.partition("_")
        return audio_bytes * 50 // (int(rate) * (2 if encoding == "pcm" else 1))

    async def tell_texts(self, ws: web.WebSocketResponse) -> None:
        await ws.send_json({"type": "user_transcript", "user_transcription_event": {"user_transcript": self.user_text}})
        await ws.send_json({"type": "agent_response", "agent_response_event": {"agent_response": self.agent_text}})
        await ws.send_json({"type": "agent_response", "agent_response_event": {"agent_response": " "}})
        await ws.send_json({"type": "vad_score", "vad_score_event": {"vad_score": 0.9}})

    async def say(self, ws: web.WebSocketResponse) -> None:
        encoding, _, rate = self.output_format.partition("_")
        pcm = sine(self.tone_hz, self.burst_ms, int(rate))
        if encoding == "ulaw":
            pcm = ulaw_encode(np.frombuffer(pcm, "<i2")).tobytes()
        await self._audio(ws, pcm[:3001])  # torn
        await self._audio(ws, pcm[3001:])

    async def interrupt(self, ws: web.WebSocketResponse) -> None:
        await ws.send_json({"type": "interruption", "interruption_event": {"event_id": 3}})

    def is_audio(self, text: Any) -> bool:
        return "user_audio_chunk" in text

    async def _audio(self, ws: web.WebSocketResponse, pcm: bytes) -> None:
        event = {"audio_base_64": base64.b64encode(pcm).decode(), "event_id": 1}
        await ws.send_json({"type": "audio", "audio_event": event})


if __name__ == "__main__":
    serve(ConvAi)
