"""ElevenLabs Conversational AI (contract media.md, section 11.1).

Runs in: stream.
Owns: the conversation endpoint and its messages.

Rules
1. The service names the formats of both directions in its first message; our audio waits for that.
2. It cannot be told anything in mid-conversation: `inject` is 501.

Not here: ElevenLabs' speech and transcription → their own folders.
"""

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec

from shm.errors import CallerError
from workers.stream.agents.formats import FromVendor, ToVendor
from workers.stream.agents.protocol import (
    AgentAudio,
    AgentResponse,
    Connected,
    ElevenLabsRequest,
    Interrupted,
    Report,
    UserTranscript,
)
from workers.stream.feed import AudioFeed
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
)

NAME = "elevenlabs"
DEFAULT_BASE = "https://api.elevenlabs.io"
_FORMAT = re.compile(r"(pcm)_(8000|16000|22050|24000|44100|48000)|(ulaw)_(8000)")


class ElevenLabsAgent:
    """Agent."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        request: ElevenLabsRequest,
        base_url: str = DEFAULT_BASE,
        limits: SocketLimits = DEFAULT_LIMITS,
    ) -> None:
        self._http = http
        self._request = request
        self._base_url = base_url.rstrip("/")
        self._limits = limits

    async def run(self, audio: AudioFeed, report: Report) -> Ended:
        """One WebSocket."""
        request = self._request
        socket = VendorSocket(
            self._http,
            f"{self._base_url}/v1/convai/conversation?agent_id={quote(request.agent_id, safe='')}",
            ConvaiDialect(request, report),
            headers={"xi-api-key": request.api_key},
            secrets=[request.api_key],
            limits=self._limits,
        )
        return await socket.run(audio)

    async def inject(self, text: str) -> None:
        """The service has no such thing."""
        del text
        raise CallerError("elevenlabs agents take no messages", 501)


class _Metadata(msgspec.Struct):
    conversation_id: str = ""
    agent_output_audio_format: str | None = None
    user_input_audio_format: str | None = None


class _Audio(msgspec.Struct):
    audio_base_64: bytes = b""


class _Transcription(msgspec.Struct):
    user_transcript: str = ""


class _Response(msgspec.Struct):
    agent_response: str = ""


class _Ping(msgspec.Struct):
    event_id: int | None = None


class _Heard(msgspec.Struct):
    type: str = ""
    conversation_id: str = ""  # where some say it is
    conversation_initiation_metadata_event: _Metadata = msgspec.field(default_factory=_Metadata)
    audio_event: _Audio = msgspec.field(default_factory=_Audio)
    user_transcription_event: _Transcription = msgspec.field(default_factory=_Transcription)
    agent_response_event: _Response = msgspec.field(default_factory=_Response)
    ping_event: _Ping = msgspec.field(default_factory=_Ping)


class ConvaiDialect(Dialect):
    """The messages."""

    vendor = NAME

    def __init__(self, request: ElevenLabsRequest, report: Report) -> None:
        super().__init__()
        self.is_ready = False
        self._request = request
        self._report = report
        self._from_vendor = FromVendor()
        self._to_vendor = ToVendor()

    def opening(self) -> Iterable[Message]:
        request = self._request
        agent = {"first_message": request.first_message, "language": request.language}
        agent = {name: value for name, value in agent.items() if value}
        initiation: dict[str, Any] = {"type": "conversation_initiation_client_data"}
        if agent:
            initiation["conversation_config_override"] = {"agent": agent}
        if request.dynamic_variables:
            initiation["dynamic_variables"] = request.dynamic_variables
        return [encoded(initiation)] if len(initiation) > 1 else []

    def chunk(self, chunk: bytes) -> Message:
        return encoded({"user_audio_chunk": self._to_vendor(chunk)})

    def hear(self, message: Message) -> Iterable[Message]:
        heard = decoded(NAME, message, _Heard)
        match heard.type:
            case "conversation_initiation_metadata":
                self._begin(heard)
            case "audio":
                if pcm := self._from_vendor(heard.audio_event.audio_base_64):
                    self._report(AgentAudio(pcm))
            case "user_transcript":
                if text := clipped(heard.user_transcription_event.user_transcript):
                    self._report(UserTranscript(text))
            case "agent_response":
                if text := clipped(heard.agent_response_event.agent_response):
                    self._report(AgentResponse(text))
            case "interruption":
                self._report(Interrupted())
            case "ping":
                return [encoded({"type": "pong", "event_id": heard.ping_event.event_id})]
            case _:
                pass
        return ()

    def _begin(self, heard: _Heard) -> None:
        if self.is_ready:
            return
        metadata = heard.conversation_initiation_metadata_event
        rate_hz, is_ulaw = _format(metadata.agent_output_audio_format)
        self._from_vendor = FromVendor(rate_hz, is_ulaw=is_ulaw)
        rate_hz, is_ulaw = _format(metadata.user_input_audio_format)
        self._to_vendor = ToVendor(rate_hz, is_ulaw=is_ulaw)
        self.is_ready = True
        self._report(Connected(clipped(metadata.conversation_id or heard.conversation_id)))


def _format(name: str | None) -> tuple[int, bool]:
    """Rate, and whether it is µ-law."""
    known = _FORMAT.fullmatch(name or "pcm_16000")
    if known is None:
        raise VendorError(f"{NAME}: unknown audio format {name}")
    return int(known[2] or known[4]), bool(known[3])
