"""What the room API does to people is heard: mute, deaf, move, hold, remove, delete."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from tests.flows.conftest import Phones
from tests.flows.tools.events import Vsi
from tests.flows.tools.rest import Rest
from tests.flows.tools.sip import parse_sdp
from tests.flows.tools.spectrum import assert_hears, assert_silent, level_db, longest_quiet_ms

pytestmark = pytest.mark.flow


async def test_muted_is_not_heard_and_still_hears(rest: Rest, phones: Phones, vsi: Vsi) -> None:
    (a, alice), (_, bob) = await phones.meeting(rest, "mute", (440, 660))
    assert (await rest.post(f"/legs/{a}/mute"))["status"] == "muted"
    await vsi.wait("leg.muted", leg_id=a)
    await bob.media.settled(not_={440})
    at_alice, at_bob = await asyncio.gather(alice.media.listen(0.4), bob.media.listen(0.4))
    assert_hears(at_alice, {660})
    assert_silent(at_bob)
    assert (await rest.leg(a))["muted"] is True
    assert (await rest.delete(f"/legs/{a}/mute"))["status"] == "unmuted"
    await vsi.wait("leg.unmuted", leg_id=a)
    await bob.media.settled({440})


async def test_deaf_hears_nothing_and_is_still_heard(rest: Rest, phones: Phones, vsi: Vsi) -> None:
    (a, alice), (_, bob) = await phones.meeting(rest, "deaf", (440, 660))
    assert (await rest.post(f"/legs/{a}/deaf"))["status"] == "deaf"
    await vsi.wait("leg.deaf", leg_id=a)
    await alice.media.settled(not_={660})
    at_alice, at_bob = await asyncio.gather(alice.media.listen(0.4), bob.media.listen(0.4))
    assert_silent(at_alice)
    assert_hears(at_bob, {440})
    assert (await rest.delete(f"/legs/{a}/deaf"))["status"] == "undeaf"
    await vsi.wait("leg.undeaf", leg_id=a)
    await alice.media.settled({660})


async def test_mute_applies_before_the_first_frame_and_survives_a_move(rest: Rest, phones: Phones, vsi: Vsi) -> None:
    _, bob = await phones.dialled(rest, name="bob", tone_hz=660, fields={"room_id": "first"})
    a, _ = await phones.dialled(rest, name="alice", tone_hz=440)
    mark = len(bob.media.packets)
    assert (await rest.join("first", a, mute=True)).json["status"] == "added"
    await vsi.wait("leg.joined_room", leg_id=a, room_id="first")
    await bob.media.listen(0.3)
    heard = bob.media.recorded(since_s=bob.media.packets[mark].arrived_s)
    assert_silent(heard)
    assert not vsi.all("leg.muted", leg_id=a)
    _, carol = await phones.dialled(rest, name="carol", fields={"room_id": "second"})
    await rest.join("second", a)
    assert (await rest.leg(a))["muted"] is True
    assert_silent(await carol.media.listen(0.3))


async def test_mute_again_says_so_again(rest: Rest, phones: Phones, vsi: Vsi) -> None:
    """legs.md §5.5: idempotent, with the event on every call."""
    a, _ = await phones.dialled(rest)
    for _ in range(2):
        await rest.post(f"/legs/{a}/mute")
    assert len(vsi.all("leg.muted", leg_id=a)) == 2


async def test_a_move_is_atomic_and_loses_one_frame_at_most(rest: Rest, phones: Phones, vsi: Vsi) -> None:
    await phones.dialled(rest, name="old", tone_hz=440, fields={"room_id": "old"})
    await phones.dialled(rest, name="new", tone_hz=1640, fields={"room_id": "new"})
    leg_id, ear = await phones.dialled(rest, name="ear", fields={"room_id": "old"})
    await ear.media.settled({440})
    for source, target, tone_hz in (("old", "new", 1640), ("new", "old", 440)):
        mark, events = len(ear.media.packets), len(vsi.events)
        reply = await rest.join(target, leg_id)
        assert {k: v for k, v in reply.json.items() if k != "instance_id"} == {
            "status": "moved",
            "from": source,
            "to": target,
        }
        await ear.media.settled({tone_hz}, not_={440 + 1640 - tone_hz})
        heard = ear.media.recorded(since_s=ear.media.packets[mark].arrived_s)
        assert heard.lost == 0
        assert longest_quiet_ms(heard) <= 25
        assert both_heard(heard.audio, heard.rate_hz) <= 1, "heard in both rooms at once"
        await vsi.wait("leg.joined_room", leg_id=leg_id, room_id=target, after=events)
        about = [e for e in vsi.events[events:] if e.get("leg_id") == leg_id]
        assert [(e["type"], e["room_id"]) for e in about] == [("leg.left_room", source), ("leg.joined_room", target)]


def both_heard(audio: np.ndarray, rate_hz: int) -> int:
    """Frames of 20 ms in which both rooms are loud; one may hold the cut itself."""
    frames = [audio[i : i + rate_hz // 50] for i in range(0, audio.size - rate_hz // 50 + 1, rate_hz // 50)]
    return sum(level_db(f, rate_hz, 440) > -26 and level_db(f, rate_hz, 1640) > -26 for f in frames)


async def test_a_talkers_move_is_heard_in_one_room_at_a_time(rest: Rest, phones: Phones) -> None:
    (_, left), (_, right) = await asyncio.gather(
        phones.dialled(rest, name="left", fields={"room_id": "left"}),
        phones.dialled(rest, name="right", fields={"room_id": "right"}),
    )
    talker, _ = await phones.dialled(rest, name="talker", tone_hz=440, fields={"room_id": "left"})
    await left.media.settled({440})
    await rest.join("right", talker)
    await asyncio.gather(right.media.settled({440}), left.media.settled(not_={440}))
    at_left, at_right = await asyncio.gather(left.media.listen(0.3), right.media.listen(0.3))
    assert_silent(at_left)
    assert_hears(at_right, {440})


@pytest.mark.parametrize(("source", "target"), [(8000, 16000), (16000, 48000), (48000, 8000)])
async def test_a_move_between_rates_has_no_gap(source: int, target: int, rest: Rest, phones: Phones) -> None:
    await rest.room("from", sample_rate=source)
    await rest.room("to", sample_rate=target)
    await phones.dialled(rest, name="one", tone_hz=440, fields={"room_id": "from"})
    await phones.dialled(rest, name="two", tone_hz=1640, fields={"room_id": "to"})
    leg_id, ear = await phones.dialled(rest, name="ear", fields={"room_id": "from"})
    await ear.media.settled({440})
    mark = len(ear.media.packets)
    await rest.join("to", leg_id)
    await ear.media.settled({1640}, not_={440})
    heard = ear.media.recorded(since_s=ear.media.packets[mark].arrived_s)
    assert heard.lost == 0
    assert longest_quiet_ms(heard) <= 45


async def test_hold_stops_rtp_and_unhold_brings_it_back(rest: Rest, phones: Phones, vsi: Vsi) -> None:
    (a, alice), (_, bob) = await phones.meeting(rest, "hold", (440, 660))
    assert (await rest.post(f"/legs/{a}/hold", expect=202))["status"] == "holding"
    await vsi.wait("leg.hold", leg_id=a)
    invite = alice.received.matching(lambda m: m.method == "INVITE")[-1]
    assert parse_sdp(invite.body).direction == "sendonly"
    leg = await rest.leg(a)
    assert (leg["state"], leg["held"], leg["room_id"]) == ("held", True, "hold")
    await bob.media.settled(not_={440})
    before = len(alice.media.packets)
    assert_silent(await bob.media.listen(0.4))
    assert len(alice.media.packets) - before <= 1, "RTP was sent to a held leg"
    assert (await rest.post(f"/legs/{a}/hold", expect=202))["status"] == "holding"
    assert (await rest.delete(f"/legs/{a}/hold", expect=202))["status"] == "unholding"
    await vsi.wait("leg.unhold", leg_id=a)
    await asyncio.gather(bob.media.settled({440}), alice.media.settled({660}))
    assert vsi.of(leg_id=a).count("leg.hold") == 1


async def test_a_refused_hold_is_reported(rest: Rest, phones: Phones, vsi: Vsi) -> None:
    a, alice = await phones.dialled(rest)
    alice.refusals["INVITE"] = 488
    await rest.post(f"/legs/{a}/hold", expect=202)
    failed = await vsi.wait("leg.command_failed", leg_id=a, command="hold")
    assert failed["error"]
    assert (await rest.leg(a))["state"] == "connected"


async def test_a_held_leg_can_be_moved_but_not_added(rest: Rest, phones: Phones, vsi: Vsi) -> None:
    outside, _ = await phones.dialled(rest, name="outside")
    inside, _ = await phones.dialled(rest, name="inside", fields={"room_id": "in"})
    for leg_id in (outside, inside):
        await rest.post(f"/legs/{leg_id}/hold", expect=202)
        await vsi.wait("leg.hold", leg_id=leg_id)
    await rest.post("/rooms/other/legs", {"leg_id": outside}, expect=400)
    await rest.get("/rooms/other", expect=404)
    assert (await rest.join("other", inside))["status"] == "moved"
    assert (await rest.leg(inside))["state"] == "held"


async def test_removed_hears_silence_and_stays_connected(rest: Rest, phones: Phones, vsi: Vsi) -> None:
    (a, alice), (_, bob) = await phones.meeting(rest, "remove", (440, 660))
    assert (await rest.delete(f"/rooms/remove/legs/{a}"))["status"] == "removed"
    await vsi.wait("leg.left_room", leg_id=a, room_id="remove")
    await asyncio.gather(alice.media.settled(not_={660}), bob.media.settled(not_={440}))
    assert_silent(await alice.media.listen(0.3))
    leg = await rest.leg(a)
    assert leg["state"] == "connected"
    assert "room_id" not in leg
    assert (await rest.join("remove", a))["status"] == "added"
    await alice.media.settled({660})


async def test_a_deleted_room_hangs_everyone_up(rest: Rest, phones: Phones, vsi: Vsi) -> None:
    legs = await phones.meeting(rest, "delete", (440, 660))
    assert (await rest.delete("/rooms/delete"))["status"] == "deleted"
    assert await asyncio.gather(*(call.ended() for _, call in legs)) == ["bye", "bye"]
    await vsi.wait("room.deleted", room_id="delete")
    for leg_id, _ in legs:
        event = await vsi.wait("leg.disconnected", leg_id=leg_id)
        assert event["cdr"]["reason"] == "room_deleted"
        assert "leg.left_room" not in vsi.of(leg_id=leg_id)
        await rest.get(f"/legs/{leg_id}", expect=404)
    await rest.get("/rooms/delete", expect=404)
    await rest.delete("/rooms/delete", expect=404)
    await rest.room("delete")


async def test_a_room_outlives_its_people_and_takes_new_ones(rest: Rest, phones: Phones, vsi: Vsi) -> None:
    (_, alice), (_, bob) = await phones.meeting(rest, "again", (440, 660))
    await asyncio.gather(alice.hang_up(), bob.hang_up())
    await vsi.events.first(lambda _: vsi.of(room_id="again").count("leg.left_room") == 2)
    assert (await rest.get("/rooms/again"))["participants"] == []
    await phones.meeting(rest, "again", (550, 770))


async def test_room_objects_show_their_people_in_join_order(rest: Rest, phones: Phones) -> None:
    await rest.room("list-b", app_id="app")
    await rest.room("list-a")
    legs = [(await phones.dialled(rest, name=f"p{i}", fields={"room_id": "list-b"}))[0] for i in range(3)]
    room = (await rest.get("/rooms/list-b")).json
    assert [leg["id"] for leg in room["participants"]] == legs
    assert all("instance_id" not in leg for leg in room["participants"])
    assert (room["sample_rate"], room["app_id"]) == (16000, "app")
    assert [r["id"] for r in (await rest.get("/rooms")).json] == ["list-b", "list-a"]
    assert [leg["id"] for leg in (await rest.get("/legs")).json] == legs
    required = {"id", "type", "state", "muted", "deaf", "accept_dtmf", "held"}
    assert required <= set(room["participants"][0])
