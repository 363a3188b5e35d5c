"""ElevenLabs realtime transcription."""

from __future__ import annotations

import base64
import json
from typing import Any

from aiohttp import web

from tests.vendors.socket_fake import SocketFake, serve


class ElevenLabsStt(SocketFake):
    """Understands `text` in every `commit_after_chunks` of audio, half of it half-way; the farewell commits `last_text`."""

    path = "/v1/speech-to-text/realtime"
    settable = SocketFake.settable | {"text", "last_text", "commit_after_chunks", "complaint"}

    def __init__(self, key: str = "good-key") -> None:
        super().__init__(key)
        self.text = "hello there"
        self.last_text = "goodbye"
        self.commit_after_chunks = 50
        self.complaint = ""  # an error type, sent instead of the first partial

    def refusal(self, request: web.Request) -> int:
        if request.headers.get("xi-api-key") != self.key:
            return 403
        query = dict(request.query)
        if not query.pop("language_code", ""):
            return 400
        wanted = {"model_id": "scribe_v2_realtime", "audio_format": "pcm_16000", "commit_strategy": "vad"}
        return 0 if query == wanted else 400

    def wrong_types(self) -> str:
        return '{"message_type":"committed_transcript","text":["not","a","text"]}'

    async def greet(self, ws: web.WebSocketResponse) -> None:
        config = {"sample_rate": 16000, "audio_format": "pcm_16000", "language_code": "en"}
        await ws.send_json({"message_type": "session_started", "session_id": "0b0a72b5", "config": config})

    async def take(self, ws: web.WebSocketResponse, message: str | bytes) -> bytes | None:
        try:
            said = json.loads(message)
            audio = base64.b64decode(said["audio_base_64"], validate=True)
            proper = {"message_type", "audio_base_64", "commit", "sample_rate"} == set(said)
        except (ValueError, KeyError, TypeError):
            proper = False
        if not proper or said["message_type"] != "input_audio_chunk" or said["sample_rate"] != 16000:
            await self._complain(ws, "input_error")
            return None
        if said["commit"]:
            if self.last_text:
                await self._tell(ws, "committed_transcript", self.last_text)
            else:
                await self._complain(ws, "insufficient_audio_activity")
        return audio

    async def counted(self, ws: web.WebSocketResponse, chunks: int) -> None:
        place = chunks % self.commit_after_chunks
        if place == self.commit_after_chunks // 2:
            if self.complaint:
                await self._complain(ws, self.complaint)
                self.complaint = ""
                return
            await self._tell(ws, "partial_transcript", self.text[: len(self.text) // 2])
        elif place == 0:
            await self._tell(ws, "committed_transcript", self.text)
            words = [{"text": self.text, "start": 0.0, "end": 1.0, "type": "word"}]
            await ws.send_json(
                {"message_type": "committed_transcript_with_timestamps", "text": self.text, "words": words}
            )
            await self._tell(ws, "committed_transcript", "")

    def is_audio(self, text: Any) -> bool:
        return not text.get("commit")

    async def _tell(self, ws: web.WebSocketResponse, kind: str, text: str) -> None:
        await ws.send_json({"message_type": kind, "text": text})

    async def _complain(self, ws: web.WebSocketResponse, kind: str) -> None:
        await ws.send_json({"message_type": kind, "error": f"so it is, {self.key}"})


if __name__ == "__main__":
    serve(ElevenLabsStt)
