"""Offers and answers: late offers, changed addresses and codecs, every spelling of hold, and what cannot be accepted."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import pytest

from tests.flows.conftest import Phones
from tests.flows.tools.events import Vsi
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server
from tests.flows.tools.sip import Message, parse_sdp
from tests.flows.tools.spectrum import assert_hears, assert_silent, longest_quiet_ms

pytestmark = pytest.mark.flow

VIDEO = "m=video 40000 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
FAX = "m=image 40002 udptl t38\r\n"


async def test_an_invite_without_sdp_is_offered_to(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    _, bob = await phones.dialled(rest, name="bob", tone_hz=660, fields={"room_id": "late"})
    alice = await phones.new("alice", tone_hz=440)
    call = await alice.dial(server.uri(), offer=False)
    leg_id = (await vsi.wait("leg.ringing", leg_type="sip_inbound"))["leg_id"]
    assert (await rest.join("late", leg_id))["status"] == "added"
    await call.answered()
    offer = parse_sdp((await call.final()).body)
    assert offer.audio_names[0] == "PCMU/8000"
    await asyncio.gather(call.media.settled({660}), bob.media.settled({440}))


async def test_a_reinvite_without_sdp_keeps_the_call(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    leg_id, call = await phones.calling(server, vsi, rest, name="alice", tone_hz=440)
    _, bob = await phones.dialled(rest, name="bob", tone_hz=660, fields={"room_id": "relate"})
    await rest.join("relate", leg_id)
    await call.media.settled({660})
    final = await call.reinvite(offer=False)
    assert final.status == 200
    assert parse_sdp(final.body).port
    assert_hears(await call.media.listen(0.4), {660})
    assert_hears(await bob.media.listen(0.4), {440})


async def test_extra_sections_are_answered_with_port_zero(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    alice = await phones.new("alice")
    call = await alice.dial(server.uri(), extra_sdp=VIDEO + FAX)
    leg_id = (await vsi.wait("leg.ringing"))["leg_id"]
    await rest.post(f"/legs/{leg_id}/answer", expect=202)
    answer = parse_sdp((await call.final()).body)
    kinds = [(line.split()[0], line.split()[1] != "0") for line in answer.media_lines]
    assert kinds == [("audio", True), ("video", False), ("image", False)]


def only_unknown_codecs(sdp: str) -> str:
    return re.sub(r"a=(rtpmap|fmtp).*\r\n", "", sdp).replace("AVP 0 101", "AVP 18 4")


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda sdp: sdp.replace("RTP/AVP", "RTP/SAVP"), 488),
        (lambda sdp: sdp.replace("m=audio", "m=video"), 488),
        (only_unknown_codecs, 488),
        (lambda sdp: sdp.replace("m=audio ", "m=audio x"), 400),
        (lambda _: "not a session description", 400),
    ],
    ids=["only SRTP", "only video", "only unknown codecs", "no port number", "no SDP"],
)
async def test_unusable_offers_make_no_leg(
    change: Callable[[str], str], status: int, server: Server, vsi: Vsi, phones: Phones
) -> None:
    alice = await phones.new("alice")
    call = await alice.dial(server.uri(), offer=change)
    assert (await call.final()).status == status
    assert not vsi.all("leg.ringing")


async def test_a_new_address_and_codec_leave_no_gap(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    leg_id, call = await phones.calling(
        server, vsi, rest, name="roamer", tone_hz=440, codecs=("PCMU", "PCMA"), amplitude=8000.0
    )
    _, bob = await phones.dialled(rest, name="bob", tone_hz=660, fields={"room_id": "roam"})
    await rest.join("roam", leg_id)
    await asyncio.gather(call.media.settled({660}), bob.media.settled({440}))
    mark = len(bob.media.packets)
    ssrc = call.media.packets[-1].ssrc
    call.media.move()
    assert (await call.reinvite(codecs=("PCMA",))).status == 200
    await call.media.settled({660})
    heard = await call.media.listen(0.3)
    assert {(p.payload_type, p.ssrc) for p in heard.packets} == {(8, ssrc)}
    await bob.media.listen(0.3)
    at_bob = bob.media.recorded(since_s=bob.media.packets[mark].arrived_s)
    assert longest_quiet_ms(at_bob) <= 60
    assert at_bob.lost == 0
    assert "leg.hold" not in vsi.of(leg_id=leg_id)


@pytest.mark.parametrize("how", ["sendonly", "inactive", "c=0.0.0.0"])
async def test_the_peer_holds_and_resumes(how: str, server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    leg_id, call = await phones.calling(server, vsi, rest, name="alice", tone_hz=440)
    _, bob = await phones.dialled(rest, name="bob", tone_hz=660, fields={"room_id": "held"})
    await rest.join("held", leg_id)
    await asyncio.gather(call.media.settled({660}), bob.media.settled({440}))
    if how == "c=0.0.0.0":
        final = await call.reinvite(offer=lambda sdp: sdp.replace("c=IN IP4 127.0.0.1", "c=IN IP4 0.0.0.0"))
    else:
        final = await call.reinvite(direction=how)
    assert final.status == 200
    answer = parse_sdp(final.body)
    assert answer.direction == {"inactive": "inactive"}.get(how, "recvonly")
    assert answer.port != 0
    await vsi.wait("leg.hold", leg_id=leg_id)
    assert (await rest.leg(leg_id))["state"] == "held"
    await bob.media.settled(not_={440})
    before = len(call.media.packets)
    assert_silent(await bob.media.listen(0.3))
    assert len(call.media.packets) - before <= 1, "RTP was sent to a peer on hold"
    assert (await call.reinvite()).status == 200
    await vsi.wait("leg.unhold", leg_id=leg_id)
    await asyncio.gather(call.media.settled({660}), bob.media.settled({440}))


async def test_our_unhold_lifts_the_peers_hold(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    leg_id, call = await phones.calling(server, vsi, rest, name="alice")
    await call.reinvite(direction="sendonly")
    await vsi.wait("leg.hold", leg_id=leg_id)
    await rest.delete(f"/legs/{leg_id}/hold", expect=202)
    assert parse_sdp((await call.request("INVITE")).body).direction == "sendrecv"
    await vsi.wait("leg.unhold", leg_id=leg_id)


async def test_a_refresh_is_not_an_unhold(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    leg_id, call = await phones.calling(server, vsi, rest, name="alice")
    first = parse_sdp((await call.final()).body)
    for _ in range(3):
        final = await call.reinvite()
        assert final.status == 200
    again = parse_sdp(final.body)
    assert (again.address, again.port) == (first.address, first.port)
    assert again.version >= first.version
    assert vsi.of(leg_id=leg_id) == ["leg.ringing", "leg.connected"]


async def test_an_impossible_reinvite_leaves_the_call_as_it_was(
    server: Server, rest: Rest, vsi: Vsi, phones: Phones
) -> None:
    leg_id, call = await phones.calling(server, vsi, rest, name="alice", tone_hz=440)
    _, bob = await phones.dialled(rest, name="bob", tone_hz=660, fields={"room_id": "kept"})
    await rest.join("kept", leg_id)
    await call.media.settled({660})
    assert (await call.reinvite(offer=lambda sdp: sdp.replace("RTP/AVP", "RTP/SAVP"))).status == 488
    assert_hears(await call.media.listen(0.3), {660})
    assert_hears(await bob.media.listen(0.3), {440})


async def test_peers_ptime_and_dynamic_payload_types_are_honoured(
    server: Server, rest: Rest, vsi: Vsi, phones: Phones
) -> None:
    alice = await phones.new("alice", codecs=("L16/16000",))
    call = await alice.dial(server.uri())
    leg_id = (await vsi.wait("leg.ringing"))["leg_id"]
    await rest.post(f"/legs/{leg_id}/answer", expect=202)
    await call.answered()
    heard = await call.media.listen(0.2)
    assert {(p.payload_type, len(p.payload)) for p in heard.packets} == {(97, 640)}


async def test_without_rtcp_mux_reports_come_on_the_next_port(
    server: Server, rest: Rest, vsi: Vsi, phones: Phones
) -> None:
    alice = await phones.new("alice")
    call = await alice.dial(server.uri(), rtcp_mux=False)
    leg_id = (await vsi.wait("leg.ringing"))["leg_id"]
    await rest.post(f"/legs/{leg_id}/answer", expect=202)
    answer: Message = await call.final()
    sdp = parse_sdp(answer.body)
    assert not sdp.rtcp_mux
    assert sdp.port % 2 == 0
    await call.media.listen(0.3)
    assert len(call.media.rtcp) == 0


async def test_reports_say_what_was_received(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    _, call = await phones.calling(server, vsi, rest, name="alice", tone_hz=440, rtcp_interval_s=0.5)
    reports, _ = await call.media.rtcp.first(
        lambda r: any(report.blocks for report in r[0]), within_s=12, named="a report about our stream"
    )
    block = next(report for report in reports if report.blocks).blocks[0]
    assert block.ssrc == call.media.ssrc
    assert block.lost == 0
    assert (block.highest_sequence & 0xFFFF) <= call.media.sequence or call.media.sequence < 100
