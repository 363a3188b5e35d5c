"""The event WebSocket: its first frame, filters, commands and manners (events.md §4)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import aiohttp
import pytest

from tests.flows.conftest import Phones
from tests.flows.tools.events import Vsi
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server

pytestmark = pytest.mark.flow


async def test_connected_comes_first_and_no_event_is_missed(server: Server, rest: Rest) -> None:
    for i in range(5):
        async with Vsi(server.base) as vsi:
            await rest.room(f"seen-{i}")
            event = await vsi.wait("room.created", room_id=f"seen-{i}")
            assert vsi.frames[0] == {"type": "connected"}
            assert event["instance_id"] == server.instance_id
            assert event["timestamp"].endswith("Z")
            assert "." in event["timestamp"]


async def test_every_client_sees_every_event(server: Server, rest: Rest) -> None:
    async with Vsi(server.base) as one, Vsi(server.base) as two:
        await rest.room("shared")
        assert await one.wait("room.created") == await two.wait("room.created")


async def test_app_id_filters_events_but_not_commands(server: Server, rest: Rest) -> None:
    async with Vsi(server.base, app_id="^shop") as shop, Vsi(server.base, app_id="o") as search:
        await rest.room("a", app_id="shop-1")
        await rest.room("b", app_id="my shop")
        await rest.room("c")
        await rest.room("d", app_id="shop-2")
        await search.wait("room.created", room_id="d")
        await shop.wait("room.created", room_id="d")
        assert [e["room_id"] for e in shop.events] == ["a", "d"]
        assert [e["room_id"] for e in search.events] == ["a", "b", "d"]
        assert len((await shop.command("list_rooms"))["data"]) == 4


async def test_refused_upgrades(server: Server) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(f"{server.base}/v1/vsi", params={"app_id": "("})
        assert refused.value.status == 400
        async with session.get(f"{server.base}/v1/vsi") as plain:
            assert plain.status == 426
        async with session.get(f"{server.base}/v1/vsi", params={"app_id": "("}) as plain:
            assert plain.status == 400
            assert set(await plain.json()) == {"instance_id", "error"}


async def test_commands_answer_as_rest_does(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    created = await vsi.command("create_room", id="by-vsi", sample_rate=8000)
    assert created["type"] == "create_room.result"
    assert created["data"] == {"id": "by-vsi", "sample_rate": 8000, "participants": []}
    phone = await phones.new("bob", answering=True)
    leg = (await vsi.command("create_leg", type="sip", to=phone.uri))["data"]
    leg_id = leg["id"]
    await vsi.wait("leg.connected", leg_id=leg_id)
    added = await vsi.command("add_leg_to_room", room_id="by-vsi", leg_id=leg_id, mute=True)
    assert added["data"] == {"status": "added", "room_id": "by-vsi", "leg_id": leg_id}
    moved = await vsi.command("add_leg_to_room", room_id="next", leg_id=leg_id)
    assert moved["data"]["status"] == "moved"
    assert (moved["data"]["from"], moved["data"]["to"]) == ("by-vsi", "next")
    for command, path in (("get_leg", f"/legs/{leg_id}"), ("get_room", "/rooms/next")):
        by_rest = (await rest.get(path)).json
        assert (await vsi.command(command, id=path.rsplit("/", 1)[1]))["data"] == {
            k: v for k, v in by_rest.items() if k != "instance_id"
        }
    assert (await vsi.command("list_rooms"))["data"] == (await rest.get("/rooms")).json
    assert (await vsi.command("list_legs"))["data"] == (await rest.get("/legs")).json
    for command, event in (
        ("unmute_leg", "leg.unmuted"),
        ("mute_leg", "leg.muted"),
        ("deaf_leg", "leg.deaf"),
        ("undeaf_leg", "leg.undeaf"),
        ("hold_leg", "leg.hold"),
        ("unhold_leg", "leg.unhold"),
    ):
        assert (await vsi.command(command, id=leg_id))["type"] == f"{command}.result"
        await vsi.wait(event, leg_id=leg_id)
    assert (await vsi.command("reject_leg_dtmf", id=leg_id))["data"]["status"] == "dtmf_rejecting"
    assert (await vsi.command("accept_leg_dtmf", id=leg_id))["data"]["status"] == "dtmf_accepting"
    assert (await vsi.command("send_leg_dtmf", id=leg_id, digits="1"))["data"]["status"] == "sent"
    assert (await vsi.command("remove_leg_from_room", room_id="next", leg_id=leg_id))["data"]["status"] == "removed"
    assert (await vsi.command("delete_room", id="next"))["data"]["status"] == "deleted"
    assert (await vsi.command("delete_leg", id=leg_id))["data"]["status"] == "hanging_up"
    assert await (await phone.called()).ended() == "bye"


async def test_an_inbound_call_is_answered_by_command(server: Server, vsi: Vsi, phones: Phones) -> None:
    phone = await phones.new("alice")
    call = await phone.dial(server.uri())
    leg_id = (await vsi.wait("leg.ringing"))["leg_id"]
    assert (await vsi.command("leg_ring", id=leg_id))["type"] == "leg_ring.result"
    await call.response(180)
    assert (await vsi.command("leg_early_media", id=leg_id))["type"] == "leg_early_media.result"
    await call.response(183)
    assert (await vsi.command("answer_leg", id=leg_id))["data"]["status"] == "answering"
    await call.answered()
    await vsi.wait("leg.connected", leg_id=leg_id)
    await vsi.command("delete_leg", id=leg_id)


async def test_failures_are_errors_with_codes(rest: Rest, vsi: Vsi) -> None:
    for command, payload, code in (
        ("get_leg", {"id": "unknown"}, 404),
        ("get_room", {"id": "unknown"}, 404),
        ("delete_room", {"id": "unknown"}, 404),
        ("create_room", {"sample_rate": 11025}, 400),
        ("create_leg", {"type": "sip"}, 400),
        ("add_leg_to_room", {"room_id": "r", "leg_id": "unknown"}, 400),
        ("mute_leg", {"id": "unknown"}, 404),
        ("no_such_command", {}, 400),
    ):
        reply = await vsi.command(command, **payload)
        assert (reply["type"], reply["data"]["code"]) == ("error", code), command
        assert reply["data"]["message"]
    assert await rest.everything() == ([], [])


async def test_broken_frames_do_not_end_the_connection(vsi: Vsi) -> None:
    for text in ("{", "[]", "5", '{"type":5}', '{"type":"list_rooms","request_id":7}'):
        before = len(vsi.frames)
        await vsi.socket.send_str(text)
        assert await vsi.frames.first(after=before) == {"type": "error", "data": {"message": "invalid JSON"}}
    before = len(vsi.frames)
    await vsi.socket.send_str("{}")
    reply = await vsi.frames.first(after=before)
    assert (reply["type"], reply["data"]["code"], "request_id" in reply) == ("error", 400, False)
    await vsi.socket.send_bytes(b'{"type":"list_rooms"}')
    await vsi.socket.send_str('{"type":"list_rooms","payload":null}')
    assert await vsi.frames.first(after=before + 1) == {"type": "list_rooms.result", "data": []}
    await vsi.socket.send_str('{"type":"list_rooms","request_id":"x","payload":[]}')
    reply = await vsi.frames.first(lambda f: f.get("request_id") == "x")
    assert (reply["type"], reply["data"]["code"]) == ("error", 400)


async def test_stop_closes_and_leaves_the_others(server: Server, rest: Rest, vsi: Vsi) -> None:
    async with Vsi(server.base) as leaving:
        await leaving.socket.send_json({"type": "stop"})
        await asyncio.wait_for(asyncio.shield(leaving._reader), 3)
        assert leaving.socket.closed
    await rest.room("after")
    await vsi.wait("room.created", room_id="after")


async def test_pings_and_large_frames_are_survived(vsi: Vsi) -> None:
    await vsi.socket.ping()
    await vsi.socket.send_str(json.dumps({"type": "list_rooms", "request_id": "big", "payload": {"x": "y" * 60000}}))
    await vsi.frames.first(lambda f: f.get("request_id") == "big")


async def test_commands_of_one_connection_keep_their_order(rest: Rest, vsi: Vsi) -> None:
    for i in range(20):
        await vsi.socket.send_json({"type": "create_room", "request_id": f"c{i}", "payload": {"id": f"o{i}"}})
    await vsi.frames.first(lambda f: f.get("request_id") == "c19")
    results = [f["request_id"] for f in vsi.frames if f["type"] == "create_room.result"]
    assert results == [f"c{i}" for i in range(20)]
    assert [r["id"] for r in (await rest.get("/rooms")).json] == [f"o{i}" for i in range(20)]


async def test_a_slow_reader_is_told_how_much_it_missed(own_server: Callable[..., Server]) -> None:
    """Events far larger than what sockets hold, to a client that does not read for a while."""
    server = own_server(VSI_EVENT_BUFFER_SIZE="16")
    async with (
        Rest(server.base) as rest,
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{server.base}/v1/vsi") as socket,
    ):
        assert (await socket.receive_json())["type"] == "connected"
        for number in range(80):
            await rest.room(f"{number}", app_id="x" * 200_000)
        seen: list[int] = []
        dropped = 0
        while len(seen) + dropped < 80:
            frame = await socket.receive_json(timeout=5)
            if frame["type"] == "events_dropped":
                assert frame["timestamp"].endswith("Z")
                dropped += frame["count"]
            else:
                seen.append(int(frame["room_id"]))
        assert dropped > 0
        assert seen == list(range(len(seen))), "the newest are dropped, not the oldest"
    assert not server.errors()
