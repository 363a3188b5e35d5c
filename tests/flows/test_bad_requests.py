"""Refused requests: each gets its status and the error shape, and nothing at all has changed afterwards.

`{leg}` is a connected leg in room `r`, `{free}` one in no room, `{ringing}` an outbound leg nobody has answered.
"""

from __future__ import annotations

import asyncio
import functools
import json
from typing import Any

import aiohttp
import pytest

from tests.flows.conftest import Phones
from tests.flows.tools.events import Vsi
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server

pytestmark = pytest.mark.flow

LONG = "x" * 1025
REFUSALS: list[tuple[int, str, str, Any]] = [
    # bodies
    (400, "POST", "/rooms", b"{"),
    (400, "POST", "/rooms", b"[]"),
    (400, "POST", "/rooms", b'{"id":"a"} {}'),
    (400, "POST", "/rooms", b'"room"'),
    (400, "POST", "/rooms", b"\xff\xfe"),
    (400, "POST", "/rooms/r/legs", b""),
    (400, "POST", "/legs", b""),
    (413, "POST", "/rooms", b'{"id":"' + b"x" * (1 << 20) + b'"}'),
    # rooms
    (400, "POST", "/rooms", {"id": 5}),
    (400, "POST", "/rooms", {"id": LONG}),
    (400, "POST", "/rooms", {"sample_rate": 44100}),
    (400, "POST", "/rooms", {"sample_rate": "16000"}),
    (400, "POST", "/rooms", {"sample_rate": 8000.5}),
    (400, "POST", "/rooms", {"id": "r", "sample_rate": 1}),
    (400, "POST", "/rooms", {"id": "n", "webhook_url": "ftp://x/"}),
    (409, "POST", "/rooms", {"id": "r"}),
    (404, "GET", "/rooms/unknown", None),
    (404, "DELETE", "/rooms/unknown", None),
    (404, "GET", "/rooms/", None),
    (404, "GET", "/nothing", None),
    (405, "PUT", "/rooms", None),
    (405, "PATCH", "/rooms/r", None),
    (405, "POST", "/legs/moq", None),
    (405, "GET", "/rooms/r/play", None),
    (405, "PUT", "/rooms/r/record", None),
    (405, "TRACE", "/rooms/r/agent", None),
    (404, "POST", "/rooms/r/agent/acme", {}),
    (404, "POST", "/rooms/r/record/stop", None),
    (400, "GET", "/rooms/%zz", None),
    # a leg into a room
    (400, "POST", "/rooms/r/legs", {}),
    (400, "POST", "/rooms/r/legs", {"leg_id": ""}),
    (400, "POST", "/rooms/new/legs", {"leg_id": "unknown"}),
    (400, "POST", "/rooms/r/legs", {"leg_id": "{leg}", "mute": True, "deaf": True}),
    (400, "POST", "/rooms/new/legs", {"leg_id": "{ringing}"}),
    (400, "POST", "/rooms/new/legs", {"leg_id": "{free}", "mute": "yes"}),
    (400, "POST", "/rooms/new/legs", {"leg_id": "{free}", "deaf": 1}),
    (400, "POST", f"/rooms/{LONG}/legs", {"leg_id": "{free}"}),
    (400, "DELETE", "/rooms/unknown/legs/{leg}", None),
    (400, "DELETE", "/rooms/r/legs/unknown", None),
    (400, "DELETE", "/rooms/r/legs/{free}", None),
    # a new leg
    (400, "POST", "/legs", {"type": "fax", "to": "sip:a@127.0.0.1"}),
    (400, "POST", "/legs", {"to": "sip:a@127.0.0.1"}),
    (400, "POST", "/legs", {"type": "sip"}),
    (400, "POST", "/legs", {"type": "sip", "to": "alice"}),
    (400, "POST", "/legs", {"type": "sip", "to": "sip:"}),
    (400, "POST", "/legs", {"type": "sip", "to": "sip:a@127.0.0.1:99999"}),
    (400, "POST", "/legs", {"type": "sip", "to": "sip:a@127.0.0.1\r\nX: y"}),
    (400, "POST", "/legs", {"type": "sip", "to": "sip:a@127.0.0.1", "codecs": ["MP3"], "room_id": "new"}),
    (400, "POST", "/legs", {"type": "sip", "to": "sip:a@127.0.0.1", "codecs": "PCMU", "room_id": "new"}),
    (400, "POST", "/legs", {"type": "sip", "to": "sip:a@127.0.0.1", "ring_timeout": "5", "room_id": "new"}),
    (400, "POST", "/legs", {"type": "sip", "to": "sip:a@127.0.0.1", "headers": {"X-A": "b\r\nVia: c"}}),
    (400, "POST", "/legs", {"type": "sip", "to": "sip:a@127.0.0.1", "headers": {"X A": "b"}}),
    (400, "POST", "/legs", {"type": "sip", "to": "sip:a@127.0.0.1", "headers": {"Via": "c"}}),
    (400, "POST", "/legs", {"type": "sip", "to": "sip:a@127.0.0.1", "headers": {"content-type": "c"}}),
    (400, "POST", "/legs", {"type": "sip", "to": "sip:a@127.0.0.1", "headers": {"call-id": "c"}}),
    (400, "POST", "/legs", {"type": "sip", "to": "sip:a@127.0.0.1", "outbound_proxy": "proxy"}),
    (400, "POST", "/legs", {"type": "sip", "to": "sip:a@127.0.0.1", "room_id": LONG}),
    # a leg
    (404, "GET", "/legs/unknown", None),
    (404, "DELETE", "/legs/unknown", {}),
    (400, "DELETE", "/legs/{leg}", b"{"),
    (404, "POST", "/legs/unknown/mute", None),
    (404, "DELETE", "/legs/unknown/deaf", None),
    (404, "POST", "/legs/unknown/hold", None),
    (404, "POST", "/legs/unknown/dtmf/accept", None),
    (404, "POST", "/legs/unknown/answer", None),
    (400, "POST", "/legs/{leg}/answer", b"{"),
    (400, "POST", "/legs/{ringing}/answer", None),
    (400, "POST", "/legs/{ringing}/early-media", None),
    (409, "POST", "/legs/{ringing}/hold", None),
    (409, "DELETE", "/legs/{ringing}/hold", None),
    (409, "POST", "/legs/{ringing}/dtmf", {"digits": "1"}),
    (400, "POST", "/legs/{leg}/dtmf", {"digits": "x"}),
]


