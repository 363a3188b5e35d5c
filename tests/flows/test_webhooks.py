"""Webhooks: who gets an event, how it is signed, repeated and ordered (events.md §3)."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable

import pytest

from tests.flows.conftest import Phones
from tests.flows.tools.events import Vsi
from tests.flows.tools.phone import Phone
from tests.flows.tools.ports import free_port
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server
from tests.flows.tools.webhooks import WebhookSink

pytestmark = pytest.mark.flow


async def test_a_rooms_events_go_to_its_webhook_signed_and_unchanged(rest: Rest, vsi: Vsi, phones: Phones) -> None:
    async with WebhookSink(secret="room secret") as sink:
        await rest.room("hooked", webhook_url=sink.url("room"), webhook_secret="room secret", app_id="shop")
        leg_id, call = await phones.dialled(rest, fields={"room_id": "hooked"})
        await rest.post(f"/legs/{leg_id}/mute")
        await vsi.wait("leg.muted", leg_id=leg_id)
        await call.hang_up()
        await vsi.wait("leg.left_room", leg_id=leg_id)
        await rest.delete("/rooms/hooked")
        await sink.wait("room.deleted", room_id="hooked")
        assert sink.types() == ["room.created", "leg.joined_room", "leg.left_room", "room.deleted"]
        for delivery in sink.deliveries:
            assert delivery.signed is True
            assert delivery.headers["Content-Type"] == "application/json"
            assert delivery.headers["X-Event-Id"] == delivery.event["event_id"]
            seen = await vsi.frames.first(lambda f, d=delivery: f.get("event_id") == d.event["event_id"])
            assert seen == delivery.event
            assert json.dumps(delivery.event, separators=(",", ":"), ensure_ascii=False).encode() == delivery.body


async def test_a_legs_webhook_comes_before_its_rooms(rest: Rest, phones: Phones) -> None:
    async with WebhookSink() as sink:
        await rest.room("both", webhook_url=sink.url("room"))
        leg_id, call = await phones.dialled(
            rest, fields={"room_id": "both", "webhook_url": sink.url("leg"), "webhook_secret": ""}
        )
        await call.hang_up()
        await sink.wait("leg.disconnected", leg_id=leg_id)
        assert sink.types("leg") == [
            "leg.ringing",
            "leg.connected",
            "leg.joined_room",
            "leg.left_room",
            "leg.disconnected",
        ]
        assert sink.types("room") == ["room.created"]
        assert {d.signed for d in sink.deliveries} == {None}


async def test_a_caller_brings_a_webhook_in_headers(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    async with WebhookSink(secret="from header") as sink:
        phone = await phones.new("alice")
        headers = [
            ("X-Webhook-URL", sink.url("call")),
            ("X-Webhook-Secret", "from header"),
            ("X-App-ID", "app"),
            ("X-Other", "1"),
        ]
        call = await phone.dial(server.uri(), headers=headers)
        ringing = await sink.wait("leg.ringing")
        assert ringing.signed is True
        assert ringing.event["app_id"] == "app"
        assert "X-Webhook-Secret" not in ringing.event["sip_headers"]
        assert ringing.event["sip_headers"]["X-Other"] == "1"
        leg = await rest.leg(ringing.event["leg_id"])
        assert "from header" not in json.dumps(leg)
        await call.cancel().final()
        assert (await sink.wait("leg.disconnected")).event["cdr"]["reason"] == "caller_cancel"


async def test_failed_deliveries_are_repeated_with_the_same_bytes_in_order(rest: Rest) -> None:
    """Attempts at once, after 2 s and after 4 s more; what follows of the same room waits its turn."""
    async with WebhookSink(secret="k", fail_first=2) as sink, WebhookSink() as quick:
        await rest.room("slow", webhook_url=sink.url(), webhook_secret="k")
        await rest.room("quick", webhook_url=quick.url())
        await rest.delete("/rooms/slow")
        await quick.wait("room.created", within_s=1)
        await sink.wait("room.deleted", within_s=9)
        assert sink.types() == ["room.created", "room.deleted"]
        tries = sink.deliveries.matching(lambda d: d.event["type"] == "room.created")
        assert [t.status for t in tries] == [500, 500, 200]
        assert len({t.body for t in tries}) == 1
        waits = [b.arrived_s - a.arrived_s for a, b in itertools.pairwise(tries)]
        assert waits == [pytest.approx(2, abs=0.5), pytest.approx(4, abs=0.5)]


async def test_redirects_are_failures(rest: Rest) -> None:
    async with WebhookSink(fail_first=1, fail_status=302) as sink:
        await rest.room("redirected", webhook_url=sink.url())
        await sink.wait("room.created", within_s=4)
        assert [d.status for d in sink.deliveries] == [302, 200]


async def test_an_unreachable_webhook_hurts_nobody(rest: Rest, vsi: Vsi, phones: Phones) -> None:
    await rest.room("nowhere", webhook_url=f"http://127.0.0.1:{free_port()}/")
    legs = await phones.meeting(rest, "nowhere", (440, 660))
    await asyncio.gather(*(call.hang_up() for _, call in legs))
    for leg_id, _ in legs:
        await vsi.wait("leg.disconnected", leg_id=leg_id)


async def test_the_global_webhook_gets_the_rest(own_server: Callable[..., Server]) -> None:
    async with WebhookSink(secret="global") as sink, WebhookSink() as room_sink:
        server = own_server(WEBHOOK_URL=sink.url("global"), WEBHOOK_SECRET="global")
        async with Rest(server.base) as rest, Phone("bob", answering=True) as bob:
            await rest.room("own", webhook_url=room_sink.url())
            await rest.room("plain")
            leg_id = await rest.dial(bob.uri, room_id="plain")
            await sink.wait("leg.joined_room", leg_id=leg_id)
            call = await bob.called()
            server.signal()
            assert await call.ended() == "bye"
            gone = await sink.wait("leg.disconnected", leg_id=leg_id)
            assert gone.event["cdr"]["reason"] == "shutdown"
            assert await asyncio.to_thread(server.wait, 8) == 0
        assert {d.signed for d in sink.deliveries} == {True}
        assert all(d.event.get("room_id") != "own" for d in sink.deliveries)
        assert sink.types() == [
            "room.created",
            "leg.ringing",
            "leg.connected",
            "leg.joined_room",
            *sink.types()[4:],
        ]
        assert room_sink.types()[0] == "room.created"
        server.assert_nothing_left()
