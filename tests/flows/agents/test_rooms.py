"""An agent is a participant: it hears the room without itself, everybody hears it, and its words come as events."""

from __future__ import annotations

import asyncio

import pytest
import soundfile

from tests.flows.agents.conftest import VendorOf
from tests.flows.conftest import Phones
from tests.flows.tools.agents import FAKES, VOICE_HZ
from tests.flows.tools.events import Vsi
from tests.flows.tools.rest import Rest
from tests.flows.tools.spectrum import HEARD_DB, level_db

pytestmark = pytest.mark.flow


def agent_events(vsi: Vsi, **where: str) -> list[str]:
    return [kind.removeprefix("agent.") for kind in vsi.of(**where) if kind.startswith("agent.")]


@pytest.mark.parametrize("name", FAKES)
async def test_it_talks_with_everybody(name: str, rest: Rest, vsi: Vsi, phones: Phones, vendor_of: VendorOf) -> None:
    vendor = vendor_of(name)
    fake = vendor.fake
    (alice_id, alice), (bob_id, bob) = await phones.meeting(rest, "r", (440, 660))
    started = (await rest.post(f"/rooms/r/{vendor.path}", vendor.request)).json
    assert started == {"instance_id": started["instance_id"], "status": "agent_started", "room_id": "r"}
    connected = await vsi.wait("agent.connected", room_id="r")
    assert connected["conversation_id"] == vendor.conversation_id
    await vendor.hears({440, 660}, not_={VOICE_HZ})
    vendor.assert_asked()
    assert fake.piece_bytes == {640}
    await fake.tell_texts(vendor.socket)
    await vendor.speak()
    await alice.media.settled({660, VOICE_HZ}, not_={440})
    await bob.media.settled({440, VOICE_HZ}, not_={660})
    await vendor.hears({440, 660}, not_={VOICE_HZ})
    assert (await vsi.wait("agent.user_transcript", room_id="r"))["text"] == fake.user_text
    assert (await vsi.wait("agent.agent_response", room_id="r"))["text"] == fake.agent_text
    assert {leg["id"] for leg in (await rest.get("/rooms/r"))["participants"]} == {alice_id, bob_id}
    stopped = (await rest.delete("/rooms/r/agent")).json
    assert stopped == {"instance_id": started["instance_id"], "status": "agent_stopped"}
    await alice.media.settled({660}, not_={VOICE_HZ})
    await fake.until(lambda: fake.closes)
    await rest.delete("/rooms/r/agent", expect=404)
    assert agent_events(vsi, room_id="r") == ["connected", "user_transcript", "agent_response", "disconnected"]


async def test_there_is_one_for_each_room_and_each_leg(
    rest: Rest, vsi: Vsi, phones: Phones, vendor_of: VendorOf
) -> None:
    vendor, other = vendor_of("pipecat"), vendor_of("vapi")
    (alice_id, _), _ = await phones.meeting(rest, "r", (440, 660))
    await rest.post(f"/rooms/r/{vendor.path}", vendor.request)
    await rest.post(f"/rooms/r/{other.path}", other.request, expect=409)
    await rest.post(f"/legs/{alice_id}/{other.path}", other.request)
    await rest.post(f"/legs/{alice_id}/{vendor.path}", vendor.request, expect=409)
    await vsi.wait("agent.connected", room_id="r")
    await vsi.wait("agent.connected", leg_id=alice_id)
    await rest.delete("/rooms/r/agent")
    await rest.post(f"/rooms/r/{vendor.path}", vendor.request)
    await rest.delete(f"/legs/{alice_id}/agent")
    assert agent_events(vsi, leg_id=alice_id) == ["connected", "disconnected"]
    await vendor.fake.until(lambda: len(vendor.fake.sockets) == 2)
    await vendor.hears({440, 660})
    assert vsi.all("agent.disconnected", room_id="r") == vsi.all("agent.disconnected", room_id="r")[:1]


async def test_it_waits_in_an_empty_room_and_goes_with_the_last_leg(
    rest: Rest, vsi: Vsi, phones: Phones, vendor_of: VendorOf
) -> None:
    vendor = vendor_of("elevenlabs")
    await rest.room("r")
    await rest.post(f"/rooms/r/{vendor.path}", vendor.request)
    await vsi.wait("agent.connected", room_id="r")
    await vendor.fake.until(lambda: vendor.fake.audio_bytes > 32_000)  # silence, without a gap
    (alice_id, alice), (bob_id, _) = await phones.meeting(rest, "r", (440, 660))
    await vendor.speak()
    await alice.media.settled({660, VOICE_HZ})
    await vendor.hears({440, 660})
    await rest.delete(f"/legs/{bob_id}", expect=202)
    await vendor.hears({440}, not_={660})
    assert agent_events(vsi, room_id="r") == ["connected"]
    await rest.delete(f"/rooms/r/legs/{alice_id}")
    await vsi.wait("agent.disconnected", room_id="r")
    await alice.media.settled(not_={VOICE_HZ})
    await vendor.fake.until(lambda: vendor.fake.closes)
    await rest.delete("/rooms/r/agent", expect=404)


