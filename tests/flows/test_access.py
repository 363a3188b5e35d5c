"""Who may use the API: ALLOWED_IPS and TRUST_PROXY_HEADERS on the real server (contract README.md §4, config.md §2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp
import pytest

from tests.flows.tools.server import Server

pytestmark = pytest.mark.flow


async def asked(
    server: Server, *, from_: str = "127.0.0.1", forwarded: str | None = None, path: str = "/v1/rooms"
) -> int:
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    connector = aiohttp.TCPConnector(local_addr=(from_, 0))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(server.base + path, headers=headers) as response,
    ):
        text = (await response.text()).strip()
        assert response.status != 403 or text.endswith('"error":"forbidden"}')
        return response.status


async def test_addresses_not_on_the_list_are_refused(own_server: Callable[..., Server]) -> None:
    server = own_server(ALLOWED_IPS="127.0.0.1, 192.0.2.0/24")
    assert await asked(server) == 200
    assert await asked(server, from_="127.0.0.2") == 403
    assert await asked(server, from_="127.0.0.2", path="/metrics") == 403
    assert await asked(server, from_="127.0.0.2", path="/v1/nothing") == 403
    assert await asked(server, from_="127.0.0.2", forwarded="127.0.0.1") == 403, "the header counts only where trusted"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))) as session:
        for path in ("/v1/vsi", "/v1/rooms/none/ws"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
                await session.ws_connect(server.base + path)
            assert refusal.value.status == 403
    assert not server.errors()
    await asyncio.to_thread(server.stop)


@pytest.mark.parametrize(
    ("forwarded", "status"),
    [
        (None, 200),
        ("192.0.2.9", 200),
        ("::ffff:192.0.2.9", 200),
        ("192.0.2.9, 203.0.113.1", 200),
        ("203.0.113.1, 192.0.2.9", 403),
        ("nonsense", 403),
        ("", 403),
    ],
)
async def test_behind_a_proxy_the_forwarded_address_counts(
    forwarded: str | None, status: int, behind_proxy: Server
) -> None:
    assert await asked(behind_proxy, forwarded=forwarded) == status


@pytest.fixture(scope="module")
def behind_proxy() -> Server:
    server = Server(ALLOWED_IPS="127.0.0.1,192.0.2.0/24", TRUST_PROXY_HEADERS="true").start()
    yield server
    assert not server.errors()
    server.stop()
