"""VAPI (contract media.md, section 11.2): a call created by REST, then its WebSocket and its control URL.

Runs in: stream.
Owns: the call, its socket's messages, its control endpoint.

Rules
1. Audio goes to `transport.websocketCallUrl`; `monitor.listenUrl` only listens and is never used.
2. A call that was created is told to end: a stop during the creation waits for it, connects and says so.
3. The key goes to the API and the control URL, not to the socket.

Not here: the WebSocket's life → vendor_socket.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from shm.errors import CallerError
from workers.stream.agents.formats import FromVendor
from workers.stream.agents.protocol import (
    AgentAudio,
    AgentResponse,
    Connected,
    Interrupted,
    Report,
    UserTranscript,
    VapiRequest,
    check_connected,
)
from workers.stream.feed import AudioFeed
from workers.stream.speech.protocol import Category
from workers.stream.speech.reply import category_of, read_at_most
from workers.stream.vendor_socket import (
    DEFAULT_LIMITS,
    STOPPED,
    Dialect,
    Ended,
    Message,
    SocketLimits,
    VendorError,
    VendorSocket,
    check_headers,
    clipped,
    decoded,
    encoded,
    words,
)

NAME = "vapi"
DEFAULT_BASE = "https://api.vapi.ai"
_CALL_BYTES = 256 * 1024
_POST_SECONDS = 40.0


class _Transport(msgspec.Struct):
    websocketCallUrl: str | None = None  # noqa: N815 - the wire's name


class _Monitor(msgspec.Struct):
    controlUrl: str | None = None  # noqa: N815


class _Call(msgspec.Struct):
    id: str = ""
    transport: _Transport | None = None
    monitor: _Monitor | None = None
    listenUrl: str | None = None  # noqa: N815
    controlUrl: str | None = None  # noqa: N815

    @property
    def socket_url(self) -> str:
        return (self.transport.websocketCallUrl if self.transport else None) or self.listenUrl or ""

    @property
    def control_url(self) -> str:
        return (self.monitor.controlUrl if self.monitor else None) or self.controlUrl or ""


class _Refusal(msgspec.Struct):
    message: str | list[str] = ""


class VapiAgent:
    """Agent."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        request: VapiRequest,
        base_url: str = DEFAULT_BASE,
        limits: SocketLimits = DEFAULT_LIMITS,
    ) -> None:
        self._http = http
        self._request = request
        self._base_url = base_url.rstrip("/")
        self._limits = limits
        self._socket: VendorSocket | None = None
        self._control_url = ""

    async def run(self, audio: AudioFeed, report: Report) -> Ended:
        """One POST, one WebSocket."""
        if audio.is_closed:
            return STOPPED
        try:
            call = decoded(NAME, await self._post(f"{self._base_url}/call", _call_of(self._request)), _Call)
        except VendorError as error:
            return STOPPED if audio.is_closed else Ended.failed(error)
        if not call.socket_url:
            return Ended.failed(VendorError(f"{NAME}: named no WebSocket for the call"))
        self._control_url = call.control_url
        self._socket = VendorSocket(
            self._http,
            call.socket_url,
            CallDialect(call.id, report),
            secrets=[self._request.api_key],
            limits=self._limits,
        )
        return await self._socket.run(audio, even_if_stopped=True)

    async def inject(self, text: str) -> None:
        """As a system message."""
        check_connected(self._socket)
        if not self._control_url:
            raise CallerError("vapi gave no control URL for this call", 409)
        message = {"type": "add-message", "message": {"role": "system", "content": text}}
        await self._post(self._control_url, message)

    async def _post(self, url: str, message: dict[str, Any]) -> bytes:
        """The reply's body. VendorError unless it is a 2xx."""
        key = self._request.api_key
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "Accept-Encoding": "identity"}
        check_headers(NAME, headers)
        try:
            async with (
                asyncio.timeout(_POST_SECONDS),
                self._http.post(
                    URL(url), data=msgspec.json.encode(message), headers=headers, allow_redirects=False
                ) as reply,
            ):
                body = await read_at_most(reply, _CALL_BYTES)
                if not 200 <= reply.status < 300:
                    raise VendorError(_refusal(reply.status, body, key), category_of(reply.status))
                return body
        except TimeoutError:
            raise VendorError(f"{NAME}: timed out", Category.RETRYABLE) from None
        except aiohttp.ClientConnectorError as fault:
            raise VendorError(f"{NAME}: cannot connect to {fault.host}:{fault.port}", Category.RETRYABLE) from None
        except ValueError:
            raise VendorError(f"{NAME}: named what is no URL") from None
        except (aiohttp.ClientError, OSError) as fault:
            raise VendorError(f"{NAME}: the connection broke ({type(fault).__name__})", Category.RETRYABLE) from None


def _call_of(request: VapiRequest) -> dict[str, Any]:
    call: dict[str, Any] = {
        "assistantId": request.assistant_id,
        "transport": {
            "provider": "vapi.websocket",
            "audioFormat": {"format": "pcm_s16le", "container": "raw", "sampleRate": 16000},
        },
    }
    overrides = {"firstMessage": request.first_message, "variableValues": request.variable_values}
    if overrides := {name: value for name, value in overrides.items() if value}:
        call["assistantOverrides"] = overrides
    return call


def _refusal(status: int, body: bytes, key: str) -> str:
    try:
        said = msgspec.json.decode(body, type=_Refusal).message
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        said = ""
    text = " ".join(said) if isinstance(said, list) else said
    return f"{NAME}: refused with {status} {words(text, [key])}".rstrip()


class _Heard(msgspec.Struct):
    type: str = ""
    role: str | None = None
    transcript: str | None = None
    transcriptType: str | None = None  # noqa: N815
    status: str | None = None


class CallDialect(Dialect):
    """The messages on the socket."""

    vendor = NAME

    def __init__(self, call_id: str, report: Report) -> None:
        super().__init__()
        self._call_id = call_id
        self._report = report
        self._from_vendor = FromVendor()

    def opening(self) -> Iterable[Message]:
        self._report(Connected(clipped(self._call_id)))
        return ()

    def chunk(self, chunk: bytes) -> Message:
        return chunk

    def farewell(self) -> Iterable[Message]:
        return [encoded({"type": "end-call"})]

    def hear(self, message: Message) -> Iterable[Message]:
        if isinstance(message, bytes):
            if pcm := self._from_vendor(message):
                self._report(AgentAudio(pcm))
            return ()
        heard = decoded(NAME, message, _Heard)
        match heard.type:
            case "transcript" if heard.transcriptType != "partial":
                if text := clipped(heard.transcript or ""):
                    self._report(UserTranscript(text) if heard.role == "user" else AgentResponse(text))
            case "user-interrupted":
                self._report(Interrupted())
            case "status-update":
                self.is_over = heard.status == "ended"
            case _:
                pass
        return ()