async def test_it_ends_first_when_its_room_is_deleted(
    rest: Rest, vsi: Vsi, phones: Phones, vendor_of: VendorOf
) -> None:
    """The order of rooms.md A5."""
    vendor = vendor_of("vapi")
    alice_id, _ = await phones.dialled(rest, fields={"room_id": "r"})
    await rest.post(f"/rooms/r/{vendor.path}", vendor.request)
    await rest.post("/rooms/r/record")
    await rest.post("/rooms/r/play", {"tone": "us_dial"})
    await vsi.wait("agent.connected")
    await vsi.wait("playback.started")
    await vendor.hears({350, 440})
    await rest.delete("/rooms/r")
    await vsi.wait("leg.disconnected", leg_id=alice_id)
    await vsi.wait("recording.finished")
    kinds = [event["type"] for event in vsi.events]
    order = ["agent.disconnected", "playback.finished", "room.deleted", "leg.disconnected"]
    assert [kind for kind in kinds if kind in order] == order
    await vendor.fake.until(lambda: vendor.fake.closes)
    assert vendor.fake.texts == [{"type": "end-call"}]


async def test_it_is_recorded_without_a_channel_of_its_own(
    rest: Rest, vsi: Vsi, phones: Phones, vendor_of: VendorOf
) -> None:
    vendor = vendor_of("deepgram")
    alice_id, alice = await phones.dialled(rest, tone_hz=440, fields={"room_id": "r"})
    await rest.post(f"/rooms/r/{vendor.path}", vendor.request)
    await vendor.fake.until(lambda: vendor.fake.audio_bytes)
    await rest.post("/rooms/r/record", {"multi_channel": True})
    await vendor.speak()
    await alice.media.settled({VOICE_HZ})
    await asyncio.sleep(0.5)  # the length of what is recorded
    stopped = (await rest.delete("/rooms/r/record")).json
    mix, rate_hz = soundfile.read(stopped["file"], dtype="int16")
    assert all(level_db(mix[-rate_hz // 4 :], rate_hz, tone) > HEARD_DB for tone in (440, VOICE_HZ))
    assert list(stopped["channels"]) == [alice_id]
    own, _ = soundfile.read(stopped["channels"][alice_id]["file"], dtype="int16")
    assert level_db(own, rate_hz, 440) > HEARD_DB > level_db(own, rate_hz, VOICE_HZ)


@pytest.mark.parametrize("name", FAKES)
async def test_a_vendor_that_hangs_up_is_detached(
    name: str, rest: Rest, vsi: Vsi, phones: Phones, vendor_of: VendorOf
) -> None:
    """In mid-sentence; nothing is dialled anew, and the next agent is welcome."""
    vendor = vendor_of(name)
    _, alice = await phones.dialled(rest, fields={"room_id": "r"})
    await rest.post(f"/rooms/r/{vendor.path}", vendor.request)
    await vendor.fake.until(lambda: vendor.fake.audio_bytes)
    await vendor.speak()
    await alice.media.settled({VOICE_HZ})
    if name == "vapi":
        await vendor.socket.send_json({"type": "status-update", "status": "ended"})
    else:
        await vendor.socket.close()
    await vsi.wait("agent.disconnected", room_id="r")
    await alice.media.settled(not_={VOICE_HZ})
    await rest.delete("/rooms/r/agent", expect=404)
    await rest.post(f"/rooms/r/{vendor.path}", vendor.request)
    await vendor.fake.until(lambda: len(vendor.fake.sockets) == 2)
    await vendor.hears(set())
    assert len(vendor.fake.connections) == 2
    await rest.delete("/rooms/r/agent")
    assert agent_events(vsi, room_id="r") == ["connected", "disconnected"] * 2


async def test_commands_on_the_event_socket_do_the_same(
    rest: Rest, vsi: Vsi, phones: Phones, vendor_of: VendorOf
) -> None:
    vendor = vendor_of("pipecat")
    leg_id, alice = await phones.dialled(rest, tone_hz=440, fields={"room_id": "r"})
    for kind, target, scope in (("room", "r", "room_id"), ("leg", leg_id, "leg_id")):
        before = len(vsi.events)
        started = await vsi.command(f"{kind}_agent_pipecat", id=target, **vendor.request)
        assert started["data"] == {"status": "agent_started", scope: target}
        await vsi.wait("agent.connected", after=before, **{scope: target})
        await vendor.hears({440})
        told = await vsi.command(f"{kind}_agent_message", id=target, message="psst")
        assert told["data"] == {"status": "message_sent"}
        await vsi.wait("agent.agent_response", after=before, text="you said psst", **{scope: target})
        stopped = await vsi.command(f"{kind}_agent_stop", id=target)
        assert stopped["data"] == {"status": "agent_stopped"}
        again = await vsi.command(f"{kind}_agent_stop", id=target)
        assert (again["type"], again["data"]["code"]) == ("error", 404)
    assert alice.live
