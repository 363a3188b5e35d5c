"""Fixtures of the agents' flows: a shared server that looks for its vendors on loopback, and the vendors.

Not here: keys. None is in the server's environment; requests carry their own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack

import pytest

from tests.flows.tools.agents import Vendor, Vendors
from tests.flows.tools.server import Server

OpenVendor = Callable[[str], Awaitable[Vendor]]


@pytest.fixture(scope="session")
def _vendors() -> Vendors:
    return Vendors()


@pytest.fixture(scope="session")
def _shared_server(_vendors: Vendors, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """In place of the other flows' server, and what `server`, `rest` and `vsi` lead to here."""
    folder = tmp_path_factory.mktemp("recordings")
    server = Server(RECORDING_DIR=str(folder), **_vendors.environment()).start()
    yield server
    server.stop()


@pytest.fixture
async def open_vendor(_vendors: Vendors) -> AsyncIterator[OpenVendor]:
    """`await open_vendor("vapi")`: served until the end of the test."""
    async with AsyncExitStack() as stack:

        async def begin(name: str) -> Vendor:
            vendor = await _vendors.open(name)
            stack.push_async_callback(vendor.close)
            return vendor

        yield begin
