"""Google Cloud speech, and the token endpoint that a service account's credentials are exchanged at."""

from __future__ import annotations

import base64
import struct
import time
from typing import Any

import google.auth.jwt
from aiohttp import web

from tests.vendors.speech import SpeechFake, serve, sine

STATUSES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 429: "RESOURCE_EXHAUSTED"}

AUDIENCE = "https://oauth2.googleapis.com/token"  # whatever the account's token_uri


def wav(pcm: bytes, *, rate_hz: int = 16_000, channels: int = 1, data_size: int | None = None, tag: int = 1) -> bytes:
    """With a LIST chunk of odd size before the data, so that byte 44 is not where audio begins."""
    block = 2 * channels
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, tag, channels, rate_hz, rate_hz * block, block, 16)
    note = b"LIST" + struct.pack("<I", 5) + b"INFO!\0"
    data = b"data" + struct.pack("<I", len(pcm) if data_size is None else data_size) + pcm
    return b"RIFF" + struct.pack("<I", 4 + len(form + note + data)) + b"WAVE" + form + note + data


class GoogleTts(SpeechFake):
    path = "/v1/text:synthesize"
    content_type = "application/json"

    def __init__(self, key: str = "good-key", **options: Any) -> None:
        super().__init__(key, **options)
        self.account_certificate: str | bytes = ""  # PEM of the public key whose assertions /token believes
        self.tokens = 0
        self.token_status = 200
        self.rate_hz = 16_000

    def add_routes(self, app: web.Application) -> None:
        super().add_routes(app)
        app.router.add_post("/token", self.token)

    def refusal(self, request: web.Request, body: Any) -> web.Response | None:
        bearer = request.headers.get("Authorization")
        if bearer is None and request.headers.get("X-Goog-Api-Key") != self.key:
            return self._refuse(400, "API key not valid. Please pass a valid API key.")
        if bearer is not None and bearer != f"Bearer token-{self.tokens}":
            return self.error(401)
        match body:
            case {
                "input": {"text": str()},
                "voice": {"languageCode": str(), "name": str()},
                "audioConfig": {"audioEncoding": "LINEAR16", "sampleRateHertz": 16000},
            }:
                return None
        return self.error(400)

    def error(self, status: int) -> web.Response:
        return self._refuse(status, "Request refused.")

    def _refuse(self, status: int, message: str) -> web.Response:
        error = {"code": status, "message": message, "status": STATUSES.get(status, "INTERNAL")}
        return web.json_response({"error": error}, status=status)

    def payload(self) -> bytes:
        audio = wav(sine(self.tone_hz, self.audio_ms, self.rate_hz), rate_hz=self.rate_hz)
        return b'{\n  "audioContent": "' + base64.b64encode(audio) + b'"\n}\n'

    async def token(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
        if self.token_status != 200:
            return web.json_response({"error": "invalid_grant"}, status=self.token_status)
        claims = google.auth.jwt.decode(form["assertion"], certs=self.account_certificate, audience=AUDIENCE)
        assert claims["exp"] > time.time()
        self.tokens += 1
        return web.json_response({"access_token": f"token-{self.tokens}", "expires_in": 3600, "token_type": "Bearer"})


if __name__ == "__main__":
    serve(GoogleTts)
