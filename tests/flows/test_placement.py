"""Where rooms are mixed, and what happens when more than one thing dies: design.md §2."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.flows.tools.events import Vsi
from tests.flows.tools.house import answering_again, until_gone
from tests.flows.tools.server import Server

pytestmark = pytest.mark.flow


def room_workers(server: Server) -> list[str]:
    return sorted(" ".join(p.cmdline()).strip().removeprefix("roomtone: ") for p in server.titled("roomtone: room"))


async def test_auto_placement_is_dedicated_first_and_then_shared(house: Callable) -> None:
    made = await house(calls=12, ROOM_PLACEMENT="auto", ROOM_DEDICATED_MAX="1", ROOM_SHARED_WORKERS="1")
    alone, together = room_workers(made.server)
    assert (alone[:10], together) == ("room room-", "rooms 0")
    for victim in (alone, together):
        at_s = await made.kill(f"roomtone: {victim}")
        await made.everyone_hears_the_others()
        assert made.gap_ms(at_s) <= 100
    assert room_workers(made.server) == [alone, together]
    await made.still_works()
    await made.stop()


async def test_a_shared_worker_that_dies_twice_lets_its_rooms_go_alone(house: Callable) -> None:
    made = await house(calls=6, ROOM_PLACEMENT="shared", ROOM_SHARED_WORKERS="1")
    for _ in range(2):
        made.server.slay("roomtone: rooms 0")
        await made.everyone_hears_the_others()
    assert room_workers(made.server) == ["room room-0", "room room-1"]
    await made.still_works()
    await made.stop()


async def test_a_room_that_was_given_up_may_be_made_again(house: Callable) -> None:
    made = await house(calls=3)
    for _ in range(3):
        await made.everyone_hears_the_others()
        made.server.slay("roomtone: room room-0")
    await made.vsi.wait("room.deleted", room_id="room-0")
    before, calls = len(made.vsi.events), len(made.exchange.calls)
    await made.rest.dial(made.exchange.uri, room_id="room-0")
    await made.rest.dial(made.exchange.uri.replace("exchange", "1"), room_id="room-0")
    await made.vsi.wait("room.created", room_id="room-0", after=before)
    listener = await made.exchange.calls.first(
        lambda c: "exchange" in c.invitation.uri, after=calls, named="call into the new room"
    )
    await listener.media.settled({660.0})
    await made.stop()


@pytest.mark.parametrize("title", ["sip", "rtp 0", "rooms 0", "zygote"])
async def test_a_hung_process_does_not_take_calls_along(title: str, house: Callable) -> None:
    """A stats row that stands still for 1 s gets its process killed; a zygote has none, and may be late with new rooms."""
    made = await house(calls=6, ROOM_PLACEMENT="shared", ROOM_SHARED_WORKERS="1", RTP_WORKERS="1")
    hung = made.server.only(f"roomtone: {title}")
    hung.suspend()
    if title == "zygote":
        await made.everyone_hears_the_others()
        hung.kill()
    await asyncio.to_thread(hung.wait, 5)
    await made.everyone_hears_the_others()
    await made.still_works()
    await made.stop()


@pytest.mark.parametrize("title", ["room room-0", "sip", "rtp 0"])
async def test_two_processes_killed_at_the_same_moment(title: str, house: Callable) -> None:
    """Nobody is there to see the death: the new control finds the process missing."""
    made = await house(calls=6, RTP_WORKERS="1")
    ringing = await made.exchange.dial(made.server.uri())
    ringing_id = (await made.vsi.wait("leg.ringing", leg_type="sip_inbound"))["leg_id"]
    rooms, legs = await made.rest.everything()
    victims = [made.server.only(f"roomtone: {name}") for name in ("control", title)]
    for victim in victims:
        victim.kill()
    await answering_again(made.rest)
    await made.everyone_hears_the_others()
    if title == "sip":
        rooms, legs = await until_gone(made, ringing_id)
        ringing.close()
    assert await made.rest.everything() == (rooms, legs)
    async with Vsi(made.server.base) as vsi:
        made.vsi = vsi
        await made.still_works()
        assert not vsi.all("leg.disconnected", leg_id=made.legs[0])
    await made.stop()


async def test_without_control_and_zygote_the_server_goes_on(house: Callable) -> None:
    """The two hold the only channels to the workers: these leave, others go on with the calls, and new ones come in."""
    made = await house(calls=3)
    victims = [made.server.only(f"roomtone: {name}") for name in ("control", "zygote")]
    for victim in victims:
        victim.kill()
    await answering_again(made.rest)
    await made.everyone_hears_the_others()
    async with Vsi(made.server.base) as vsi:
        before = len(made.exchange.calls)
        for user in ("exchange", "1"):
            leg_id = await made.rest.dial(made.exchange.uri.replace("exchange", user), room_id="later")
            await vsi.wait("leg.joined_room", leg_id=leg_id)
        listener = await made.exchange.calls.first(lambda c: "exchange" in c.invitation.uri, after=before)
        await listener.media.settled({660.0})
    await made.stop()
