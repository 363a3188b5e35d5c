"""Deepgram streaming transcription, version 1 (contract media.md, section 10.2).

Runs in: stream.
Owns: the listen endpoint and its messages.

Rules
1. `utterance_end_ms` needs interim results on the wire; they stay hidden unless partials are wanted.
2. A result is final when the service says so or when it ends an utterance.

Not here: Flux (version 2); Deepgram's speech and agents → their own folders.
"""

from collections.abc import Iterable
from urllib.parse import quote, urlencode

import aiohttp
import msgspec

from workers.stream.feed import AudioFeed
from workers.stream.transcription.protocol import (
    FINALS_SECONDS,
    Report,
    Transcript,
    TranscriptionRequest,
    UtteranceEnded,
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
    words,
)

NAME = "deepgram"
DEFAULT_BASE = "https://api.deepgram.com"


class Deepgram:
    """Transcriber."""

    def __init__(
        self, http: aiohttp.ClientSession, base_url: str = DEFAULT_BASE, limits: SocketLimits = DEFAULT_LIMITS
    ) -> None:
        self._http = http
        self._base_url = base_url.rstrip("/")
        self._limits = limits

    async def transcribe(self, request: TranscriptionRequest, audio: AudioFeed, report: Report) -> Ended:
        """One WebSocket."""
        socket = VendorSocket(
            self._http,
            f"{self._base_url}/v1/listen?{urlencode(_query(request), quote_via=quote)}",
            ListenDialect(request, report),
            headers={"Authorization": f"token {request.api_key}"},
            secrets=[request.api_key],
            limits=self._limits,
        )
        return await socket.run(audio)


def _query(request: TranscriptionRequest) -> list[tuple[str, str]]:
    query = [
        ("encoding", "linear16"),
        ("sample_rate", "16000"),
        ("channels", "1"),
        ("model", request.model or "nova-3"),
        ("language", request.language or "en"),
    ]
    if request.partial or request.utterance_end_ms:
        query.append(("interim_results", "true"))
    if request.endpointing_ms is not None:
        query.append(("endpointing", str(request.endpointing_ms) if request.endpointing_ms else "false"))
    if request.utterance_end_ms:
        query.append(("utterance_end_ms", str(request.utterance_end_ms)))
    return query + [("keyterm", term) for term in request.keyterms]


class _Alternative(msgspec.Struct):
    transcript: str = ""


class _Channel(msgspec.Struct):
    alternatives: list[_Alternative] = []


class _Kind(msgspec.Struct):
    type: str = ""


class _Results(msgspec.Struct):
    channel: _Channel
    is_final: bool = False
    speech_final: bool = False
    start: float = 0.0
    duration: float = 0.0


class _UtteranceEnd(msgspec.Struct):
    last_word_end: float = 0.0


class _Error(msgspec.Struct):
    description: str = ""
    message: str = ""


class ListenDialect(Dialect):
    """The messages."""

    vendor = NAME
    finals_seconds = FINALS_SECONDS

    def __init__(self, request: TranscriptionRequest, report: Report) -> None:
        super().__init__()
        self._request = request
        self._report = report

    def chunk(self, chunk: bytes) -> Message:
        return chunk

    def farewell(self) -> Iterable[Message]:
        return ['{"type":"CloseStream"}']

    def hear(self, message: Message) -> Iterable[Message]:
        match decoded(NAME, message, _Kind).type:  # `channel` is an object in one type and an array in another
            case "Results":
                self._results(decoded(NAME, message, _Results))
            case "UtteranceEnd":
                self._report(UtteranceEnded(round(decoded(NAME, message, _UtteranceEnd).last_word_end * 1000)))
            case "Error":
                error = decoded(NAME, message, _Error)
                raise VendorError(f"{NAME}: {words(error.description or error.message, [self._request.api_key])}")
            case _:
                pass
        return ()

    def _results(self, results: _Results) -> None:
        text = clipped(results.channel.alternatives[0].transcript) if results.channel.alternatives else ""
        is_final = results.is_final or results.speech_final
        if text and (is_final or self._request.partial):
            start_ms, end_ms = round(results.start * 1000), round((results.start + results.duration) * 1000)
            self._report(Transcript(text, is_final, results.speech_final, start_ms, end_ms))
