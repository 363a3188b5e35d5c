"""Deepgram streaming transcription, version 1."""

from __future__ import annotations

import json

from aiohttp import web

from tests.vendors.socket_fake import QUERY, SocketFake, serve


class DeepgramStt(SocketFake):
    """Understands `text` in every `final_after_chunks` of audio, half of it half-way; CloseStream brings `last_text`."""

    path = "/v1/listen"
    settable = SocketFake.settable | {"text", "last_text", "final_after_chunks"}

    def __init__(self, key: str = "good-key") -> None:
        super().__init__(key)
        self.text = "hello there"
        self.last_text = "goodbye"
        self.final_after_chunks = 50

    def refusal(self, request: web.Request) -> int:
        if request.headers.get("Authorization") != f"token {self.key}":
            return 401
        query = request.query
        fixed = {"encoding": "linear16", "sample_rate": "16000", "channels": "1"}
        if any(query.get(name) != value for name, value in fixed.items()) or not query.get("language"):
            return 400
        known = {"model", "language", "interim_results", "endpointing", "utterance_end_ms", "keyterm", *fixed}
        if set(query) - known or ("utterance_end_ms" in query and query.get("interim_results") != "true"):
            return 400
        return 0

    def wrong_types(self) -> str:
        return '{"type":"Results","channel":{"alternatives":[{"transcript":7}]},"is_final":"yes"}'

    async def take(self, ws: web.WebSocketResponse, message: str | bytes) -> bytes | None:
        if isinstance(message, bytes):
            return message
        if json.loads(message) == {"type": "CloseStream"}:
            if self.last_text:
                await self._results(ws, self.last_text, is_final=True)
            await ws.send_json({"type": "Metadata", "request_id": "d6b2", "channels": 1, "duration": 1.0})
            await ws.close()
        return None

    async def counted(self, ws: web.WebSocketResponse, chunks: int) -> None:
        wants_interim = ws[QUERY].get("interim_results") == "true"
        place = chunks % self.final_after_chunks
        if place == 1:
            await ws.send_json({"type": "SpeechStarted", "channel": [0], "timestamp": 0.02})
        if place == self.final_after_chunks // 2 and wants_interim:
            await self._results(ws, self.text[: len(self.text) // 2], is_final=False)
        elif place == 0:
            await self._results(ws, self.text, is_final=True, speech_final=True)
            await self._results(ws, "", is_final=True)
            if wants_interim:
                await ws.send_json({"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": 0.98})

    async def _results(
        self, ws: web.WebSocketResponse, text: str, *, is_final: bool, speech_final: bool = False
    ) -> None:
        alternative = {"transcript": text, "confidence": 0.98, "words": []}
        await ws.send_json(
            {
                "type": "Results",
                "channel_index": [0, 1],
                "duration": 0.75,
                "start": 0.25,
                "is_final": is_final,
                "speech_final": speech_final,
                "channel": {"alternatives": [alternative]},
                "metadata": {"request_id": "d6b2"},
            }
        )


if __name__ == "__main__":
    serve(DeepgramStt)
