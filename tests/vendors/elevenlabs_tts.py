"""ElevenLabs speech: the streaming endpoint and the list of voices."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from tests.vendors.speech import SpeechFake, serve

WORDS = {
    401: ("invalid_api_key", "Invalid API key"),
    404: ("voice_not_found", "A voice with that voice_id was not found."),
    429: ("too_many_concurrent_requests", "Too many concurrent requests."),
}


class ElevenLabsTts(SpeechFake):
    path = "/v1/text-to-speech/{voice}/stream"
    voices = {"EXAVITQu4vr4xnSDxMaL": "Sarah", "21m00Tcm4TlvDq8ikWAM": "Rachel", "plain-voice": "Räuber/Hotz"}  # noqa: RUF012 - constant

    def __init__(self, key: str = "good-key", **options: Any) -> None:
        super().__init__(key, **options)
        self.look_ups = 0
        self.not_found_status = 404
        self.look_up_status = 200

    def add_routes(self, app: web.Application) -> None:
        super().add_routes(app)
        app.router.add_get("/v1/voices", self.list_voices)

    def refusal(self, request: web.Request, body: Any) -> web.Response | None:
        if request.headers.get("xi-api-key") != self.key:
            return self.error(401)
        if request.match_info["voice"] not in self.voices:
            return self._refuse(self.not_found_status, *WORDS[404])
        if not isinstance(body, dict) or not isinstance(body.get("text"), str):
            missing = [{"loc": ["body", "text"], "msg": "Field required", "type": "missing"}]
            return web.json_response({"detail": missing}, status=422)
        if not body.get("model_id") or request.query.get("output_format") != "pcm_16000":
            return self._refuse(400, "invalid_output_format", "this fake knows pcm_16000 and wants a model_id")
        return None

    def error(self, status: int) -> web.Response:
        return self._refuse(status, *WORDS.get(status, ("internal_error", "Something went wrong.")))

    def _refuse(self, status: int, code: str, message: str) -> web.Response:
        return web.json_response({"detail": {"status": code, "message": message}}, status=status)

    async def list_voices(self, request: web.Request) -> web.Response:
        self.look_ups += 1
        if request.headers.get("xi-api-key") != self.key:
            return self.error(401)
        if self.look_up_status != 200:
            return self.error(self.look_up_status)
        voices = [
            {"voice_id": voice_id, "name": name, "category": "premade", "labels": {}, "settings": None}
            for voice_id, name in self.voices.items()
        ]
        return web.json_response({"voices": voices})


if __name__ == "__main__":
    serve(ElevenLabsTts)
