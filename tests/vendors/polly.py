"""AWS Polly: SynthesizeSpeech, its signature checked by an implementation of our own (Signature Version 4, as AWS documents it)."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

from aiohttp import web

from tests.vendors.speech import SpeechFake, serve

ERRORS = {
    400: ("ValidationException", "Invalid request."),
    403: ("UnrecognizedClientException", "The security token included in the request is invalid."),
    429: ("TooManyRequestsException", "Too many requests."),
}
ENGINES = {"standard", "neural", "long-form", "generative"}


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


class Polly(SpeechFake):
    """`key` is ACCESS:SECRET. The outcome `"throttled"` is Polly's own way to say so: status 400."""

    path = "/v1/speech"

    def __init__(self, key: str = "AKIDEXAMPLE:very/secret", **options: Any) -> None:
        super().__init__(key, **options)
        self.region = "us-east-1"
        self.session_token = ""

    async def _outcome(self, request: web.Request, outcome: int | str) -> web.StreamResponse:
        if outcome == "throttled":
            return self._refuse(400, "ThrottlingException", "Rate exceeded")
        return await super()._outcome(request, outcome)

    def refusal(self, request: web.Request, body: Any) -> web.Response | None:
        if not self._is_signed(request):
            return self.error(403)
        match body:
            case {"Engine": engine, "OutputFormat": "pcm", "SampleRate": "16000", "Text": str(), "VoiceId": str()}:
                return None if engine in ENGINES else self.error(400)
        return self.error(400)

    def _is_signed(self, request: web.Request) -> bool:
        access, _, secret = self.key.partition(":")
        scheme, _, rest = request.headers.get("Authorization", "").partition(" ")
        fields = dict(field.strip().split("=", 1) for field in rest.split(",") if "=" in field)
        names = fields.get("SignedHeaders", "").split(";")
        stamp = request.headers.get("X-Amz-Date", "")
        scope = f"{stamp[:8]}/{self.region}/polly/aws4_request"
        if scheme != "AWS4-HMAC-SHA256" or fields.get("Credential") != f"{access}/{scope}" or "host" not in names:
            return False
        if request.headers.get("X-Amz-Security-Token", "") != self.session_token:
            return False
        headers = "".join(f"{name}:{' '.join(request.headers.get(name, '').split())}\n" for name in names)
        payload = hashlib.sha256(request._read_bytes or b"").hexdigest()
        canonical = "\n".join([request.method, request.path, "", headers, ";".join(names), payload])
        signing = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = f"AWS4{secret}".encode()
        for part in scope.split("/"):
            key = _hmac(key, part)
        return hmac.compare_digest(_hmac(key, signing).hex(), fields.get("Signature", ""))

    def error(self, status: int) -> web.Response:
        return self._refuse(status, *ERRORS.get(status, ("ServiceFailureException", "An unknown condition.")))

    def _refuse(self, status: int, code: str, message: str) -> web.Response:
        return web.json_response(
            {"message": message}, status=status, headers={"x-amzn-ErrorType": f"{code}:http://example.invalid/"}
        )


if __name__ == "__main__":
    serve(Polly)
