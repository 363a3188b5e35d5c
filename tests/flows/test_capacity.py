"""At the limits: every leg in use, too many callers ringing. 503 with Retry-After, and back to work afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.flows.conftest import Phones
from tests.flows.tools.call import Call
from tests.flows.tools.events import Vsi
from tests.flows.tools.rest import Reply, Rest
from tests.flows.tools.server import Server

pytestmark = pytest.mark.flow


async def refused(call: Call) -> None:
    response = await call.final()
    assert response.status == 503
    assert int(response.get("Retry-After")) > 0


async def until(attempt: Callable[[], Any], *, within_s: float = 5.0) -> Reply:
    """Repeat a request until it is no longer 503: rows and ports rest for a while."""
    deadline_s = asyncio.get_running_loop().time() + within_s
    while (reply := await attempt()).status == 503:
        assert asyncio.get_running_loop().time() < deadline_s, "still 503"
        await asyncio.sleep(0.05)
    return reply


async def test_beyond_max_legs_everybody_is_told_503_and_later_served(
    own_server: Callable[..., Server], phones: Phones
) -> None:
    server = own_server(MAX_LEGS="4")
    async with Rest(server.base) as rest, Vsi(server.base) as vsi:
        legs = [await phones.dialled(rest, name=f"p{i}", fields={"room_id": "full"}) for i in range(4)]
        before = await rest.everything()
        extra = await phones.new("extra", answering=True)
        body = {"type": "sip", "to": extra.uri, "room_id": "never"}
        reply = await rest.post("/legs", body, expect=503)
        assert int(reply.headers["Retry-After"]) > 0
        await refused(await extra.dial(server.uri()))
        assert await rest.everything() == before
        assert not vsi.all("room.created", room_id="never")
        assert len(extra.calls) == 0
        leg_id, call = legs.pop()
        await call.hang_up()
        await vsi.wait("leg.disconnected", leg_id=leg_id)
        reply = await until(lambda: rest.post("/legs", body, expect=None))
        assert reply.status == 201
        await vsi.wait("leg.joined_room", leg_id=reply["id"], room_id="never")
    assert not server.errors()


async def test_callers_beyond_a_quarter_of_max_legs_do_not_ring(
    own_server: Callable[..., Server], phones: Phones
) -> None:
    server = own_server(MAX_LEGS="12")
    phone = await phones.new("caller")
    async with Rest(server.base) as rest, Vsi(server.base) as vsi:
        ringing = [await phone.dial(server.uri()) for _ in range(3)]
        for count in range(3):
            await vsi.events.first(lambda e: e["type"] == "leg.ringing", after=count, named="leg.ringing")
        await refused(await phone.dial(server.uri()))
        assert len((await rest.get("/legs")).json) == 3
        ringing[0].cancel()
        await vsi.wait("leg.disconnected")
        before = len(vsi.events)
        await phone.dial(server.uri())
        leg_id = (await vsi.wait("leg.ringing", after=before))["leg_id"]
        await rest.post(f"/legs/{leg_id}/answer", expect=202)
        await vsi.wait("leg.connected", leg_id=leg_id)
        before = len(vsi.events)
        await phone.dial(server.uri())  # who is answered does not ring any more
        await vsi.wait("leg.ringing", after=before)
    assert not server.errors()


async def test_a_stranger_rings_twenty_times_at_most_and_steers_nothing(
    own_server: Callable[..., Server], phones: Phones
) -> None:
    server = own_server(SIP_TRUSTED_IPS="192.0.2.0/24")
    phone = await phones.new("stranger")
    steering = [
        ("X-App-ID", "mine"),
        ("X-Webhook-URL", "http://127.0.0.1:9/"),
        ("X-Webhook-Secret", "s"),
        ("X-Color", "blue"),
    ]
    async with Rest(server.base) as rest, Vsi(server.base) as vsi:
        for _ in range(20):
            before = len(vsi.events)
            await phone.dial(server.uri(), headers=steering)
            event = await vsi.wait("leg.ringing", after=before)
            assert "app_id" not in event
            assert event["sip_headers"]["X-Color"] == "blue"
        await refused(await phone.dial(server.uri(), headers=steering))
        assert {leg.get("app_id", "") for leg in (await rest.get("/legs")).json} == {""}
    warnings = [line for line in server.logged() if "SIP_TRUSTED_IPS" in line["event"]]
    assert len(warnings) == 1
    assert not server.errors()
