"""The server calls somebody: who answers, refuses, never answers, wants credentials; and how that call looks."""

from __future__ import annotations

import asyncio

import pytest

from tests.flows.conftest import Phones
from tests.flows.tools.call import Call
from tests.flows.tools.digest import Challenge
from tests.flows.tools.events import Vsi
from tests.flows.tools.ports import free_port
from tests.flows.tools.rest import Rest
from tests.flows.tools.sip import Message, address_uri, parse_sdp
from tests.flows.tools.spectrum import assert_hears

pytestmark = pytest.mark.flow


async def test_a_call_into_a_room_and_its_events(rest: Rest, vsi: Vsi, phones: Phones) -> None:
    phone = await phones.new("bob", tone_hz=440)
    leg = (
        await rest.post("/legs", {"type": "sip", "to": phone.uri, "room_id": "out", "app_id": "shop"}, expect=201)
    ).json
    assert (leg["type"], leg["state"], leg["app_id"]) == ("sip_outbound", "ringing", "shop")
    assert (await rest.get("/rooms/out"))["participants"] == []
    ringing = await vsi.wait("leg.ringing", leg_id=leg["id"])
    assert (ringing["uri"], ringing["leg_type"], ringing["app_id"]) == (phone.uri, "sip_outbound", "shop")
    call = await phone.called()
    call.ring()
    await call.answer()
    await vsi.wait("leg.joined_room", leg_id=leg["id"], room_id="out")
    assert vsi.of(leg_id=leg["id"]) == ["leg.ringing", "leg.connected", "leg.joined_room"]
    assert (await rest.leg(leg["id"]))["room_id"] == "out"
    await call.hang_up()
    gone = await vsi.wait("leg.disconnected", leg_id=leg["id"])
    assert gone["cdr"]["reason"] == "remote_bye"
    assert vsi.of(leg_id=leg["id"])[-2:] == ["leg.left_room", "leg.disconnected"]


