"""Dialog manners: requests outside and inside a call, extensions, session timers, glare, repetition."""

from __future__ import annotations

import asyncio

import pytest

from tests.flows.conftest import Phones
from tests.flows.tools.events import Vsi
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server
from tests.flows.tools.sip import parameter, parse_sdp, token
from tests.flows.tools.tamper import drop_first, twice

pytestmark = pytest.mark.flow

ALLOWED = {"INVITE", "ACK", "CANCEL", "BYE", "UPDATE", "OPTIONS"}


async def test_options_in_and_outside_a_call(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    phone = await phones.new("prober")
    for user in ("anyone", "x"):
        answer = await phone.request("OPTIONS", server.uri(user))
        assert answer.status == 200
        assert set(answer.get("Allow").replace(" ", "").split(",")) >= ALLOWED
        assert parameter(answer.get("To"), "tag")
    _, call = await phones.calling(server, vsi, rest, name="alice")
    assert (await call.send("OPTIONS")).status == 200


@pytest.mark.parametrize("method", ["INFO", "MESSAGE", "SUBSCRIBE", "PUBLISH", "NONSENSE"])
async def test_methods_that_are_not_served(method: str, server: Server, phones: Phones) -> None:
    phone = await phones.new("prober")
    answer = await phone.request(method, server.uri())
    assert answer.status == 405
    assert "INVITE" in answer.get("Allow")


@pytest.mark.parametrize("method", ["BYE", "INVITE", "UPDATE", "INFO"])
async def test_requests_of_unknown_dialogs(method: str, server: Server, phones: Phones, vsi: Vsi) -> None:
    phone = await phones.new("prober")
    request = phone.new_request(method, server.uri())
    request.headers = [(k, f"{v};tag={token()}" if k == "To" else v) for k, v in request.headers]
    answer = await phone.transact(request, server.sip_address).final()
    assert answer.status in ({481} if method != "INFO" else {405, 481})
    assert len(vsi.events) == 0


async def test_a_cancel_of_nothing(server: Server, phones: Phones) -> None:
    phone = await phones.new("prober")
    assert (await phone.request("CANCEL", server.uri())).status == 481


@pytest.mark.parametrize("extension", ["100rel", "something-new"])
async def test_required_extensions_that_do_not_exist_here(
    extension: str, server: Server, vsi: Vsi, phones: Phones
) -> None:
    phone = await phones.new("alice")
    call = await phone.dial(server.uri(), headers=[("Require", extension)])
    answer = await call.final()
    assert answer.status == 420
    assert answer.get("Unsupported") == extension
    assert not vsi.all("leg.ringing")


async def test_too_many_hops_and_merged_requests(server: Server, phones: Phones, vsi: Vsi) -> None:
    phone = await phones.new("alice")
    request = phone.new_request("OPTIONS", server.uri())
    request.headers = [(k, "0" if k == "Max-Forwards" else v) for k, v in request.headers]
    assert (await phone.transact(request, server.sip_address).final()).status in (200, 483)
    call = await phone.dial(server.uri())
    await vsi.wait("leg.ringing")
    assert call._invite is not None
    merged = call._invite.request
    merged.headers = [(k, phone.via() if k == "Via" else v) for k, v in merged.headers]
    assert (await phone.transact(merged, server.sip_address).final()).status == 482
    assert len(vsi.all("leg.ringing")) == 1


async def test_repeated_messages_have_one_effect(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    """Every datagram of the phone arrives twice, and so does every one of the server's."""
    phone = await phones.new("echo")
    phone.wire.outgoing = phone.wire.incoming = twice
    call = await phone.dial(server.uri())
    leg_id = (await vsi.wait("leg.ringing"))["leg_id"]
    await rest.post(f"/legs/{leg_id}/answer", expect=202)
    await call.answered()
    await vsi.wait("leg.connected", leg_id=leg_id)
    await call.reinvite(direction="sendonly")
    await vsi.wait("leg.hold", leg_id=leg_id)
    assert (await call.hang_up()).status == 200
    await vsi.wait("leg.disconnected", leg_id=leg_id)
    assert vsi.of(leg_id=leg_id) == ["leg.ringing", "leg.connected", "leg.hold", "leg.disconnected"]


async def test_info_and_update_in_a_call(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    leg_id, call = await phones.calling(server, vsi, rest, name="alice")
    assert (await call.send("INFO", headers=[("Content-Type", "text/plain")], body="x")).status == 405
    empty = await call.send("UPDATE")
    assert (empty.status, empty.body) == (200, "")
    held = await call.send("UPDATE", body=call.sdp(direction="sendonly"))
    assert held.status == 200
    assert parse_sdp(held.body).direction == "recvonly"
    await vsi.wait("leg.hold", leg_id=leg_id)
    assert (await call.send("UPDATE", body=call.sdp())).status == 200
    await vsi.wait("leg.unhold", leg_id=leg_id)


async def test_an_old_cseq_is_refused(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    leg_id, call = await phones.calling(server, vsi, rest, name="alice")
    call._cseq = 10
    assert (await call.send("OPTIONS")).status == 200
    call._cseq = 4
    assert (await call.send("OPTIONS")).status == 500
    assert (await rest.leg(leg_id))["state"] == "connected"


async def test_session_timer_is_honoured_when_asked(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    phone = await phones.new("timed")
    headers = [("Session-Expires", "90"), ("Supported", "timer")]
    call = await phone.dial(server.uri(), headers=headers)
    leg_id = (await vsi.wait("leg.ringing"))["leg_id"]
    await rest.post(f"/legs/{leg_id}/answer", expect=202)
    answer = await call.final()
    assert answer.get("Session-Expires") == "90;refresher=uac"
    assert "timer" in answer.get("Require") + answer.get("Supported")
    refreshed = await call.send("UPDATE", headers=[("Session-Expires", "90;refresher=uac"), ("Supported", "timer")])
    assert refreshed.get("Session-Expires") == "90;refresher=uac"


async def test_without_a_wish_there_is_no_session_timer(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    phone = await phones.new("plain")
    call = await phone.dial(server.uri())
    leg_id = (await vsi.wait("leg.ringing"))["leg_id"]
    await rest.post(f"/legs/{leg_id}/answer", expect=202)
    assert (await call.final()).get("Session-Expires") == ""


async def test_too_short_a_session_is_refused_with_the_minimum(server: Server, vsi: Vsi, phones: Phones) -> None:
    phone = await phones.new("hasty")
    call = await phone.dial(server.uri(), headers=[("Session-Expires", "30"), ("Supported", "timer")])
    answer = await call.final()
    assert (answer.status, answer.get("Min-SE")) == (422, "90")
    assert not vsi.all("leg.ringing")


async def test_glare_is_refused_and_our_own_wish_is_tried_again(
    server: Server, rest: Rest, vsi: Vsi, phones: Phones
) -> None:
    """RFC 3261 §14: while our re-INVITE is open, theirs gets 491; after their 491 ours is repeated."""
    leg_id, call = await phones.calling(server, vsi, rest, name="alice")
    call.refusals["INVITE"] = 491
    await rest.post(f"/legs/{leg_id}/hold", expect=202)
    await call.request("INVITE")
    del call.refusals["INVITE"]
    await call.received.first(
        lambda m: m.method == "INVITE" and m.cseq[0] > call.received.matching(is_invite)[0].cseq[0],
        within_s=6,
        named="second re-INVITE",
    )
    await vsi.wait("leg.hold", leg_id=leg_id)


def is_invite(message) -> bool:
    return message.method == "INVITE"


async def test_our_open_reinvite_makes_theirs_wait(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    leg_id, call = await phones.calling(server, vsi, rest, name="alice")
    call.phone.wire.incoming = lambda data: [] if data.startswith(b"INVITE") else [(0.0, data)]
    await rest.post(f"/legs/{leg_id}/hold", expect=202)
    final = await asyncio.wait_for(until_491(call), 5)
    assert final.status == 491
    call.phone.wire.incoming = lambda data: [(0.0, data)]
    await vsi.wait("leg.hold", leg_id=leg_id, within_s=8)


async def until_491(call):
    """The server's re-INVITE leaves some time after the reply: try until ours meets it."""
    while (final := await call.reinvite()).status != 491:
        pass
    return final


async def test_a_lost_ack_makes_the_200_come_again(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    phone = await phones.new("alice")
    phone.wire.outgoing = drop_first(2, "ACK")
    call = await phone.dial(server.uri())
    leg_id = (await vsi.wait("leg.ringing"))["leg_id"]
    await rest.post(f"/legs/{leg_id}/answer", expect=202)
    await call.answered()
    assert (await rest.leg(leg_id))["state"] == "ringing"
    await rest.post(f"/legs/{leg_id}/answer", expect=202)
    await vsi.wait("leg.connected", leg_id=leg_id)
    assert len(phone.received.matching(lambda m: m.is_response("INVITE", 200))) == 3


async def test_a_peer_that_does_not_answer_the_bye(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    leg_id, call = await phones.calling(server, vsi, rest, name="alice")
    call.phone.wire.outgoing = lambda _: []
    await rest.delete(f"/legs/{leg_id}", expect=202)
    await vsi.wait("leg.disconnected", leg_id=leg_id, within_s=2)
    await rest.get(f"/legs/{leg_id}", expect=404)


async def test_record_route_is_followed(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    """Requests of the server go to the proxy that recorded itself, with the phone as their Request-URI."""
    proxy = await phones.new("proxy")
    phone = await phones.new("alice", next_hop=server.sip_address)  # this proxy forwards nothing
    route = f"<sip:127.0.0.1:{proxy.wire.port};lr>"
    call = await phone.dial(server.uri(), headers=[("Record-Route", route)])
    leg_id = (await vsi.wait("leg.ringing"))["leg_id"]
    await rest.post(f"/legs/{leg_id}/answer", expect=202)
    answer = await call.final()
    assert answer.get("Record-Route") == route
    await vsi.wait("leg.connected", leg_id=leg_id)
    await rest.delete(f"/legs/{leg_id}", expect=202)
    bye = await proxy.received.first(lambda m: m.method == "BYE", named="BYE at the proxy")
    assert bye.uri == phone.uri
    assert bye.get("Route") == route
