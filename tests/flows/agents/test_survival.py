"""`kill -9` while an agent talks: what hung on the dead process's connections ends with an event, everything else goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from tests.flows.agents.conftest import VendorOf
from tests.flows.conftest import Phones
from tests.flows.tools.agents import VOICE_HZ, Vendor
from tests.flows.tools.events import Vsi
from tests.flows.tools.house import answering_again
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server
from tests.flows.tools.vendors import KEY, Vendors
from tests.flows.tools.webhooks import WebhookSink

pytestmark = pytest.mark.flow

Begin = Callable[..., Server]


@pytest.fixture
def begin(own_server: Begin, vendors: Vendors) -> Callable[[], Server]:
    """A server that knows the vendors and their keys."""
    keys = {"ELEVENLABS_API_KEY": KEY, "VAPI_API_KEY": KEY, "DEEPGRAM_API_KEY": KEY}
    return lambda: own_server(**vendors.environment, **keys)


@asynccontextmanager
async def clients(server: Server) -> AsyncIterator[tuple[Rest, Vsi]]:
    async with Rest(server.base) as rest, Vsi(server.base) as vsi:
        yield rest, vsi


async def attached(rest: Rest, vsi: Vsi, vendor: Vendor, where: str) -> None:
    """By the server's own key."""
    before = len(vsi.events)
    await rest.post(f"{where}/{vendor.path}", {k: v for k, v in vendor.request.items() if k != "api_key"})
    await vsi.wait("agent.connected", after=before)


async def test_killed_stream_ends_its_agents_and_no_call(
    begin: Callable[[], Server], phones: Phones, vendor_of: VendorOf
) -> None:
    server = begin()
    async with clients(server) as (rest, vsi):
        room_vendor, leg_vendor = vendor_of("vapi"), vendor_of("pipecat")
        (alice_id, alice), (_, bob) = await phones.meeting(rest, "r", (440, 660))
        await attached(rest, vsi, room_vendor, "/rooms/r")
        await attached(rest, vsi, leg_vendor, f"/legs/{alice_id}")
        await room_vendor.speak()
        await bob.media.settled({440, VOICE_HZ})
        await asyncio.to_thread(server.slay, "roomtone: stream 0")
        await vsi.wait("agent.disconnected", room_id="r")
        await vsi.wait("agent.disconnected", leg_id=alice_id)
        await bob.media.settled({440}, not_={VOICE_HZ})
        await alice.media.settled({660}, not_={VOICE_HZ})
        await rest.delete("/rooms/r/agent", expect=404)
        await attached(rest, vsi, room_vendor, "/rooms/r")
        await room_vendor.speak()
        await alice.media.settled({660, VOICE_HZ})
        await room_vendor.hears({440, 660})
        assert len(vsi.all("agent.disconnected")) == 2
    server.stop()
    reasons = [line["error"] for line in server.logged() if line.get("event") == "agent ended"]
    assert reasons[:2] == ["stream 0 was restarted"] * 2


async def test_killed_room_workers_are_nothing_to_an_agent(
    begin: Callable[[], Server], phones: Phones, vendor_of: VendorOf
) -> None:
    """Of a room, and of the hidden one in which a leg alone talks with its agent."""
    server = begin()
    async with clients(server) as (rest, vsi):
        vendor, other = vendor_of("elevenlabs"), vendor_of("deepgram")
        (_, alice), _ = await phones.meeting(rest, "r", (440, 660))
        carol_id, carol = await phones.dialled(rest, tone_hz=550)
        await attached(rest, vsi, vendor, "/rooms/r")
        await attached(rest, vsi, other, f"/legs/{carol_id}")
        await vendor.speak(30_000)
        await other.speak(30_000)
        await alice.media.settled({660, VOICE_HZ})
        await carol.media.settled({VOICE_HZ})
        for title in ("roomtone: room r", "roomtone: rooms 0"):
            await asyncio.to_thread(server.slay, title)
            await asyncio.sleep(0.2)  # into the time of its successor
            await alice.media.settled({660, VOICE_HZ}, within_s=1)
            await carol.media.settled({VOICE_HZ}, not_={550}, within_s=1)
            await vendor.hears({440, 660}, not_={VOICE_HZ}, within_s=2)
            await other.hears({550}, not_={VOICE_HZ}, within_s=2)
        assert not vsi.all("agent.disconnected")
        assert (len(vendor.fake.connections), len(other.fake.connections)) == (1, 1)
    server.stop()


async def test_a_new_control_knows_the_agents(begin: Callable[[], Server], phones: Phones, vendor_of: VendorOf) -> None:
    """What agents say and how they end while nobody is there to be told comes once, and behind what came before."""
    server = begin()
    vapi, pipecat, other = vendor_of("vapi"), vendor_of("pipecat"), vendor_of("elevenlabs")
    async with WebhookSink() as sink:

        def told(room_id: str) -> list[str]:
            return [kind for kind in sink.types(room_id) if kind.startswith("agent.")]

        async with clients(server) as (rest, vsi):
            for room_id in ("r", "empty"):
                await rest.room(room_id, app_id="shop", webhook_url=sink.url(room_id))
            (alice_id, _), (_, bob) = await phones.meeting(rest, "r", (440, 660))
            await attached(rest, vsi, vapi, "/rooms/r")
            await attached(rest, vsi, pipecat, f"/legs/{alice_id}")
            await attached(rest, vsi, other, "/rooms/empty")
            await vapi.speak(30_000)
            await bob.media.settled({440, VOICE_HZ})
            for room_id in ("r", "empty"):
                await sink.wait("agent.connected", room_id=room_id)
            await asyncio.to_thread(server.slay, "roomtone: control")
            await vapi.fake.tell_texts(vapi.socket)
            await other.socket.close()
            await answering_again(rest)
        async with clients(server) as (rest, vsi):
            await bob.media.settled({440, VOICE_HZ})
            await vapi.hears({440, 660}, not_={VOICE_HZ})
            await pipecat.hears({440}, not_={660})
            await rest.post(f"/rooms/r/{vapi.path}", vapi.request, expect=409)
            await rest.post("/rooms/r/agent/message", {"message": "psst"})
            await rest.post(f"/legs/{alice_id}/agent/message", {"message": "psst"})
            await vsi.wait("agent.agent_response", leg_id=alice_id, text="you said psst")
            await rest.delete("/rooms/empty/agent", expect=404)
            await attached(rest, vsi, other, "/rooms/empty")
            await rest.delete("/rooms/r/agent")
            await bob.media.settled({440}, not_={VOICE_HZ})
            await vapi.fake.until(lambda: vapi.fake.texts == [{"type": "end-call"}])
            await rest.delete(f"/legs/{alice_id}", expect=202)
            await vsi.wait("leg.disconnected", leg_id=alice_id)
            await pipecat.fake.until(lambda: pipecat.fake.closes)
            assert vsi.of(leg_id=alice_id).count("agent.disconnected") == 1
            await sink.wait("agent.disconnected", room_id="r")
            talked = ["agent.connected", "agent.user_transcript", "agent.agent_response", "agent.disconnected"]
            assert told("r") == talked
            assert told("empty") == ["agent.connected", "agent.disconnected", "agent.connected"]
            agents = [delivery.event for delivery in sink.deliveries if delivery.event["type"].startswith("agent.")]
            assert {event["app_id"] for event in agents} == {"shop"}
    server.stop()
