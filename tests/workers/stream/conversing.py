"""What tests of vendors' WebSockets share: quick limits, a feed that is fed, the ways in which any vendor may fail."""

import asyncio
from contextlib import asynccontextmanager, suppress
from functools import cache

import pytest
import uvloop

from workers.stream import client
from workers.stream.feed import CHUNK_BYTES, AudioFeed
from workers.stream.vendor_socket import Ended, SocketLimits

LIMITS = SocketLimits(
    connect_seconds=1.0, ready_seconds=0.3, ping_seconds=0.05, silence_seconds=0.4, stall_seconds=1.0, close_seconds=0.3
)
PATIENT = SocketLimits(close_seconds=0.3)
KEY = "good-key"
CHUNK = bytes(CHUNK_BYTES)

# What a fake does → how it ends, in what category.
FAILURES = {
    401: ("failed", "permanent_auth"),
    403: ("failed", "permanent_auth"),
    404: ("failed", "permanent_input"),
    429: ("failed", "rate_limited"),
    500: ("failed", "service_unavailable"),
    200: ("failed", "unknown"),
    "reset": ("failed", "retryable"),
    "stall": ("failed", "retryable"),
    "redirect": ("failed", "retryable"),
    "mute": ("failed", "retryable"),
    "garbage": ("failed", "unknown"),
    "wrong_types": ("failed", "unknown"),
    "deep": ("failed", "unknown"),
    "huge": ("failed", "unknown"),
    "policy": ("failed", "unknown"),
    "cut": ("failed", "retryable"),
    "deaf": ("failed", "retryable"),
    "close": ("closed", ""),
}

read_trust_once = cache(client.trust)  # 70 ms each time


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def http(monkeypatch):
    monkeypatch.setattr(client, "trust", read_trust_once)
    for variable in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    async with client.open_session(connect_timeout_seconds=1.0, read_timeout_seconds=0.3) as session:
        yield session


@asynccontextmanager
async def fed(limit_chunks=500, chunk=CHUNK):
    """A feed that gets ten times as much as it would in a call."""
    feed = AudioFeed(limit_chunks)

    async def push():
        while not feed.is_closed:
            feed.push(chunk)
            await asyncio.sleep(0.002)

    pushing = asyncio.create_task(push())
    try:
        yield feed
    finally:
        pushing.cancel()
        with suppress(asyncio.CancelledError):
            await pushing


async def in_time(waiting, seconds=10.0) -> Ended:
    async with asyncio.timeout(seconds):
        return await waiting
