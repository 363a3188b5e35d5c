"""Deepgram speech."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from tests.vendors.speech import SpeechFake, serve

CODES = {401: ("INVALID_AUTH", "Invalid credentials."), 429: ("TOO_MANY_REQUESTS", "Please try again later.")}


class DeepgramTts(SpeechFake):
    path = "/v1/speak"
    content_type = "audio/l16;rate=16000"

    def refusal(self, request: web.Request, body: Any) -> web.Response | None:
        if request.headers.get("Authorization") != f"token {self.key}":
            return self.error(401)
        query = dict(request.query)
        if not query.pop("model", ""):
            return self._refuse(400, "INVALID_QUERY_PARAMETER", "model")
        if query != {"encoding": "linear16", "sample_rate": "16000", "container": "none"}:
            return self._refuse(400, "UNSUPPORTED_AUDIO_FORMAT", "Unsupported audio format specified.")
        if not isinstance(body, dict) or list(body) != ["text"]:
            return self._refuse(400, "Bad Request", "Failed to deserialize JSON payload.")
        return None

    def error(self, status: int) -> web.Response:
        return self._refuse(status, *CODES.get(status, ("INTERNAL_SERVER_ERROR", "Something went wrong.")))

    def _refuse(self, status: int, code: str, message: str) -> web.Response:
        request_id = "5b2ba3ec-4b3a-4b4c-9d2c-0a2c7a0f3b1e"
        return web.json_response({"err_code": code, "err_msg": message, "request_id": request_id}, status=status)


if __name__ == "__main__":
    serve(DeepgramTts)
