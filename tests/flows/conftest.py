"""Fixtures of the flow tests: one server for all tests that leave it alive, and peers around it.

Rules
1. `server` is shared; a test that kills something takes `own_server`.
2. After each test no leg and no room is left on the shared server and no error was logged: a leak is found where it
   happened.
3. Phones live in the test's own process and loop; `phones` closes them.
4. Vendors are fakes (`vendors`); the shared server's base URLs lead to them and nowhere else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import quote

import pytest

from tests.flows.tools.call import Call
from tests.flows.tools.events import Vsi
from tests.flows.tools.house import building
from tests.flows.tools.phone import Phone
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server
from tests.flows.tools.vendors import Vendors, environment, reserved_port


@pytest.fixture(scope="session")
def vendor_port() -> Iterator[int]:
    with reserved_port() as port:
        yield port


@pytest.fixture(scope="session")
def _shared_server(vendor_port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    recordings = tmp_path_factory.mktemp("recordings")
    server = Server(**environment(vendor_port), RECORDING_DIR=str(recordings)).start()
    yield server
    server.stop()


@pytest.fixture
def server(_shared_server: Server) -> Iterator[Server]:
    before = len(_shared_server.lines)
    yield _shared_server
    errors = _shared_server.errors(after=before)
    assert not errors, "logged as errors during this test:\n" + "\n".join(errors)


@pytest.fixture
def own_server() -> Iterator[Callable[..., Server]]:
    """Starts servers of the test's own, with their own environment."""
    started: list[Server] = []

    def begin(**environment: Any) -> Server:
        started.append(Server(**environment))
        return started[-1].start()

    yield begin
    for server in started:
        if server.running:
            server.kill()
        server.forget()


@pytest.fixture
async def house(own_server: Callable[..., Server]) -> AsyncIterator[Callable]:
    async with building(own_server) as build:
        yield build


@pytest.fixture
async def rest(server: Server, phones: Phones) -> AsyncIterator[Rest]:
    """Cleans up after the test while its phones still answer: hence it depends on them."""
    async with Rest(server.base) as client:
        yield client
        for leg in (await client.get("/legs")).json:
            await client.delete(f"/legs/{leg['id']}", expect=None)
        for room in (await client.get("/rooms")).json:
            await client.delete(f"/rooms/{quote(room['id'], safe='')}", expect=None)


@pytest.fixture
async def vsi(server: Server) -> AsyncIterator[Vsi]:
    async with Vsi(server.base) as client:
        yield client


@pytest.fixture
async def vendors(vendor_port: int) -> AsyncIterator[Vendors]:
    async with Vendors(vendor_port) as fakes:
        yield fakes


class Phones:
    """Makes phones that are closed after the test, and the two ways to get one into a call with the server."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self._stack = stack

    async def new(self, name: str = "phone", **options: Any) -> Phone:
        return await self._stack.enter_async_context(Phone(name, **options))

    async def dialled(self, rest: Rest, *, fields: dict[str, Any] | None = None, **options: Any) -> tuple[str, Call]:
        """The server calls a new phone that answers: (leg id, the phone's call), connected on both sides."""
        phone = await self.new(answering=True, **options)
        fields = fields or {}
        if "codecs" in options and all("/" not in codec for codec in options["codecs"]):
            fields = {"codecs": list(options["codecs"])} | fields
        leg_id = await rest.dial(phone.uri, **fields)
        call = await phone.called()
        await call.answered()
        await connected(rest, leg_id, in_room="room_id" in fields)
        return leg_id, call

    async def meeting(self, rest: Rest, room_id: str, tones: Iterable[float], **options: Any) -> list[tuple[str, Call]]:
        """One answering phone per tone, all in one room and each already hearing all the others."""
        tones = list(tones)
        fields = {"room_id": room_id}
        legs = await asyncio.gather(
            *(self.dialled(rest, name=f"phone{t:g}", tone_hz=t, fields=fields, **options) for t in tones)
        )
        await asyncio.gather(
            *(call.media.settled(set(tones) - {own}) for (_, call), own in zip(legs, tones, strict=True))
        )
        return legs

    async def calling(self, server: Server, vsi: Vsi, rest: Rest, **options: Any) -> tuple[str, Call]:
        """A new phone calls the server, which answers by REST: (leg id, the phone's call)."""
        phone = await self.new(**options)
        before = len(vsi.events)
        call = await phone.dial(server.uri())
        leg_id = (await vsi.wait("leg.ringing", after=before))["leg_id"]
        await rest.post(f"/legs/{leg_id}/answer", expect=202)
        await call.answered()
        await vsi.wait("leg.connected", leg_id=leg_id)
        return leg_id, call


async def connected(rest: Rest, leg_id: str, *, in_room: bool = False, within_s: float = 5.0) -> None:
    """The ACK and the server's bookkeeping of it are two moments; wait for the second one over REST. So is the join."""

    async def is_there() -> bool:
        leg = await rest.leg(leg_id)
        return leg["state"] in ("connected", "held") and (not in_room or "room_id" in leg)

    deadline_s = asyncio.get_running_loop().time() + within_s
    while not await is_there():
        assert asyncio.get_running_loop().time() < deadline_s, f"leg {leg_id} did not connect"
        await asyncio.sleep(0.01)


@pytest.fixture
async def phones() -> AsyncIterator[Phones]:
    async with AsyncExitStack() as stack:
        yield Phones(stack)
