"""Pipecat bots (contract media.md, section 11.3): a WebSocket at a URL of the caller's, protobuf frames in binary messages.

Runs in: stream.
Owns: what a bot's frames mean.

Rules
1. There is no key and no greeting: the agent is connected when the socket is, and the URL is the conversation's id.
2. Each audio frame says its own rate and channels; 0 or absent means 16 kHz mono. A change begins a new stream.
3. Text messages are ignored; so are JSON messages that are not RTVI's. A binary message that is no frame ends the conversation.

Not here: bytes of frames → pipecat_frames; whether the URL may be reached → the owner's HTTP session.
"""

from collections.abc import Iterable

import aiohttp
import msgspec

from workers.stream.agents import pipecat_frames as frames
from workers.stream.agents.formats import MAX_CHANNELS, ROOM_HZ, FromVendor, is_rate
from workers.stream.agents.protocol import (
    AgentAudio,
    AgentResponse,
    Connected,
    Interrupted,
    PipecatRequest,
    Report,
    UserTranscript,
    check_connected,
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
)

NAME = "pipecat"


class PipecatAgent:
    """Agent."""

    def __init__(
        self, http: aiohttp.ClientSession, request: PipecatRequest, limits: SocketLimits = DEFAULT_LIMITS
    ) -> None:
        self._http = http
        self._request = request
        self._limits = limits
        self._socket: VendorSocket | None = None

    async def run(self, audio: AudioFeed, report: Report) -> Ended:
        """One WebSocket."""
        url = self._request.websocket_url
        self._socket = VendorSocket(self._http, url, FramesDialect(url, report), limits=self._limits)
        return await self._socket.run(audio)

    async def inject(self, text: str) -> None:
        """As a TextFrame."""
        await check_connected(self._socket).send(frames.text_frame(text))


class _RtviData(msgspec.Struct):
    text: str | None = None
    final: bool | None = None


class _Rtvi(msgspec.Struct):
    type: str = ""
    data: _RtviData | None = None


class _Kind(msgspec.Struct):
    type: str = ""


_SPOKEN = frozenset({"user-transcript", "user-transcription", "bot-transcript", "bot-transcription"})


class FramesDialect(Dialect):
    """The messages."""

    vendor = NAME

    def __init__(self, url: str, report: Report) -> None:
        super().__init__()
        self._url = url
        self._report = report
        self._from_vendor = FromVendor()

    def opening(self) -> Iterable[Message]:
        self._report(Connected(clipped(self._url)))
        return ()

    def chunk(self, chunk: bytes) -> Message:
        return frames.audio_frame(chunk, ROOM_HZ, 1)

    def hear(self, message: Message) -> Iterable[Message]:
        if isinstance(message, str):
            return ()
        try:
            frame = frames.read_frame(message)
        except ValueError:
            raise VendorError(f"{NAME}: sent what is no frame") from None
        match frame:
            case frames.Audio():
                self._play(frame)
            case frames.Text(text):
                self._say(text, is_user=False)
            case frames.Transcription(text):
                self._say(text, is_user=True)
            case frames.Json(data):
                self._rtvi(data)
            case frames.Interruption():
                self._report(Interrupted())
        return ()

    def _play(self, frame: frames.Audio) -> None:
        rate_hz, channels = frame.rate_hz or ROOM_HZ, frame.channels or 1
        if not is_rate(rate_hz) or channels > MAX_CHANNELS:
            raise VendorError(f"{NAME}: sent audio of {rate_hz} Hz in {channels} channels")
        if (rate_hz, channels) != (self._from_vendor.rate_hz, self._from_vendor.channels):
            self._from_vendor = FromVendor(rate_hz, channels)
        if pcm := self._from_vendor(frame.audio):
            self._report(AgentAudio(pcm))

    def _rtvi(self, data: str) -> None:
        try:
            kind = msgspec.json.decode(data, type=_Kind).type
            if kind == "user-started-speaking":
                self._report(Interrupted())
            elif kind in _SPOKEN:
                spoken = msgspec.json.decode(data, type=_Rtvi).data or _RtviData()
                if spoken.final is not False:
                    self._say(spoken.text or "", is_user=kind.startswith("user"))
        except (msgspec.DecodeError, RecursionError):
            return  # bots send messages of their own making to their own clients

    def _say(self, text: str, *, is_user: bool) -> None:
        if text := clipped(text):
            self._report(UserTranscript(text) if is_user else AgentResponse(text))
