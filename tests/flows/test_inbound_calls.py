"""Somebody calls: it rings, is shown, answered, refused, given up, put into a room."""

from __future__ import annotations

import asyncio

import pytest

from tests.flows.conftest import Phones
from tests.flows.tools.events import Vsi
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server
from tests.flows.tools.sip import parameter, parse_sdp
from tests.flows.tools.spectrum import assert_hears

pytestmark = pytest.mark.flow


async def test_a_call_rings_is_answered_and_ends(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    alice = await phones.new("alice", codecs=("PCMA", "PCMU"))
    call = await alice.dial(server.uri("support"), headers=[("X-Account", "42"), ("P-Other", "no")])
    event = await vsi.wait("leg.ringing")
    leg_id = event["leg_id"]
    assert (event["leg_type"], event["from"], event["to"]) == ("sip_inbound", "alice", "support")
    assert event["sip_headers"] == {"X-Account": "42"}
    assert [(c["name"], c["payload_type"], c["clock_rate"], c["priority"]) for c in event["offered_codecs"]] == [
        ("PCMA", 8, 8000, 1),
        ("PCMU", 0, 8000, 2),
    ]
    assert event["source_address"].startswith("127.0.0.1")
    leg = await rest.leg(leg_id)
    assert (leg["type"], leg["state"], leg["headers"]) == ("sip_inbound", "ringing", {"X-Account": "42"})
    await call.response(100)
    assert not call.received.matching(lambda m: m.status == 180), "180 is the application's to send"
    assert (await rest.post(f"/legs/{leg_id}/ring", expect=202))["status"] == "ringing"
    await call.response(180)
    assert (await rest.post(f"/legs/{leg_id}/answer", expect=202))["status"] == "answering"
    await call.answered()
    connected = await vsi.wait("leg.connected", leg_id=leg_id)
    assert connected["leg_type"] == "sip_inbound"
    answers = call.received.matching(lambda m: m.status >= 100 and m.cseq[1] == "INVITE")
    assert len({parameter(m.get("To"), "tag") for m in answers}) == 1
    assert all(m.get("Server") for m in answers)
    assert {"INVITE", "ACK", "CANCEL", "BYE", "UPDATE"} <= set(answers[-1].get("Allow").replace(" ", "").split(","))
    await call.media.listen(0.3)
    assert (await call.hang_up()).status == 200
    gone = await vsi.wait("leg.disconnected", leg_id=leg_id)
    assert gone["cdr"]["reason"] == "remote_bye"
    assert 0 < gone["cdr"]["duration_answered"] <= gone["cdr"]["duration_total"] < 10
    assert gone["quality"]["rtp_packets_received"] > 10
    assert gone["quality"]["rtp_packets_lost"] == 0
    assert 4.0 < gone["quality"]["mos_score"] <= 5
    assert vsi.of(leg_id=leg_id) == ["leg.ringing", "leg.connected", "leg.disconnected"]
    await rest.get(f"/legs/{leg_id}", expect=404)


async def test_a_ringing_leg_added_to_a_room_is_answered(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    _, bob = await phones.dialled(rest, name="bob", tone_hz=660, fields={"room_id": "answered"})
    alice = await phones.new("alice", tone_hz=440)
    call = await alice.dial(server.uri())
    leg_id = (await vsi.wait("leg.ringing", leg_type="sip_inbound"))["leg_id"]
    assert (await rest.join("answered", leg_id))["status"] == "added"
    await call.answered()
    await asyncio.gather(call.media.settled({660}), bob.media.settled({440}))
    assert vsi.of(leg_id=leg_id) == ["leg.ringing", "leg.connected", "leg.joined_room"]


async def test_a_ringing_leg_added_to_a_new_room_creates_it(
    server: Server, rest: Rest, vsi: Vsi, phones: Phones
) -> None:
    alice = await phones.new("alice")
    call = await alice.dial(server.uri(), headers=[("X-App-ID", "shop")])
    leg_id = (await vsi.wait("leg.ringing"))["leg_id"]
    await rest.join("implicit room/1", leg_id)
    await call.answered()
    created = await vsi.wait("room.created", room_id="implicit room/1")
    assert created["app_id"] == "shop"
    assert (await rest.get("/rooms/implicit%20room%2F1"))["app_id"] == "shop"


async def test_early_media_then_answer_keeps_port_and_codec(
    server: Server, rest: Rest, vsi: Vsi, phones: Phones
) -> None:
    alice = await phones.new("alice", tone_hz=440, codecs=("PCMA", "PCMU"))
    _, bob = await phones.dialled(rest, name="bob", tone_hz=660, fields={"room_id": "early"})
    call = await alice.dial(server.uri())
    leg_id = (await vsi.wait("leg.ringing", leg_type="sip_inbound"))["leg_id"]
    assert (await rest.post(f"/legs/{leg_id}/early-media", expect=202))["status"] == "early_media"
    progress = parse_sdp((await call.response(183)).body)
    await vsi.wait("leg.early_media", leg_id=leg_id)
    assert (await rest.leg(leg_id))["state"] == "early_media"
    await rest.post(f"/legs/{leg_id}/ring", expect=409)
    await rest.post(f"/legs/{leg_id}/early-media", expect=409)
    assert (await rest.join("early", leg_id))["status"] == "added"
    await asyncio.gather(call.media.settled({660}), bob.media.settled({440}))
    await rest.post(f"/legs/{leg_id}/answer", expect=202)
    final = parse_sdp((await call.final()).body)
    assert (final.port, final.payload_types[0]) == (progress.port, progress.payload_types[0])
    assert_hears(await call.media.listen(0.3), {660})


async def test_answer_with_a_chosen_codec(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    alice = await phones.new("alice", codecs=("PCMU", "PCMA"))
    call = await alice.dial(server.uri())
    leg_id = (await vsi.wait("leg.ringing"))["leg_id"]
    await rest.post(f"/legs/{leg_id}/answer", {"codec": "G722"}, expect=400)
    await rest.post(f"/legs/{leg_id}/answer", {"codec": "PCMA"}, expect=202)
    await call.answered()
    heard = await call.media.listen(0.1)
    assert {p.payload_type for p in heard.packets} == {8}
    await vsi.wait("leg.connected", leg_id=leg_id)
    await rest.post(f"/legs/{leg_id}/answer", expect=409)


@pytest.mark.parametrize(
    "refusal",
    [
        ("busy", 486),
        ("declined", 603),
        ("rejected", 603),
        ("unavailable", 480),
        ("not_found", 404),
        ("forbidden", 403),
        ("server_error", 500),
    ],
)
async def test_refusals(refusal: tuple[str, int], server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    reason, status = refusal
    alice = await phones.new("alice")
    call = await alice.dial(server.uri())
    leg_id = (await vsi.wait("leg.ringing"))["leg_id"]
    await rest.delete(f"/legs/{leg_id}", {"reason": "nonsense"}, expect=400)
    assert (await rest.leg(leg_id))["state"] == "ringing"
    assert (await rest.delete(f"/legs/{leg_id}", {"reason": reason}, expect=202))["status"] == "hanging_up"
    assert (await call.final()).status == status
    gone = await vsi.wait("leg.disconnected", leg_id=leg_id)
    assert gone["cdr"]["reason"] == reason
    assert gone["cdr"]["duration_answered"] == 0
    assert "quality" not in gone
    await rest.delete(f"/legs/{leg_id}", {}, expect=404)


async def test_an_unexplained_refusal_is_a_decline(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    alice = await phones.new("alice")
    call = await alice.dial(server.uri())
    leg_id = (await vsi.wait("leg.ringing"))["leg_id"]
    await rest.delete(f"/legs/{leg_id}", expect=202)
    assert (await call.final()).status == 603
    assert (await vsi.wait("leg.disconnected", leg_id=leg_id))["cdr"]["reason"] == "api_hangup"


async def test_the_caller_gives_up(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    alice = await phones.new("alice")
    call = await alice.dial(server.uri())
    leg_id = (await vsi.wait("leg.ringing"))["leg_id"]
    await call.response(100)
    assert (await call.cancel().final()).status == 200
    assert (await call.final()).status == 487
    assert (await vsi.wait("leg.disconnected", leg_id=leg_id))["cdr"]["reason"] == "caller_cancel"
    await rest.post(f"/legs/{leg_id}/answer", expect=404)


async def test_a_cancel_after_the_answer_changes_nothing(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    """RFC 3261 §9.2: the CANCEL is answered 200 (the transaction is known), the call goes on."""
    leg_id, call = await phones.calling(server, vsi, rest, name="alice")
    assert (await call.cancel().final()).status in (200, 481)
    await call.media.listen(0.2)
    assert (await rest.leg(leg_id))["state"] == "connected"


async def test_hanging_up_an_answered_leg_sends_bye(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    leg_id, call = await phones.calling(server, vsi, rest, name="alice")
    replies = await asyncio.gather(*(rest.delete(f"/legs/{leg_id}", expect=None) for _ in range(3)))
    assert sorted(r.status for r in replies) == [202, 404, 404]
    assert await call.ended() == "bye"
    assert (await vsi.wait("leg.disconnected", leg_id=leg_id))["cdr"]["reason"] == "api_hangup"
    assert len(vsi.all("leg.disconnected", leg_id=leg_id)) == 1


async def test_ring_early_media_and_answer_are_for_inbound_legs(rest: Rest, phones: Phones) -> None:
    phone = await phones.new("ringing")
    leg_id = await rest.dial(phone.uri)
    (await phone.called()).ring()
    for action in ("ring", "early-media", "answer"):
        await rest.post(f"/legs/{leg_id}/{action}", expect=400)
        await rest.post(f"/legs/unknown/{action}", expect=404)
