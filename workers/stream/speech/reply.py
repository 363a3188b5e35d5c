"""A vendor's HTTP reply becomes pieces of audio or one SpeechError (contract media.md, section 9.6).

Runs in: stream.
Owns: which status is which category, and what of a vendor's error is passed on.

Rules
1. Redirects are not followed: the key in the headers is for the vendor alone.
2. Whatever goes wrong while the reply is open leaves as SpeechError without a cause attached: aiohttp's errors carry the
   request's headers, and so the key.
3. A vendor's words are cut to 200 printable characters and lose any secret they repeat.
4. A 200 that holds text instead of audio (a captive portal, an error page) is an error, not noise in a call.

Not here: trying again → retries; timeouts → workers/stream/client.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from workers.stream.speech.protocol import MAX_AUDIO_BYTES, Category, Pieces, SpeechError

_ERROR_BODY_BYTES = 4096
_ERROR_BODY_SECONDS = 2.0
_ERROR_TEXT_LENGTH = 200
_TEXTUAL = frozenset({"application/json", "application/xml", "application/xhtml+xml"})


def category_of(status: int) -> Category:
    """What an HTTP status other than 200 means for the utterance."""
    match status:
        case 401 | 403:
            return Category.PERMANENT_AUTH
        case 400 | 404 | 422:
            return Category.PERMANENT_INPUT
        case 408:
            return Category.RETRYABLE
        case 429:
            return Category.RATE_LIMITED
        case _ if 500 <= status < 600:
            return Category.SERVICE_UNAVAILABLE
        case _:
            return Category.UNKNOWN


def checked_key(vendor: str, key: str) -> str:
    """The key as a header takes it. A line break in it would be somebody's header, other scripts a mistake in copying."""
    if not key or not key.isascii() or not key.isprintable():
        raise SpeechError(f"{vendor}: the api key is missing or not printable ASCII", Category.PERMANENT_AUTH)
    return key


@asynccontextmanager
async def exchange(
    session: aiohttp.ClientSession,
    vendor: str,
    method: str,
    url: str,
    *,
    headers: dict[str, str],
    body: bytes | None = None,
    secrets: Iterable[str] = (),
) -> AsyncGenerator[aiohttp.ClientResponse, None]:
    """One request whose reply is 200, open for reading. `url` is already percent-encoded."""
    # Compressed speech would save nothing and let a small reply grow without bound.
    headers = {**headers, "Accept-Encoding": "identity"}
    try:
        async with session.request(
            method, URL(url, encoded=True), data=body, headers=headers, allow_redirects=False
        ) as reply:
            if reply.status != 200:
                raise await _refusal(vendor, reply, secrets)
            yield reply
    except TimeoutError:
        raise SpeechError(f"{vendor}: timed out", Category.RETRYABLE) from None
    except aiohttp.ClientConnectorError as fault:
        raise SpeechError(f"{vendor}: cannot connect to {fault.host}:{fault.port}", Category.RETRYABLE) from None
    except (aiohttp.ClientError, OSError) as fault:
        raise SpeechError(f"{vendor}: the connection broke ({type(fault).__name__})", Category.RETRYABLE) from None


async def posted_audio(
    session: aiohttp.ClientSession,
    vendor: str,
    url: str,
    *,
    headers: dict[str, str],
    body: bytes,
    secrets: Iterable[str] = (),
) -> Pieces:
    """One POST whose reply is raw audio in the form of the protocol, passed on as it arrives."""
    async with exchange(session, vendor, "POST", url, headers=headers, body=body, secrets=secrets) as reply:
        if reply.content_type.startswith("text/") or reply.content_type in _TEXTUAL:
            raise SpeechError(f"{vendor}: sent {reply.content_type} instead of audio", Category.UNKNOWN)
        odd = b""
        total_bytes = 0
        async for data in reply.content.iter_any():
            total_bytes += len(data)
            if total_bytes > MAX_AUDIO_BYTES:
                raise SpeechError(f"{vendor}: the audio does not end", Category.UNKNOWN)
            whole = odd + data
            even = len(whole) & ~1
            odd = whole[even:]
            if even:
                yield whole[:even]
        if total_bytes < 2:
            raise SpeechError(f"{vendor}: sent no audio", Category.UNKNOWN)


async def read_at_most(reply: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
    """The body, or its first `limit_bytes` + 1 when it is longer."""
    body = bytearray()
    async for data in reply.content.iter_any():
        body += data
        if len(body) > limit_bytes:
            return bytes(body[: limit_bytes + 1])
    return bytes(body)


async def _refusal(vendor: str, reply: aiohttp.ClientResponse, secrets: Iterable[str]) -> SpeechError:
    try:
        async with asyncio.timeout(_ERROR_BODY_SECONDS):
            body = await read_at_most(reply, _ERROR_BODY_BYTES)
    except (aiohttp.ClientError, OSError):  # TimeoutError is one; the status says enough
        body = b""
    code, words = _code_and_words(body)
    code = reply.headers.get("x-amzn-ErrorType", "").partition(":")[0] or code
    for secret in filter(None, secrets):
        code, words = code.replace(secret, "…"), words.replace(secret, "…")
    text = "".join(c for c in words if c.isprintable())[:_ERROR_TEXT_LENGTH]
    separator = " " if text else ""
    status = reply.status
    return SpeechError(f"{vendor}: {status}{separator}{text}", category_of(status), status=status, code=code)


def _code_and_words(body: bytes) -> tuple[str, str]:
    """A vendor's word for the error and its sentence. ElevenLabs nests them in `detail`, Google in `error`, others do not."""
    try:
        answer: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "", ""
    for key in ("detail", "error"):
        if isinstance(answer, dict) and key in answer:
            answer = answer[key]
    if isinstance(answer, list) and answer:
        answer = answer[0]
    if isinstance(answer, str):
        return "", answer
    if not isinstance(answer, dict):
        return "", ""
    texts = {key: value for key, value in answer.items() if isinstance(value, str)}
    code = texts.get("status") or texts.get("code") or texts.get("err_code") or ""
    words = texts.get("message") or texts.get("Message") or texts.get("err_msg") or texts.get("msg") or code
    return code, words
