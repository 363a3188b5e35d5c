"""One WebSocket to a vendor, from its upgrade to its end; what is said on it is a dialect's business.

Runs in: stream.
Owns: connecting, pings, silences, stalls, the close, and the one `Ended` that tells how it went.

Rules
1. `run` always returns exactly one Ended; nothing a vendor sends or fails to send leaves it as an exception.
2. We ping every 20 s. Anything heard counts, pongs too; 60 s of nothing end it, and so does a vendor that lets a write wait for
   10 s. A vendor whose dialect is not ready 30 s after the upgrade is given up.
3. Two buffers, both bounded: the feed (drops its oldest) and aiohttp's receive queue (the vendor waits). A message above 4 MiB
   ends the connection.
4. The feed's end is the owner's wish to stop: farewell, up to `finals_seconds` of listening, close.
5. Errors are told without cause and in our words: aiohttp's carry request headers, and with them the key. A vendor's words are
   cut to 200 printable characters and lose the key.
6. A lost connection is not made anew: the vendor's conversation is gone with it.

Not here: proxies, certificates, connect time-outs → client; messages → one file per vendor.
"""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import aiohttp
import msgspec
from aiohttp import WSMsgType
from yarl import URL

from shm.errors import PeerError
from workers.stream.feed import AudioFeed
from workers.stream.speech.protocol import Category
from workers.stream.speech.reply import category_of

Message = str | bytes
Decoded = TypeVar("Decoded")

_WORDS_LENGTH = 200
_TEXT_LENGTH = 16_000  # of a transcript: it must fit into a message to control
_NORMAL_CLOSES = frozenset({None, 0, 1000, 1001, 1005})
_BUSY_CLOSES = frozenset({1011, 1012, 1013})


class VendorError(PeerError):
    """A vendor refused, vanished or spoke nonsense; `category` is a word of contract media.md, section 9.6."""

    def __init__(self, text: str, category: Category = Category.UNKNOWN) -> None:
        super().__init__(text)
        self.category = category


class Ended(msgspec.Struct, frozen=True):
    """How it ended: `stopped` by the owner, `closed` by the vendor in good order, or `failed`, and then why."""

    reason: Literal["stopped", "closed", "failed"]
    error: str = ""
    category: str = ""

    @classmethod
    def failed(cls, error: VendorError) -> "Ended":
        """With the error's words."""
        return cls("failed", str(error), error.category.value)


STOPPED = Ended("stopped")
CLOSED = Ended("closed")


class Dialect:
    """What one vendor says and understands: text and bytes in, text and bytes out, no socket. One per connection."""

    vendor: ClassVar[str]
    finals_seconds: ClassVar[float] = 0.0  # how long to listen after our farewell
    idle_seconds: ClassVar[float | None] = None  # after so long without a chunk, `idle` is said

    def __init__(self) -> None:
        self.is_ready = True  # False until the vendor has said what audio waits for
        self.is_over = False  # the vendor has said its last word

    def opening(self) -> Iterable[Message]:
        """Said first."""
        return ()

    def chunk(self, chunk: bytes) -> Message:
        """20 ms of audio as this vendor takes them."""
        raise NotImplementedError

    def idle(self) -> Message:
        """Said when there is no audio to send."""
        raise NotImplementedError

    def farewell(self) -> Iterable[Message]:
        """Said when we stop."""
        return ()

    def hear(self, message: Message) -> Iterable[Message]:
        """Takes one message and returns what to answer. VendorError when it ends everything."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class SocketLimits:
    """Seconds and bytes; the defaults are the contract's, tests wait less."""

    connect_seconds: float = 40.0  # the session ends connecting after 10, the reply's first byte after 30
    ready_seconds: float = 30.0
    ping_seconds: float = 20.0
    silence_seconds: float = 60.0
    stall_seconds: float = 10.0
    close_seconds: float = 1.0
    message_bytes: int = 4 * 1024 * 1024


DEFAULT_LIMITS = SocketLimits()


