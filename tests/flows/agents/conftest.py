"""Fixtures of the agents' flows: the vendors of agents, and a shared server that records into a folder of the tests' own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from tests.flows.tools import agents
from tests.flows.tools.agents import Vendor
from tests.flows.tools.server import Server
from tests.flows.tools.vendors import Vendors, environment

VendorOf = Callable[[str], Vendor]


@pytest.fixture(scope="session")
def _shared_server(vendor_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """In place of the other flows' server, and what `server`, `rest` and `vsi` lead to here."""
    folder = tmp_path_factory.mktemp("recordings")
    server = Server(RECORDING_DIR=str(folder), **environment(vendor_port)).start()
    yield server
    server.stop()


@pytest.fixture
def vendor_of(vendors: Vendors) -> VendorOf:
    """`vendor_of("vapi")`."""
    return partial(agents.vendor_of, vendors)
