"""ElevenLabs realtime transcription (contract media.md, section 10.1).

Runs in: stream.
Owns: the realtime endpoint and its messages.

Rules
1. The service finds the pauses itself (`commit_strategy=vad`); only our farewell commits by hand, and what follows it is the last.
2. Complaints after which the service goes on are reported; every other error ends the session with its words.
3. `committed_transcript_with_timestamps` would repeat what `committed_transcript` said; nobody asks for it.

Not here: ElevenLabs' speech and agents → their own folders.
"""

from collections.abc import Iterable
from urllib.parse import quote, urlencode

import aiohttp
import msgspec

from workers.stream.feed import AudioFeed
from workers.stream.speech.protocol import Category
from workers.stream.transcription.protocol import (
    FINALS_SECONDS,
    Report,
    Transcript,
    TranscriptionProblem,
    TranscriptionRequest,
)
from workers.stream.vendor_socket import (
    DEFAULT_LIMITS,
    Dialect,
    Ended,
    Message,
    SocketLimits,
    VendorError,
    VendorSocket,
    clipped,
    decoded,
    encoded,
    words,
)

NAME = "elevenlabs"
DEFAULT_BASE = "https://api.elevenlabs.io"

_PASSING = frozenset(
    {
        "commit_throttled",
        "insufficient_audio_activity",
        "queue_overflow",
        "rate_limited",
        "chunk_size_exceeded",
        "input_error",
    }
)
_FATAL = {
    "error": Category.UNKNOWN,
    "auth_error": Category.PERMANENT_AUTH,
    "unaccepted_terms": Category.PERMANENT_AUTH,
    "quota_exceeded": Category.RATE_LIMITED,
    "transcriber_error": Category.SERVICE_UNAVAILABLE,
    "resource_exhausted": Category.SERVICE_UNAVAILABLE,
    "session_time_limit_exceeded": Category.UNKNOWN,
}


class ElevenLabs:
    """Transcriber."""

    def __init__(
        self, http: aiohttp.ClientSession, base_url: str = DEFAULT_BASE, limits: SocketLimits = DEFAULT_LIMITS
    ) -> None:
        self._http = http
        self._base_url = base_url.rstrip("/")
        self._limits = limits

    async def transcribe(self, request: TranscriptionRequest, audio: AudioFeed, report: Report) -> Ended:
        """One WebSocket."""
        query = {
            "model_id": "scribe_v2_realtime",
            "language_code": request.language or "en",
            "audio_format": "pcm_16000",
            "commit_strategy": "vad",
        }
        socket = VendorSocket(
            self._http,
            f"{self._base_url}/v1/speech-to-text/realtime?{urlencode(query, quote_via=quote)}",
            RealtimeDialect(request, report),
            headers={"xi-api-key": request.api_key},
            secrets=[request.api_key],
            limits=self._limits,
        )
        return await socket.run(audio)


class _Heard(msgspec.Struct):
    message_type: str = ""
    text: str | None = None
    error: str | None = None


class RealtimeDialect(Dialect):
    """The messages."""

    vendor = NAME
    finals_seconds = FINALS_SECONDS

    def __init__(self, request: TranscriptionRequest, report: Report) -> None:
        super().__init__()
        self._request = request
        self._report = report
        self._has_said_farewell = False

    def chunk(self, chunk: bytes) -> Message:
        return self._audio(chunk, commit=False)

    def farewell(self) -> Iterable[Message]:
        self._has_said_farewell = True
        return [self._audio(b"", commit=True)]

    def hear(self, message: Message) -> Iterable[Message]:
        heard = decoded(NAME, message, _Heard)
        text = clipped(heard.text or "")
        match heard.message_type:
            case "partial_transcript":
                if text and self._request.partial:
                    self._report(Transcript(text, is_final=False))
            case "committed_transcript":
                if text:
                    self._report(Transcript(text, is_final=True))
                self.is_over = self._has_said_farewell
            case kind if kind in _PASSING or kind in _FATAL:
                self._complaint(kind, words(heard.error or "", [self._request.api_key]))
            case _:
                pass
        return ()

    def _audio(self, chunk: bytes, *, commit: bool) -> str:
        return encoded(
            {"message_type": "input_audio_chunk", "audio_base_64": chunk, "commit": commit, "sample_rate": 16000}
        )

    def _complaint(self, kind: str, error: str) -> None:
        text = f"{NAME}: {kind}: {error}".removesuffix(": ")
        if kind in _FATAL:
            raise VendorError(text, _FATAL[kind])
        if self._has_said_farewell:  # most likely there was nothing left to commit
            self.is_over = True
        else:
            self._report(TranscriptionProblem(text))