class VendorSocket:
    """`secrets` are words that no error may repeat."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        url: str,
        dialect: Dialect,
        *,
        headers: dict[str, str] | None = None,
        secrets: Sequence[str] = (),
        limits: SocketLimits = DEFAULT_LIMITS,
    ) -> None:
        self._http = http
        self._url = url
        self._dialect = dialect
        self._headers = headers or {}
        self._secrets = secrets
        self._limits = limits
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._ready = asyncio.Event()

    @property
    def is_open(self) -> bool:
        """The vendor has taken the connection."""
        return self._socket is not None and not self._socket.closed

    async def send(self, message: Message) -> None:
        """A message out of the row, as soon as the vendor is ready. VendorError when it cannot be delivered."""
        try:
            await self._ready.wait()  # set at the latest when the connection ends
            await self._send(message)
        except (aiohttp.ClientError, OSError):
            raise VendorError(f"{self._dialect.vendor}: the connection is gone", Category.RETRYABLE) from None

    async def run(self, audio: AudioFeed, *, even_if_stopped: bool = False) -> Ended:
        """Until the feed is closed or the vendor ends. `even_if_stopped`: a closed feed does not keep us from connecting, for
        vendors that must be told to end."""
        try:
            if not await self._connect(audio, wait_anyway=even_if_stopped):
                return STOPPED
            return await self._converse(audio)
        except VendorError as error:
            if audio.is_closed:
                return STOPPED
            return Ended("failed", words(str(error), self._secrets), error.category.value)
        finally:
            await self._close()
            self._ready.set()

    async def _connect(self, audio: AudioFeed, *, wait_anyway: bool) -> bool:
        """False when the owner stopped first."""
        opening = asyncio.create_task(self._open())
        stopping = asyncio.create_task(audio.wait_closed())
        try:
            await asyncio.wait({opening} if wait_anyway else {opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if opening.done():
                self._socket = opening.result()
            return opening.done()
        finally:
            await _cancelled(opening, stopping)

    async def _open(self) -> aiohttp.ClientWebSocketResponse:
        vendor = self._dialect.vendor
        check_headers(vendor, self._headers)
        try:
            async with asyncio.timeout(self._limits.connect_seconds):
                return await self._http.ws_connect(
                    _http_url(self._url),
                    headers=self._headers,
                    autoping=False,
                    max_msg_size=self._limits.message_bytes,
                    timeout=aiohttp.ClientWSTimeout(ws_close=self._limits.close_seconds),
                )
        except TimeoutError:
            raise VendorError(f"{vendor}: timed out", Category.RETRYABLE) from None
        except aiohttp.WSServerHandshakeError as fault:
            raise VendorError(f"{vendor}: refused with {fault.status}", category_of(fault.status)) from None
        except aiohttp.ClientConnectorError as fault:
            raise VendorError(f"{vendor}: cannot connect to {fault.host}:{fault.port}", Category.RETRYABLE) from None
        except ValueError:
            raise VendorError(f"{vendor}: not a WebSocket URL", Category.PERMANENT_INPUT) from None
        except (aiohttp.ClientError, OSError) as fault:
            raise VendorError(f"{vendor}: cannot connect ({type(fault).__name__})", Category.RETRYABLE) from None

    async def _converse(self, audio: AudioFeed) -> Ended:
        speaking = asyncio.create_task(self._speak(audio))  # first: what the opening reports comes before what is heard
        listening = asyncio.create_task(self._listen())
        pinging = asyncio.create_task(self._ping())
        try:
            await asyncio.wait({listening, speaking}, return_when=asyncio.FIRST_COMPLETED)
            if speaking.done():
                speaking.result()
                # The farewell is said, or the connection broke, and then listening is about to know how.
                patience = self._dialect.finals_seconds if audio.is_closed else self._limits.close_seconds
                await asyncio.wait({listening}, timeout=patience)
            if listening.done():
                ended = listening.result()
                return STOPPED if audio.is_closed else ended
            if audio.is_closed:
                return STOPPED
            raise VendorError(f"{self._dialect.vendor}: the connection broke", Category.RETRYABLE)
        finally:
            await _cancelled(listening, speaking, pinging)

    async def _speak(self, audio: AudioFeed) -> None:
        """Returns when the farewell is said, or at once when the connection turns out to be gone."""
        dialect = self._dialect
        with suppress(aiohttp.ClientError, ConnectionError):
            for message in dialect.opening():
                await self._send(message)
            await self._wait_ready(audio)
            while True:
                try:
                    async with asyncio.timeout(dialect.idle_seconds):
                        chunk = await audio.get()
                except TimeoutError:
                    await self._send(dialect.idle())
                    continue
                if chunk is None:
                    break
                await self._send(dialect.chunk(chunk))
            for message in dialect.farewell():
                await self._send(message)

    async def _wait_ready(self, audio: AudioFeed) -> None:
        if self._dialect.is_ready:
            self._ready.set()
            return
        ready, stopping = asyncio.create_task(self._ready.wait()), asyncio.create_task(audio.wait_closed())
        try:
            done, _ = await asyncio.wait(
                {ready, stopping}, timeout=self._limits.ready_seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            await _cancelled(ready, stopping)
        if not done:
            raise VendorError(f"{self._dialect.vendor}: does not answer", Category.RETRYABLE)

    async def _listen(self) -> Ended:
        """How the vendor ended it."""
        assert self._socket is not None
        dialect, limits = self._dialect, self._limits
        while True:
            try:
                message = await self._socket.receive(limits.silence_seconds)
            except TimeoutError:
                text = f"{dialect.vendor}: nothing came for {limits.silence_seconds:g} s"
                raise VendorError(text, Category.RETRYABLE) from None
            match message.type:
                case WSMsgType.TEXT | WSMsgType.BINARY:
                    for answer in dialect.hear(message.data):
                        await self._answer(answer)
                    if dialect.is_over:
                        return CLOSED
                    if dialect.is_ready:
                        self._ready.set()
                case WSMsgType.PING:
                    await self._answer(message.data, is_pong=True)
                case WSMsgType.PONG:
                    pass
                case WSMsgType.ERROR:
                    raise VendorError(f"{dialect.vendor}: broke the WebSocket protocol")
                case _:  # CLOSE, CLOSING, CLOSED
                    return self._closed(message.extra if message.type is WSMsgType.CLOSE else "")

    def _closed(self, reason: object) -> Ended:
        assert self._socket is not None
        code = self._socket.close_code
        if code in _NORMAL_CLOSES:
            return CLOSED
        if code == 1006:
            raise VendorError(f"{self._dialect.vendor}: the connection broke", Category.RETRYABLE)
        category = Category.SERVICE_UNAVAILABLE if code in _BUSY_CLOSES else Category.UNKNOWN
        raise VendorError(f"{self._dialect.vendor}: closed with {code} {reason or ''}".rstrip(), category)

    async def _answer(self, message: Message, *, is_pong: bool = False) -> None:
        """A gone connection is told by the next receive, with its code."""
        with suppress(aiohttp.ClientError, ConnectionError):
            await self._send(message, is_pong=is_pong)

    async def _ping(self) -> None:
        assert self._socket is not None
        with suppress(aiohttp.ClientError, OSError):  # a stalled ping is a stalled chunk, too
            while True:
                await asyncio.sleep(self._limits.ping_seconds)
                await self._socket.ping()

    async def _send(self, message: Message, *, is_pong: bool = False) -> None:
        if self._socket is None:
            raise ConnectionResetError
        try:
            async with asyncio.timeout(self._limits.stall_seconds):
                if is_pong:
                    assert isinstance(message, bytes)
                    await self._socket.pong(message)
                elif isinstance(message, str):
                    await self._socket.send_str(message)
                else:
                    await self._socket.send_bytes(message)
        except TimeoutError:
            raise VendorError(f"{self._dialect.vendor}: stopped reading", Category.RETRYABLE) from None

    async def _close(self) -> None:
        if self._socket is None or self._socket.closed:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(2 * self._limits.close_seconds):  # the close frame, then the vendor's
                await self._socket.close()


def check_headers(vendor: str, headers: dict[str, str]) -> None:
    """VendorError when the key in them cannot be one: a line break in it would be somebody's header."""
    if not all(value.isascii() and value.isprintable() for value in headers.values()):
        raise VendorError(f"{vendor}: the api key is not printable ASCII", Category.PERMANENT_AUTH)