async def test_refused_and_nothing_changed(rest: Rest, vsi: Vsi, phones: Phones) -> None:
    """One stage serves all cases, since none of them may change it; every deviation is listed at the end."""
    (leg, _), (free, _) = await asyncio.gather(
        phones.dialled(rest, name="in", fields={"room_id": "r"}), phones.dialled(rest, name="free")
    )
    phone = await phones.new("ringing")
    ringing = await rest.dial(phone.uri)
    (await phone.called()).ring()
    await vsi.wait("leg.ringing", leg_id=ringing)
    before, events = await rest.everything(), len(vsi.events)
    names = {"leg": leg, "free": free, "ringing": ringing}
    wrong = []
    for status, method, path, body in REFUSALS:
        fill = functools.partial(filled, names=names)
        raw = body if isinstance(body, bytes) else None
        json_body = json.loads(fill(json.dumps(body))) if raw is None and body is not None else None
        reply = await rest.call(method, fill(path), json_body, raw=raw)
        case = f"{method} {path[:60]} {str(body)[:80]}"
        if reply.status != status:
            wrong.append(f"{case}: {reply.status} instead of {status}: {reply.text[:200]}")
        elif list(reply.json) != ["instance_id", "error"] or not reply["error"]:
            wrong.append(f"{case}: error shape {reply.text[:200]}")
        if await rest.everything() != before:
            wrong.append(f"{case}: changed something")
            before = await rest.everything()
    await rest.room("sentinel")
    await vsi.wait("room.created", room_id="sentinel")
    assert not wrong, "\n".join(wrong)
    assert [e["type"] for e in vsi.events[events:]] == ["room.created"]


