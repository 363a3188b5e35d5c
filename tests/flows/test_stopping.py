"""The end of the server: by SIGTERM to the master or to its whole group, and by the master's death."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.flows.tools.events import Vsi
from tests.flows.tools.phone import Phone
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server

pytestmark = pytest.mark.flow


async def in_calls(server: Server, phone: Phone, count: int) -> list[str]:
    async with Rest(server.base) as rest, Vsi(server.base) as vsi:
        legs = await asyncio.gather(*(rest.dial(phone.uri, room_id=f"r{i % 10}") for i in range(count)))
        await asyncio.gather(*(vsi.wait("leg.joined_room", leg_id=leg, within_s=20) for leg in legs))
    return list(legs)


async def end(server: Server, within_s: float) -> float:
    """Wait for the exit without stopping the phones of this loop; returns the seconds it took."""
    began_s = time.monotonic()
    code = await asyncio.to_thread(server.wait, within_s)
    took_s = time.monotonic() - began_s
    assert code == 0, server.tail()
    await asyncio.to_thread(server.assert_nothing_left)
    return took_s


def test_start_is_quick_and_an_idle_server_ends_within_2_s(own_server: Callable[..., Server]) -> None:
    server = own_server()
    assert server.ready_after_s <= 2
    assert server.stop(within_s=5) <= 2
    assert not server.errors()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_to_the_whole_group_ends_calls_cleanly(number: int, own_server: Callable[..., Server]) -> None:
    server = own_server()
    async with Phone("peer", answering=True) as phone:
        await in_calls(server, phone, 10)
        server.processes()
        os.killpg(server.process.pid, number)
        assert await end(server, 8) <= 4
        assert [await call.ended() for call in phone.calls] == ["bye"] * 10
    assert not server.errors()


async def test_a_hundred_answering_peers_are_hung_up_within_4_s(own_server: Callable[..., Server]) -> None:
    server = own_server()
    async with Phone("peer", answering=True) as phone:
        await in_calls(server, phone, 100)
        server.processes()
        server.signal()
        assert await end(server, 8) <= 4
        assert [await call.ended() for call in phone.calls] == ["bye"] * 100


async def test_deaf_peers_do_not_hold_the_end_up(own_server: Callable[..., Server]) -> None:
    """Nobody answers a BYE, one call rings, one webhook hangs: 8 s in any case."""
    server = own_server()
    async with Phone("peer", answering=True) as phone, Phone("ringing") as ringing, Rest(server.base) as rest:
        await in_calls(server, phone, 5)
        await rest.dial(ringing.uri)
        (await ringing.called()).ring()
        phone.wire.outgoing = ringing.wire.outgoing = lambda _: []
        server.processes()
        server.signal()
        assert await end(server, 9) <= 8


async def test_a_killed_master_takes_everything_along_within_5_s(own_server: Callable[..., Server]) -> None:
    server = own_server()
    async with Phone("peer", answering=True) as phone:
        await in_calls(server, phone, 10)
        server.processes()
        server.signal(signal.SIGKILL)
        began_s = time.monotonic()
        await asyncio.to_thread(server.wait, 2)
        assert [await call.ended(within_s=5) for call in phone.calls] == ["bye"] * 10
        while server.processes():
            assert time.monotonic() < began_s + 5, [p.cmdline() for p in server.processes()]
            await asyncio.sleep(0.05)
    left = [line for line in server.remains() if not line.startswith("file")]
    assert not left


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2])
async def test_signals_that_would_make_a_second_control_are_ignored(
    number: int, own_server: Callable[..., Server]
) -> None:
    server = own_server()
    control = server.only("roomtone: control").pid
    server.signal(number)
    async with Rest(server.base) as rest:
        await rest.room("still here")
    assert server.only("roomtone: control").pid == control
    await asyncio.to_thread(server.stop)


async def test_two_instances_side_by_side(own_server: Callable[..., Server]) -> None:
    first, second = own_server(), own_server()
    async with Rest(first.base) as one, Rest(second.base) as two, Phone("peer", answering=True) as phone:
        await one.room("same")
        await two.room("same")
        await in_calls(first, phone, 3)
        await asyncio.to_thread(first.stop)
        assert (await two.get("/rooms"))[0]["id"] == "same"
        await in_calls(second, phone, 3)
    await asyncio.to_thread(second.stop)


async def test_every_process_has_its_name(own_server: Callable[..., Server]) -> None:
    server = own_server(RTP_WORKERS="2")
    async with Rest(server.base) as rest, Phone("peer", answering=True) as phone:
        for title in ("master", "control", "zygote", "sip", "rtp 0", "rtp 1"):
            server.only(f"roomtone: {title}")
        assert not server.titled("roomtone: room"), "a room without people needs no process"
        await rest.room("named")
        leg_id = await rest.dial(phone.uri, room_id="named")
        await (await phone.called()).answered()
        deadline_s = time.monotonic() + 3
        while not server.titled("roomtone: room named"):
            assert time.monotonic() < deadline_s
            await asyncio.sleep(0.02)
        await rest.delete(f"/legs/{leg_id}", expect=202)
    await asyncio.to_thread(server.stop)
