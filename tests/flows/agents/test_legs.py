"""An agent of a leg hears that leg alone, is heard by everybody around it, and goes where it goes (legs.md 6.6)."""

from __future__ import annotations

import asyncio

import pytest

from tests.flows.agents.conftest import VendorOf
from tests.flows.conftest import Phones
from tests.flows.tools.agents import VOICE_HZ
from tests.flows.tools.events import Vsi
from tests.flows.tools.rest import Rest
from tests.flows.tools.spectrum import assert_silent

pytestmark = pytest.mark.flow


async def test_in_a_room_everybody_hears_it(rest: Rest, vsi: Vsi, phones: Phones, vendor_of: VendorOf) -> None:
    vendor = vendor_of("pipecat")
    (alice_id, alice), (_, bob) = await phones.meeting(rest, "r", (440, 660))
    started = (await rest.post(f"/legs/{alice_id}/{vendor.path}", vendor.request)).json
    assert started == {"instance_id": started["instance_id"], "status": "agent_started", "leg_id": alice_id}
    connected = await vsi.wait("agent.connected", leg_id=alice_id)
    assert "room_id" not in connected
    await vendor.speak()
    await vendor.hears({440}, not_={660, VOICE_HZ})
    await alice.media.settled({660, VOICE_HZ}, not_={440})
    await bob.media.settled({440, VOICE_HZ}, not_={660})
    await rest.post(f"/legs/{alice_id}/mute")
    await bob.media.settled({VOICE_HZ}, not_={440})
    await vendor.hears({440})  # a mute is for the room
    await rest.post(f"/legs/{alice_id}/agent/message", {"message": "psst"})
    await vsi.wait("agent.agent_response", leg_id=alice_id, text="you said psst")
    await rest.delete(f"/legs/{alice_id}/agent")
    await bob.media.settled(not_={440, VOICE_HZ})
    await rest.delete(f"/legs/{alice_id}/agent", expect=404)


async def test_it_follows_its_leg(rest: Rest, vsi: Vsi, phones: Phones, vendor_of: VendorOf) -> None:
    """In no room, into one of another rate, into a third one, out again, and gone with the leg: one conversation."""
    vendor = vendor_of("elevenlabs")
    alice_id, alice = await phones.dialled(rest, tone_hz=440)
    bob_id, bob = await phones.dialled(rest, tone_hz=660)
    await rest.post(f"/legs/{alice_id}/{vendor.path}", vendor.request)
    await vsi.wait("agent.connected", leg_id=alice_id)
    await vendor.speak(30_000)
    await alice.media.settled({VOICE_HZ}, not_={440})
    await vendor.hears({440}, not_={VOICE_HZ})
    assert not (await rest.get("/rooms")).json
    for room_id, rate_hz in (("m", 16000), ("n", 48000), ("o", 8000)):
        await rest.room(room_id, sample_rate=rate_hz)
        await rest.join(room_id, bob_id)
        await rest.join(room_id, alice_id)
        await bob.media.settled({440, VOICE_HZ}, not_={660})
        await alice.media.settled({660, VOICE_HZ}, not_={440})
        await vendor.hears({440}, not_={660, VOICE_HZ})
    await rest.delete(f"/rooms/o/legs/{alice_id}")
    await bob.media.settled(not_={440, VOICE_HZ})
    assert_silent(await bob.media.listen(0.2))
    await alice.media.settled({VOICE_HZ}, not_={660})
    await vendor.hears({440}, not_={VOICE_HZ})
    assert len(vendor.fake.connections) == 1
    await rest.delete(f"/legs/{alice_id}", expect=202)
    await vsi.wait("leg.disconnected", leg_id=alice_id)
    kinds = [kind for kind in vsi.of(leg_id=alice_id) if not kind.startswith("agent.") or kind == "agent.disconnected"]
    assert kinds[-2:] == ["agent.disconnected", "leg.disconnected"]
    assert kinds.count("agent.disconnected") == 1
    await vendor.fake.until(lambda: vendor.fake.closes)


async def test_it_ends_alone_with_its_leg_or_its_leg_goes_on(
    rest: Rest, vsi: Vsi, phones: Phones, vendor_of: VendorOf
) -> None:
    vendor = vendor_of("deepgram")
    alice_id, alice = await phones.dialled(rest, tone_hz=440)
    for _ in range(2):
        await rest.post(f"/legs/{alice_id}/{vendor.path}", vendor.request)
        await vendor.fake.until(lambda: vendor.fake.sockets and not vendor.socket.closed)
        await vendor.hears({440})
        await vendor.speak()
        await alice.media.settled({VOICE_HZ})
        await vendor.socket.close()
        await alice.media.settled(not_={VOICE_HZ})
    assert (await rest.leg(alice_id))["state"] == "connected"
    assert vsi.of(leg_id=alice_id)[-4:] == ["agent.connected", "agent.disconnected"] * 2
    bob_id, bob = await phones.dialled(rest, tone_hz=660, fields={"room_id": "r"})
    await rest.post(f"/legs/{bob_id}/{vendor.path}", vendor.request)
    await vsi.wait("agent.connected", leg_id=bob_id)
    await bob.hang_up()
    await vsi.wait("leg.disconnected", leg_id=bob_id)
    assert vsi.of(leg_id=bob_id)[-3:] == ["agent.disconnected", "leg.left_room", "leg.disconnected"]


async def test_detached_while_its_leg_moves_it_leaves_nothing(
    rest: Rest, vsi: Vsi, phones: Phones, vendor_of: VendorOf
) -> None:
    vendor = vendor_of("pipecat")
    alice_id, _ = await phones.dialled(rest, tone_hz=440)
    _, bob = await phones.dialled(rest, fields={"room_id": "b"})
    for delay_ms in range(0, 60, 4):
        before = len(vsi.events)
        await rest.post(f"/legs/{alice_id}/{vendor.path}", vendor.request)
        await vsi.wait("agent.connected", leg_id=alice_id, after=before)
        await vendor.speak()
        joining = asyncio.create_task(rest.join("b", alice_id))
        await asyncio.sleep(delay_ms / 1000)
        await rest.delete(f"/legs/{alice_id}/agent")
        await joining
        await rest.delete(f"/rooms/b/legs/{alice_id}")
        await bob.media.settled(not_={VOICE_HZ})
    assert vsi.of(leg_id=alice_id).count("agent.disconnected") == 15
