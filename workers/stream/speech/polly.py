"""AWS Polly speech (contract media.md, section 9.2).

Runs in: stream.
Owns: the signed SynthesizeSpeech request and whose credentials sign it.

Rules
1. The signature is botocore's, the transport is ours: the body streams, stops when told and keeps to the session's limits.
2. Without a key of the request the AWS chain decides (environment, profile, container, instance). It may read files and ask
   the network, so it is walked in one thread of its own, anew for every attempt: botocore remembers and renews by itself.
3. Polly throttles with status 400; that counts as 429.

Not here: `language` and `prompt`, which this provider does not use; the check that answers 400 → the API.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing

import aiohttp
import botocore.session
import msgspec
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError

from workers.stream.speech.protocol import Category, Pieces, SpeechError, SpeechRequest
from workers.stream.speech.reply import checked_key, posted_audio
from workers.stream.speech.retries import retried

NAME = "aws"
DEFAULT_ENGINE = "neural"
ENGINES = frozenset({"standard", "neural", "long-form", "generative"})
DEFAULT_REGION = "us-east-1"
_THROTTLED = ("Throttling", "TooManyRequests", "LimitExceeded")


class Polly:
    """Synthesizer."""

    def __init__(self, session: aiohttp.ClientSession, region: str = DEFAULT_REGION, endpoint: str = "") -> None:
        self._session = session
        self._region = region
        self._endpoint = (endpoint or f"https://polly.{region}.amazonaws.com").rstrip("/")
        self._chain = botocore.session.Session()
        self._thread = ThreadPoolExecutor(1, "aws-credentials")

    def synthesize(self, request: SpeechRequest) -> Pieces:
        """One POST."""
        return retried(lambda: self._attempt(request))

    async def _attempt(self, request: SpeechRequest) -> Pieces:
        engine = request.model_id or DEFAULT_ENGINE
        if engine not in ENGINES:
            raise SpeechError(f"{NAME}: model_id is none of {', '.join(sorted(ENGINES))}", Category.PERMANENT_INPUT)
        credentials = await self._credentials(request.api_key)
        wanted = {
            "Engine": engine,
            "OutputFormat": "pcm",
            "SampleRate": "16000",
            "Text": request.text,
            "VoiceId": request.voice,
        }
        signed = AWSRequest(
            "POST",
            f"{self._endpoint}/v1/speech",
            headers={"Content-Type": "application/json"},
            data=msgspec.json.encode(wanted),
        )
        SigV4Auth(credentials, "polly", self._region).add_auth(signed)
        secrets = [credentials.access_key, credentials.secret_key, credentials.token or ""]
        audio = posted_audio(
            self._session, NAME, signed.url, headers=dict(signed.headers.items()), body=signed.data, secrets=secrets
        )
        try:
            async with aclosing(audio) as pieces:
                async for piece in pieces:
                    yield piece
        except SpeechError as error:
            if error.status == 400 and error.code.startswith(_THROTTLED):
                raise SpeechError(str(error), Category.RATE_LIMITED, status=429, code=error.code) from None
            raise

    async def _credentials(self, api_key: str) -> ReadOnlyCredentials:
        if api_key:
            access, colon, secret = checked_key(NAME, api_key).partition(":")
            if not (access and colon and secret):
                raise SpeechError(f"{NAME}: api_key is not ACCESS:SECRET", Category.PERMANENT_INPUT)
            return ReadOnlyCredentials(access, secret, None)
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._thread, self._walk_chain)
        except BotoCoreError as fault:
            raise SpeechError(f"{NAME}: no credentials ({type(fault).__name__})", Category.PERMANENT_AUTH) from None
        if found is None:
            raise SpeechError(f"{NAME}: no credentials found", Category.PERMANENT_AUTH)
        return found

    def _walk_chain(self) -> ReadOnlyCredentials | None:
        credentials = self._chain.get_credentials()
        return credentials.get_frozen_credentials() if credentials else None