async def test_early_media_is_heard_in_the_room_and_joins_once(rest: Rest, vsi: Vsi, phones: Phones) -> None:
    _, alice = await phones.dialled(rest, name="alice", tone_hz=660, fields={"room_id": "early"})
    phone = await phones.new("bob", tone_hz=440)
    leg_id = await rest.dial(phone.uri, room_id="early")
    call = await phone.called()
    call.progress()
    await vsi.wait("leg.early_media", leg_id=leg_id)
    await vsi.wait("leg.joined_room", leg_id=leg_id)
    assert (await rest.leg(leg_id))["state"] == "early_media"
    await asyncio.gather(alice.media.settled({440}), call.media.settled({660}))
    await call.answer()
    await vsi.wait("leg.connected", leg_id=leg_id)
    assert_hears(await alice.media.listen(0.3), {440})
    assert vsi.of(leg_id=leg_id) == ["leg.ringing", "leg.early_media", "leg.joined_room", "leg.connected"]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (486, "busy"),
        (480, "unavailable"),
        (404, "not_found"),
        (403, "forbidden"),
        (408, "timeout"),
        (487, "cancelled"),
        (488, "not_acceptable"),
        (503, "service_unavailable"),
        (603, "declined"),
        (500, "sip_500"),
        (410, "sip_410"),
        (302, "invite_failed"),
    ],
)
async def test_refusals(status: int, reason: str, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    phone = await phones.new("bob")
    leg_id = await rest.dial(phone.uri)
    await (await phone.called()).reject(status)
    gone = await vsi.wait("leg.disconnected", leg_id=leg_id)
    assert gone["cdr"]["reason"] == reason
    assert vsi.of(leg_id=leg_id) == ["leg.ringing", "leg.disconnected"]
    await rest.get(f"/legs/{leg_id}", expect=404)


async def test_ring_timeout_cancels(rest: Rest, vsi: Vsi, phones: Phones) -> None:
    phone = await phones.new("bob")
    leg_id = await rest.dial(phone.uri, ring_timeout=1)
    call = await phone.called()
    call.ring()
    assert await call.ended() == "cancel"
    gone = await vsi.wait("leg.disconnected", leg_id=leg_id)
    assert gone["cdr"]["reason"] == "ring_timeout"
    assert 0.9 <= gone["cdr"]["duration_total"] < 2


async def test_ring_timeout_without_any_response_ends_in_time(rest: Rest, vsi: Vsi, phones: Phones) -> None:
    """legs.md §3.1: at expiry, not at Timer B; the CANCEL follows once a provisional response allows it."""
    phone = await phones.new("deaf")
    phone.wire.outgoing = lambda _: []
    leg_id = await rest.dial(phone.uri, ring_timeout=1)
    gone = await vsi.wait("leg.disconnected", leg_id=leg_id, within_s=3)
    assert gone["cdr"]["reason"] == "ring_timeout"
    assert not phone.received.matching(lambda m: m.method == "CANCEL")
    phone.wire.outgoing = lambda data: [(0.0, data)]
    (await phone.called()).ring()
    assert await (await phone.called()).ended() == "cancel"


async def test_max_duration_hangs_up(rest: Rest, vsi: Vsi, phones: Phones) -> None:
    leg_id, call = await phones.dialled(rest, fields={"max_duration": 1})
    assert await call.ended() == "bye"
    gone = await vsi.wait("leg.disconnected", leg_id=leg_id)
    assert gone["cdr"]["reason"] == "max_duration"
    assert 0.9 <= gone["cdr"]["duration_answered"] < 2


async def test_hanging_up_before_the_answer_cancels(rest: Rest, vsi: Vsi, phones: Phones) -> None:
    phone = await phones.new("bob")
    leg_id = await rest.dial(phone.uri)
    call = await phone.called()
    call.ring()
    await rest.delete(f"/legs/{leg_id}", {"reason": "busy"}, expect=202)
    assert await call.ended() == "cancel"
    assert (await vsi.wait("leg.disconnected", leg_id=leg_id))["cdr"]["reason"] == "api_hangup"


async def test_an_answer_that_crosses_the_cancel_is_taken_and_hung_up(rest: Rest, vsi: Vsi, phones: Phones) -> None:
    """RFC 3261 §9.1: the CANCEL came too late; the 200 is acknowledged, then a BYE ends the call."""
    phone = await phones.new("bob")
    leg_id = await rest.dial(phone.uri)
    call = await phone.called()
    call.ring()
    phone.wire.incoming = lambda data: [] if data.startswith(b"CANCEL") else [(0.0, data)]
    await rest.delete(f"/legs/{leg_id}", expect=202)
    await vsi.wait("leg.disconnected", leg_id=leg_id)
    await call.answer()
    assert await call.ended() == "bye"


@pytest.mark.parametrize("status", [401, 407])
@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
@pytest.mark.parametrize("qop", ["auth", None])
async def test_digest(status: int, algorithm: str, qop: str | None, rest: Rest, phones: Phones) -> None:
    challenge = Challenge("carol", 'pass "word"', status=status, algorithm=algorithm, qop=qop)
    phone = await phones.new("carrier", challenge=challenge, answering=True)
    await rest.dial(phone.uri, auth={"username": "carol", "password": 'pass "word"'})
    await (await phone.called()).answered()
    assert (challenge.verified, challenge.refused) == (1, 0)


async def test_wrong_and_missing_credentials(rest: Rest, vsi: Vsi, phones: Phones) -> None:
    challenge = Challenge("carol", "right")
    phone = await phones.new("carrier", challenge=challenge, answering=True)
    for fields in ({}, {"auth": {"username": "carol", "password": "wrong"}}):
        leg_id = await rest.dial(phone.uri, **fields)
        gone = await vsi.wait("leg.disconnected", leg_id=leg_id)
        assert gone["cdr"]["reason"] == "unauthorized"
    assert challenge.refused == 1
    assert len(phone.calls) == 0


async def invitation(rest: Rest, phones: Phones, **fields: object) -> Message:
    phone = await phones.new("bob", answering=True)
    await rest.dial(phone.uri, **fields)
    call = await phone.called()
    await call.answered()
    assert call.invitation is not None
    return call.invitation


async def test_who_is_calling(rest: Rest, phones: Phones) -> None:
    plain = await invitation(rest, phones)
    assert address_uri(plain.get("From")).startswith("sip:voiceblender@")
    assert plain.get("P-Asserted-Identity") == ""
    assert plain.get("User-Agent") == "voiceblender"
    named = await invitation(rest, phones, **{"from": "1234", "privacy": "id"})
    assert address_uri(named.get("From")).startswith("sip:1234@")
    assert named.get("P-Asserted-Identity").startswith("sip:1234@")
    assert named.get("Privacy") == "id"
    full = await invitation(rest, phones, **{"from": "sip:5678@Carrier.Example:5070;x=y"})
    assert address_uri(full.get("From")) == "sip:5678@carrier.example"
    assert full.get("P-Asserted-Identity") == "sip:5678@carrier.example"


async def test_custom_headers_and_session_timer(rest: Rest, phones: Phones) -> None:
    headers = {"X-Campaign": "spring", "User-Agent": "mine", "Session-Expires": "1800", "Supported": "timer"}
    invite = await invitation(rest, phones, headers=headers)
    assert {k: invite.get(k) for k in headers} == headers
    assert len(invite.all("User-Agent")) == 1


async def test_the_offer_lists_the_wanted_codecs_in_order(rest: Rest, phones: Phones) -> None:
    offer = parse_sdp((await invitation(rest, phones, codecs=["PCMU", "PCMA"])).body)
    assert offer.audio_names == ["PCMU/8000", "PCMA/8000"]
    assert offer.event_payload_type is not None
    assert (offer.ptime_ms, offer.rtcp_mux, offer.direction) == (20, True, "sendrecv")
    usual = parse_sdp((await invitation(rest, phones)).body)
    assert usual.audio_names[:3] == ["PCMU/8000", "PCMA/8000", "G722/8000"]


async def test_an_answer_without_a_common_codec_ends_the_call(rest: Rest, vsi: Vsi, phones: Phones) -> None:
    phone = await phones.new("odd")
    leg_id = await rest.dial(phone.uri, codecs=["PCMU"])
    call = await phone.called()
    await call.answer(body=call.sdp_answer(call.invitation.body).replace("AVP 0 ", "AVP 18 "))
    assert await call.ended() == "bye"
    assert (await vsi.wait("leg.disconnected", leg_id=leg_id))["cdr"]["reason"] == "connect_failed"


async def test_a_refused_connection_fails_at_once(rest: Rest, vsi: Vsi) -> None:
    leg_id = await rest.dial(f"sip:nobody@127.0.0.1:{free_port()};transport=tcp")
    gone = await vsi.wait("leg.disconnected", leg_id=leg_id, within_s=3)
    assert gone["cdr"]["reason"] == "invite_failed"


async def test_a_name_that_does_not_exist(rest: Rest, vsi: Vsi) -> None:
    leg_id = await rest.dial("sip:nobody@name.invalid")
    gone = await vsi.wait("leg.disconnected", leg_id=leg_id, within_s=15)
    assert gone["cdr"]["reason"] == "invite_failed"


async def test_a_host_name_is_resolved(rest: Rest, phones: Phones) -> None:
    phone = await phones.new("bob", answering=True)
    await rest.dial(f"sip:bob@localhost:{phone.wire.port}")
    await (await phone.called()).answered()


async def test_an_outbound_proxy_gets_the_call_with_its_request_uri_unchanged(rest: Rest, phones: Phones) -> None:
    proxy = await phones.new("proxy", answering=True)
    await rest.dial("sip:bob@far.example", outbound_proxy=f"sip:127.0.0.1:{proxy.wire.port}")
    call = await proxy.called()
    await call.answered()
    assert call.invitation.uri == "sip:bob@far.example"
    (route,) = call.invitation.all("Route")
    assert f"127.0.0.1:{proxy.wire.port}" in route
    assert ";lr" in route


async def test_forked_answers(rest: Rest, vsi: Vsi, phones: Phones) -> None:
    """Two 2xx of a forking proxy: the first is the call, the second is acknowledged and hung up (RFC 3261 §13.2.2.4)."""
    phone = await phones.new("fork", tone_hz=440)
    leg_id = await rest.dial(phone.uri)
    call = await phone.called()
    body = call.sdp_answer(call.invitation.body)
    call.respond(200, body=body, to_tag="one", repeat=False)
    await acknowledged(call, "one")
    call.respond(200, body=body, to_tag="two", repeat=False)
    await acknowledged(call, "two")
    bye = await call.request("BYE")
    assert "tag=two" in bye.get("To")
    assert (await rest.leg(leg_id))["state"] == "connected"
    assert "leg.disconnected" not in vsi.of(leg_id=leg_id)


async def acknowledged(call: Call, tag: str) -> None:
    await call.received.first(lambda m: m.method == "ACK" and f"tag={tag}" in m.get("To"), named=f"ACK for {tag}")


async def test_many_calls_at_once(rest: Rest, vsi: Vsi, phones: Phones) -> None:
    phone = await phones.new("exchange", answering=True)
    legs = await asyncio.gather(*(rest.dial(phone.uri, room_id=f"r{i % 5}") for i in range(25)))
    await asyncio.gather(*(vsi.wait("leg.joined_room", leg_id=leg) for leg in legs))
    assert {len(r["participants"]) for r in (await rest.get("/rooms")).json} == {5}
