"""These modules live on uvloop, so they are tested on it; sessions with timeouts that a test can wait for."""

from functools import cache

import pytest
import uvloop

from workers.stream import client

read_trust_once = cache(client.trust)  # 70 ms each time


def pytest_asyncio_loop_factories(config, item):
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def quick_trust(monkeypatch):
    monkeypatch.setattr(client, "trust", read_trust_once)


@pytest.fixture
def read_timeout_seconds():
    """Overridden where the timeout is what is tested; elsewhere a busy machine must not reach it."""
    return 20.0


@pytest.fixture
async def session(monkeypatch, read_timeout_seconds):
    for variable in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    async with client.open_session(read_timeout_seconds=read_timeout_seconds) as session:
        yield session


@pytest.fixture
def pauses(monkeypatch):
    """No waiting between attempts; the pauses that would have been taken."""
    taken = []

    async def sleep(seconds):
        taken.append(seconds)

    monkeypatch.setattr("workers.stream.speech.retries.sleep", sleep)
    return taken
