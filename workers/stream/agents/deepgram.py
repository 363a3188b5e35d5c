"""Deepgram Voice Agent (contract media.md, section 11.4).

Runs in: stream.
Owns: the converse endpoint, its messages, the settings a caller does not give.

Rules
1. `type` and `audio` of the settings are ours, whatever the caller wrote; the rest is the caller's.
2. Our audio waits until the settings are applied.
3. KeepAlive when no audio was sent for 5 s.

Not here: Deepgram's speech and transcription → their own folders.
"""

from collections.abc import Iterable
from typing import Any

import aiohttp
import msgspec

from workers.stream.agents.formats import FromVendor
from workers.stream.agents.protocol import (
    AgentAudio,
    AgentProblem,
    AgentResponse,
    Connected,
    DeepgramRequest,
    Interrupted,
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
    VendorSocket,
    clipped,
    decoded,
    encoded,
    words,
)

NAME = "deepgram"
DEFAULT_BASE = "wss://agent.deepgram.com"
KEEP_ALIVE_SECONDS = 5.0

_AUDIO = {
    "input": {"encoding": "linear16", "sample_rate": 16000},
    "output": {"encoding": "linear16", "sample_rate": 16000, "container": "none"},
}
_DEFAULT_AGENT: dict[str, Any] = {
    "listen": {"provider": {"type": "deepgram", "model": "nova-3"}},
    "think": {"provider": {"type": "open_ai", "model": "gpt-4o-mini"}},
    "speak": {"provider": {"type": "deepgram", "model": "aura-2-asteria-en"}},
}


class DeepgramAgent:
    """Agent."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        request: DeepgramRequest,
        base_url: str = DEFAULT_BASE,
        limits: SocketLimits = DEFAULT_LIMITS,
    ) -> None:
        self._http = http
        self._request = request
        self._base_url = base_url.rstrip("/")
        self._limits = limits
        self._socket: VendorSocket | None = None

    async def run(self, audio: AudioFeed, report: Report) -> Ended:
        """One WebSocket."""
        key = self._request.api_key
        self._socket = VendorSocket(
            self._http,
            f"{self._base_url}/v1/agent/converse",
            ConverseDialect(self._request, report),
            headers={"Authorization": f"token {key}"},
            secrets=[key],
            limits=self._limits,
        )
        return await self._socket.run(audio)

    async def inject(self, text: str) -> None:
        """The agent says it."""
        await check_connected(self._socket).send(encoded({"type": "InjectAgentMessage", "message": text}))


def settings_of(request: DeepgramRequest) -> dict[str, Any]:
    """The caller's settings with our audio, or the defaults."""
    settings = dict(request.settings) if request.settings is not None else {"agent": _DEFAULT_AGENT}
    extras = {"language": request.language, "greeting": request.greeting}
    extras = {name: value for name, value in extras.items() if value}
    if extras:
        agent = settings.get("agent")
        settings["agent"] = (agent if isinstance(agent, dict) else {}) | extras
    return {**settings, "type": "Settings", "audio": _AUDIO}


class _Heard(msgspec.Struct):
    type: str = ""
    request_id: str | None = None
    session_id: str | None = None
    role: str | None = None
    content: str | None = None
    description: str | None = None
    message: str | None = None
    code: Any = None


class ConverseDialect(Dialect):
    """The messages."""

    vendor = NAME
    idle_seconds = KEEP_ALIVE_SECONDS

    def __init__(self, request: DeepgramRequest, report: Report) -> None:
        super().__init__()
        self.is_ready = False
        self._request = request
        self._report = report
        self._from_vendor = FromVendor()
        self._is_connected = False

    def opening(self) -> Iterable[Message]:
        return [encoded(settings_of(self._request))]

    def chunk(self, chunk: bytes) -> Message:
        return chunk

    def idle(self) -> Message:
        return '{"type":"KeepAlive"}'

    def hear(self, message: Message) -> Iterable[Message]:
        if isinstance(message, bytes):
            if pcm := self._from_vendor(message):
                self._report(AgentAudio(pcm))
            return ()
        heard = decoded(NAME, message, _Heard)
        match heard.type:
            case "Welcome":
                if not self._is_connected:
                    self._is_connected = True
                    self._report(Connected(clipped(heard.request_id or heard.session_id or "")))
            case "SettingsApplied":
                self.is_ready = True
            case "ConversationText":
                if text := clipped(heard.content or ""):
                    self._report(UserTranscript(text) if heard.role == "user" else AgentResponse(text))
            case "UserStartedSpeaking":
                self._report(Interrupted())
            case "Error" | "InjectionRefused":
                text = f"{NAME}: {heard.type} {heard.code or ''} {heard.description or heard.message or ''}"
                self._report(AgentProblem(words(" ".join(text.split()), [self._request.api_key])))
            case _:
                pass
        return ()