def decoded(vendor: str, message: Message, form: type[Decoded]) -> Decoded:
    """A JSON message as `form`. VendorError when it is none: who sends garbage once has lost the thread."""
    try:
        return msgspec.json.decode(message, type=form)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise VendorError(f"{vendor}: sent what is not its protocol") from None


def encoded(message: Any) -> str:
    """JSON for a text frame; bytes inside become base64."""
    return msgspec.json.encode(message).decode()


def words(text: str, secrets: Iterable[str]) -> str:
    """A vendor's words as they may be passed on."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "…")
    return "".join(c for c in text if c.isprintable())[:_WORDS_LENGTH]


def clipped(text: str) -> str:
    """A transcript that fits into a message between our processes."""
    return text.strip()[:_TEXT_LENGTH]


def _http_url(url: str) -> URL:
    """aiohttp looks up HTTPS_PROXY by the URL's scheme, so that wss would pass it by. ValueError when it is no such URL."""
    scheme, separator, rest = url.partition("://")
    schemes = {"ws": "http", "wss": "https", "http": "http", "https": "https"}
    if not separator or scheme.lower() not in schemes:
        raise ValueError
    is_clean = url.isascii() and url.isprintable() and " " not in url  # then it goes out as given, signatures intact
    target = URL(f"{schemes[scheme.lower()]}://{rest}", encoded=is_clean)
    if not target.host:
        raise ValueError
    return target


async def _cancelled(*tasks: "asyncio.Task[Any]") -> None:
    """None of them runs any more; whatever they were about to say is not wanted."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
