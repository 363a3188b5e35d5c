"""The HTTP client session that all vendor dialects of this process share.

Runs in: stream.
Owns: the limits and trust of outgoing connections (contract config.md, section 6).

Rules
1. Proxies are those of HTTPS_PROXY, HTTP_PROXY and NO_PROXY. SSL_CERT_FILE replaces the system's certificates (OpenSSL does
   that itself); REQUESTS_CA_BUNDLE and AWS_CA_BUNDLE add theirs.
2. Connecting, TLS and proxy included, takes at most 10 s. Then 30 s of nothing, at the first byte or later, end a reply.
3. No cookies: what one API caller's key brought never goes out with another's. No cap on connections: calls are capped.
4. Redirects are errors: the keys in the headers are for the vendor alone, and a checked address stays the one talked to.
5. Reading is paced by the reader: 128 KiB wait in the session, then the peer waits. Nothing is dropped.

Not here: WebSocket pings and their limits → one file per vendor; the guard of caller-given URLs → the fetch.
"""

import os
import ssl

import aiohttp
from aiohttp.abc import AbstractResolver

CONNECT_TIMEOUT_SECONDS = 10.0
READ_TIMEOUT_SECONDS = 30.0


def trust() -> ssl.SSLContext:
    """Whom outgoing TLS believes. OSError or ssl.SSLError when a named bundle cannot be read: that is told at the start."""
    context = ssl.create_default_context()
    for variable in ("REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"):
        if bundle := os.environ.get(variable):
            is_folder = os.path.isdir(bundle)  # noqa: PTH112 - as requests decides it
            context.load_verify_locations(**({"capath": bundle} if is_folder else {"cafile": bundle}))
    return context


def open_session(
    connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
    read_timeout_seconds: float = READ_TIMEOUT_SECONDS,
    *,
    tls: ssl.SSLContext | None = None,
    resolver: AbstractResolver | None = None,
) -> aiohttp.ClientSession:
    """To be called in the running loop, once for each `resolver`; the caller closes it. `tls`: what `trust` gave earlier."""
    no_redirects = aiohttp.TraceConfig()  # ws_connect has no parameter for it
    no_redirects.on_request_redirect.append(_refuse_redirect)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=tls or trust(), resolver=resolver),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, connect=connect_timeout_seconds, sock_read=read_timeout_seconds),
        trust_env=True,
        trace_configs=[no_redirects],
    )


async def _refuse_redirect(
    _session: aiohttp.ClientSession, _context: object, seen: aiohttp.TraceRequestRedirectParams
) -> None:
    seen.response.close()
    raise aiohttp.TooManyRedirects(seen.response.request_info, seen.response.history)
