"""Google Cloud speech (contract media.md, section 9.3).

Runs in: stream.
Owns: the synthesize request, the WAV in its JSON answer, and Application Default Credentials.

Rules
1. The answer is one JSON object: nothing is heard before all of it is here, and it is held to MAX_ANSWER_BYTES.
2. The WAV is parsed, not cut at byte 44. Gemini voices may ignore the rate that was asked for: other rates are converted and
   channels averaged.
3. Without a key of the request the default credentials sign. google-auth blocks, so it runs in one thread of its own, which
   also keeps two renewals from happening at once.

Not here: the choice between voices and models, which is the caller's.
"""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import google.auth
import msgspec
import numpy as np
import requests
import soxr
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request
from numpy.typing import NDArray

from workers.stream.speech.protocol import (
    MAX_AUDIO_BYTES,
    PIECE_BYTES,
    RATE_HZ,
    Category,
    Pieces,
    SpeechError,
    SpeechRequest,
)
from workers.stream.speech.reply import checked_key, exchange, read_at_most
from workers.stream.speech.retries import retried

NAME = "google"
DEFAULT_BASE = "https://texttospeech.googleapis.com"
DEFAULT_LANGUAGE = "en-US"
MAX_ANSWER_BYTES = MAX_AUDIO_BYTES // 3 * 4 + 1024
_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)


class _Answer(msgspec.Struct):
    audio: bytes = msgspec.field(name="audioContent")  # base64 in JSON


class Google:
    """Synthesizer."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str = DEFAULT_BASE) -> None:
        self._session = session
        self._base_url = base_url.rstrip("/")
        self._credentials: Any = None  # google-auth's own are but half typed
        self._thread = ThreadPoolExecutor(1, "google-credentials")

    def synthesize(self, request: SpeechRequest) -> Pieces:
        """One POST."""
        return retried(lambda: self._attempt(request))

    async def _attempt(self, request: SpeechRequest) -> Pieces:
        if request.api_key:
            authority = {"X-Goog-Api-Key": checked_key(NAME, request.api_key)}
        else:
            authority = await asyncio.get_running_loop().run_in_executor(self._thread, self._default_authority)
        async with exchange(
            self._session,
            NAME,
            "POST",
            f"{self._base_url}/v1/text:synthesize",
            headers={**authority, "Content-Type": "application/json"},
            body=msgspec.json.encode(_wanted(request)),
            secrets=authority.values(),
        ) as reply:
            body = await read_at_most(reply, MAX_ANSWER_BYTES)
        if len(body) > MAX_ANSWER_BYTES:
            raise SpeechError(f"{NAME}: the audio does not end", Category.UNKNOWN)
        try:
            audio = pcm_of_wav(msgspec.json.decode(body, type=_Answer).audio)
        except (ValueError, RecursionError) as fault:  # msgspec.DecodeError is a ValueError
            raise SpeechError(f"{NAME}: sent no usable audio: {fault}", Category.UNKNOWN) from None
        for start in range(0, len(audio), PIECE_BYTES):
            yield audio[start : start + PIECE_BYTES]

    def _default_authority(self) -> dict[str, str]:
        """Headers of the default credentials, renewed when due. Blocks."""
        with requests.Session() as session:
            # requests knows the proxies and REQUESTS_CA_BUNDLE by itself, but not OpenSSL's own variable.
            session.verify = os.environ.get("SSL_CERT_FILE") or True
            transport = Request(session)
            headers: dict[str, str] = {}
            try:
                if self._credentials is None:
                    self._credentials, _ = google.auth.default(scopes=_SCOPES, request=transport)
                self._credentials.before_request(transport, "POST", self._base_url, headers)
            # The last three are what a credentials file of another shape makes google-auth stumble over.
            except (GoogleAuthError, ValueError, OSError, AttributeError, KeyError, TypeError) as fault:
                passing = getattr(fault, "retryable", False)
                category = Category.RETRYABLE if passing else Category.PERMANENT_AUTH
                raise SpeechError(f"{NAME}: no credentials ({type(fault).__name__})", category) from None
        return headers


def language_of(request: SpeechRequest) -> str:
    """`language` as given, else what the voice's name begins with (`en-US-Neural2-F`), else US English."""
    parts = request.voice.split("-")
    return request.language or ("-".join(parts[:2]) if len(parts) >= 2 else DEFAULT_LANGUAGE)


def _wanted(request: SpeechRequest) -> dict[str, dict[str, str | int]]:
    text: dict[str, str | int] = {"text": request.text}
    if request.prompt:
        text["prompt"] = request.prompt
    voice: dict[str, str | int] = {"languageCode": language_of(request), "name": request.voice}
    if request.model_id:
        voice["modelName"] = request.model_id
    return {"input": text, "voice": voice, "audioConfig": {"audioEncoding": "LINEAR16", "sampleRateHertz": RATE_HZ}}


def pcm_of_wav(wav: bytes) -> bytes:
    """RIFF/WAVE with 16-bit PCM → 16 kHz mono. A data size of 0 or 0xFFFFFFFF reaches to the end. ValueError otherwise."""
    if wav[:4] != b"RIFF" or wav[8:12] != b"WAVE":
        raise ValueError("not a WAV")
    channels, rate_hz = 0, 0
    at = 12
    while at + 8 <= len(wav):
        kind, size = wav[at : at + 4], int.from_bytes(wav[at + 4 : at + 8], "little")
        at += 8
        if kind == b"fmt " and size >= 16 and at + 16 <= len(wav):
            if wav[at : at + 2] not in {b"\1\0", b"\xfe\xff"} or wav[at + 14 : at + 16] != b"\x10\0":
                raise ValueError("not 16-bit PCM")
            channels = int.from_bytes(wav[at + 2 : at + 4], "little")
            rate_hz = int.from_bytes(wav[at + 4 : at + 8], "little")
        elif kind == b"data":
            if not 1 <= channels <= 2 or not 8000 <= rate_hz <= 192_000:
                raise ValueError("no format before the data, or none that speech has")
            end = len(wav) if size in {0, 0xFFFFFFFF} else at + size
            return _converted(wav[at:end], channels, rate_hz)
        at += size + size % 2
    raise ValueError("no data")


def _converted(data: bytes, channels: int, rate_hz: int) -> bytes:
    whole = len(data) // (2 * channels) * channels
    if not whole:
        raise ValueError("no data")
    samples: NDArray[np.int16] = np.frombuffer(data, "<i2", whole)
    if channels == 2:
        samples = samples.reshape(-1, 2).mean(axis=1).round().astype(np.int16)
    if rate_hz != RATE_HZ:
        samples = soxr.resample(samples, rate_hz, RATE_HZ)
    return samples.astype("<i2").tobytes()