def filled(text: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        text = text.replace("{" + name + "}", value)
    return text


UNBUILT: list[tuple[str, str, str | None]] = [  # method, path, command
    ("GET", "/rooms/r/routing", "room_routing_get"),
    ("PUT", "/rooms/r/routing", "room_routing_set"),
    ("PATCH", "/rooms/r/routing", "room_routing_update"),
    ("GET", "/rooms/r/bridges", "bridge_list"),
    ("POST", "/rooms/r/bridges", "bridge_create"),
    ("GET", "/rooms/r/bridges/b", "bridge_get"),
    ("PATCH", "/rooms/r/bridges/b", "bridge_update"),
    ("DELETE", "/rooms/r/bridges/b", "bridge_delete"),
    ("POST", "/rooms/r/siprec", "room_siprec_start"),
    ("GET", "/legs/websocket", None),
    ("POST", "/legs/x/challenge", "challenge_leg"),
    ("POST", "/legs/x/rtt", "send_leg_rtt"),
    ("POST", "/legs/x/rtt/accept", "accept_leg_rtt"),
    ("POST", "/legs/x/rtt/reject", "reject_leg_rtt"),
    ("POST", "/legs/x/tts/preflight", "leg_tts_preflight"),
    ("POST", "/legs/x/tts/t/commit", "leg_tts_commit"),
    ("DELETE", "/legs/x/tts/t", "leg_tts_discard"),
    ("POST", "/legs/x/stt/finalize", "leg_stt_finalize"),
    ("POST", "/legs/x/amd", "leg_amd_start"),
    ("POST", "/legs/x/transfer", "leg_transfer"),
    ("POST", "/legs/x/transfer/accept", "accept_transfer"),
    ("POST", "/legs/x/transfer/progress", "progress_transfer"),
    ("POST", "/legs/x/transfer/complete", "complete_transfer"),
    ("POST", "/legs/x/transfer/decline", "decline_transfer"),
    ("POST", "/legs/x/ice-candidates", "webrtc_add_candidate"),
    ("GET", "/legs/x/ice-candidates", "webrtc_get_candidates"),
    ("POST", "/webrtc/offer", "webrtc_offer"),
    ("PATCH", "/legs/x/role", "set_leg_role"),
    ("GET", "/legs/x/streams", "leg_stream_list"),
    ("POST", "/legs/x/streams", "leg_stream_add"),
    ("GET", "/legs/x/streams/1", "leg_stream_get"),
    ("PATCH", "/legs/x/streams/1", "leg_stream_update"),
    ("DELETE", "/legs/x/streams/1", "leg_stream_remove"),
    ("POST", "/legs/x/streams/1/room", "leg_stream_attach_room"),
    ("DELETE", "/legs/x/streams/1/room", "leg_stream_detach_room"),
    ("GET", "/legs/x/siprec", "siprec_get"),
    ("POST", "/legs/x/siprec", "leg_siprec_start"),
    ("GET", "/sip/registrations", "list_sip_registrations"),
    ("DELETE", "/sip/registrations/sip%3Aa%40b", "delete_sip_registration"),
    ("POST", "/sip/registrations/attempts/a/challenge", "challenge_registration"),
    ("POST", "/sip/registrations/attempts/a/accept", "accept_registration"),
    ("POST", "/sip/registrations/attempts/a/reject", "reject_registration"),
    ("POST", "/sip/trunks", "create_sip_trunk"),
    ("GET", "/sip/trunks", "list_sip_trunks"),
    ("GET", "/sip/trunks/t", "get_sip_trunk"),
    ("DELETE", "/sip/trunks/t", "delete_sip_trunk"),
]


async def test_what_is_not_built_yet_says_so(rest: Rest, vsi: Vsi) -> None:
    for method, path, command in UNBUILT:
        reply = await rest.call(method, path)
        assert (reply.status, reply.json.get("error")) == (501, "not implemented"), f"{method} {path}"
        assert list(reply.json) == ["instance_id", "error"]
        if command is not None:
            frame = await vsi.command(command)
            assert frame["data"] == {"code": 501, "message": "not implemented"}, command


@pytest.mark.parametrize(
    "body",
    [
        {},
        None,
        {"id": "", "webhook_url": "", "webhook_secret": "", "app_id": "", "sample_rate": 0},
        {"id": None, "sample_rate": None, "unknown": [1, 2]},
        {"sample_rate": 16000.0},
    ],
)
async def test_unset_fields_in_every_spelling(body: Any, rest: Rest) -> None:
    room = (await rest.post("/rooms", body, expect=201)).json
    assert (len(room["id"]), room["sample_rate"], room["participants"]) == (36, 16000, [])
    assert "app_id" not in room


async def test_the_body_null_and_a_wrong_content_type(rest: Rest) -> None:
    assert (await rest.call("POST", "/rooms", raw=b"null")).status == 201
    assert (await rest.call("POST", "/rooms", raw=b'{"id":"first","id":"last"}'))["id"] == "last"


async def test_any_id_is_a_room(rest: Rest, vsi: Vsi) -> None:
    for room_id, path in (("a b", "a%20b"), ("ä/ö", "%C3%A4%2F%C3%B6"), ("?#%", "%3F%23%25"), ("x" * 1024, "x" * 1024)):
        await rest.room(room_id)
        await vsi.wait("room.created", room_id=room_id)
        assert (await rest.get(f"/rooms/{path}"))["id"] == room_id
        await rest.delete(f"/rooms/{path}")


async def test_of_several_creations_of_one_id_one_wins(rest: Rest, vsi: Vsi) -> None:
    replies = await asyncio.gather(*(rest.post("/rooms", {"id": "race"}, expect=None) for _ in range(8)))
    assert sorted(r.status for r in replies) == [201, *[409] * 7]
    assert len(vsi.all("room.created", room_id="race")) == 1


async def test_headers_of_every_reply(server: Server, rest: Rest) -> None:
    for reply in (await rest.get("/rooms"), await rest.get("/rooms/unknown", expect=404)):
        assert reply.headers["Access-Control-Allow-Origin"] == "*"
        assert reply.headers["Content-Type"] == "application/json"
        assert "PATCH" in reply.headers["Access-Control-Allow-Methods"]
        assert reply.text.endswith("\n")
    assert (await rest.get("/rooms")).text == "[]\n"
    assert (await rest.call("HEAD", "/rooms")).status == 405
    async with aiohttp.ClientSession() as session, session.options(f"{server.base}/v1/rooms") as reply:
        assert reply.status == 204
        assert await reply.read() == b""
