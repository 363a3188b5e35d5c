"""Fetching what an API caller's URL names (contract media.md, section 5; config.md, section 8).

Runs in: stream.
Owns: the limits of a download, and the file it is kept in.

Rules
1. GET, at most REDIRECTS_LIMIT redirects, 30 s for the headers, 5 min and 100 MiB for all of it; status 200 or nothing.
2. Every address is judged before it is connected to (`shm/reach.py`), redirects included, and it is the one connected to.
3. The body goes to a file without a name: whatever dies, nothing stays. The disk is touched by threads only.
4. FETCHES_LIMIT at once; the others wait in order. Cancelled, it hangs up.

Not here: what the bytes mean → `decode.py`.
"""

import asyncio
import ssl
import tempfile
from dataclasses import dataclass
from typing import IO

import aiohttp
from yarl import URL

from shm.errors import PeerError
from shm.reach import Forbidden, GuardedResolver, Journey, Reach, plain_address, proxy_for

FETCHES_LIMIT = 64
REDIRECTS_LIMIT = 5
PIECE_BYTES = 256 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NO_AUDIO = frozenset({"text/html", "application/xhtml+xml", "application/json"})


class FetchError(PeerError):
    """The text says why, for people."""


@dataclass(frozen=True)
class FetchLimits:
    """The contract's; tests wait less."""

    connect_s: float = 10.0
    headers_s: float = 30.0
    total_s: float = 300.0
    size_bytes: int = 100 * 1024 * 1024


class Fetcher:
    """One per process."""

    def __init__(self, reach: Reach, tls: ssl.SSLContext, limits: FetchLimits = FetchLimits()) -> None:
        self._reach = reach
        self._tls = tls
        self._limits = limits
        self._places = asyncio.Semaphore(FETCHES_LIMIT)

    async def fetch(self, url: str) -> IO[bytes]:
        """The whole body, in a file of the caller's. Raises FetchError."""
        async with self._places:
            try:
                async with asyncio.timeout(self._limits.total_s):
                    return await self._travel(url)
            except TimeoutError:
                raise FetchError(f"fetch: not complete after {self._limits.total_s:g} s") from None
            except Forbidden as fault:
                raise FetchError(f"fetch: {fault}") from None
            except aiohttp.ClientConnectorError as fault:
                if isinstance(fault.os_error, Forbidden):
                    raise FetchError(f"fetch: {fault.os_error}") from None
                raise FetchError(f"fetch: cannot connect to {fault.host}:{fault.port}") from None
            except (aiohttp.InvalidURL, ValueError):
                raise FetchError("fetch: not an http or https URL") from None
            except (aiohttp.ClientError, OSError) as fault:
                raise FetchError(f"fetch: {_reason(fault)}") from None

    async def _travel(self, url: str) -> IO[bytes]:
        journey = Journey(self._reach)
        target = URL(url)
        connector = aiohttp.TCPConnector(ssl=self._tls, resolver=GuardedResolver(journey), force_close=True)
        through_proxy = aiohttp.TCPConnector(ssl=self._tls, force_close=True)
        async with self._session(connector) as guarded, self._session(through_proxy) as plain:
            for _ in range(REDIRECTS_LIMIT + 1):
                if target.scheme not in {"http", "https"} or not target.host:
                    raise aiohttp.InvalidURL(target)
                if (address := plain_address(target.host)) is not None:
                    journey.check(target.host, address)
                proxy = proxy_for(target)
                session = plain if proxy else guarded
                async with await self._ask(session, target, proxy) as reply:
                    if reply.status not in _REDIRECTS or "Location" not in reply.headers:
                        return await self._keep(reply)
                    target = target.join(URL(reply.headers["Location"]))
        raise FetchError(f"fetch: more than {REDIRECTS_LIMIT} redirects")

    def _session(self, connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._limits.connect_s),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
        )

    async def _ask(self, session: aiohttp.ClientSession, target: URL, proxy: str | None) -> aiohttp.ClientResponse:
        try:
            async with asyncio.timeout(self._limits.headers_s):
                return await session.get(target, allow_redirects=False, proxy=proxy)
        except TimeoutError:
            raise FetchError(f"fetch: no answer within {self._limits.headers_s:g} s") from None

    async def _keep(self, reply: aiohttp.ClientResponse) -> IO[bytes]:
        if reply.status != 200:
            raise FetchError(f"fetch: the server answered {reply.status}")
        if reply.content_type in _NO_AUDIO:
            raise FetchError(f"fetch: {reply.content_type} is no audio")
        if reply.headers.get("Content-Encoding", "identity") != "identity":
            raise FetchError("fetch: the server compressed what was asked for as it is")
        if (reply.content_length or 0) > self._limits.size_bytes:
            raise self._too_large()
        file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - the caller's, once it is whole
        try:
            await self._copy(reply.content, file)
        except BaseException:
            file.close()
            raise
        return file

    async def _copy(self, body: aiohttp.StreamReader, file: IO[bytes]) -> None:
        size_bytes = 0
        while piece := await _piece(body):
            size_bytes += len(piece)
            if size_bytes > self._limits.size_bytes:
                raise self._too_large()
            await asyncio.to_thread(file.write, piece)
        await asyncio.to_thread(file.flush)

    def _too_large(self) -> FetchError:
        return FetchError(f"fetch: more than {self._limits.size_bytes // (1024 * 1024)} MiB")


async def _piece(content: aiohttp.StreamReader) -> bytes:
    """PIECE_BYTES as far as they come: a thread is not woken for every packet."""
    parts: list[bytes] = []
    size = 0
    while size < PIECE_BYTES and (part := await content.read(PIECE_BYTES - size)):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _reason(fault: Exception) -> str:
    if isinstance(fault, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
        return "the connection broke"
    if isinstance(fault, OSError) and fault.strerror:
        return fault.strerror
    return type(fault).__name__
