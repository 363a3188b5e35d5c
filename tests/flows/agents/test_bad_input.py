"""What callers and vendors do wrong: each status of the contract, one event, a reason in the log, and nothing left."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import psutil
import pytest

from tests.flows.agents.conftest import VendorOf
from tests.flows.conftest import Phones
from tests.flows.tools.agents import FAKES, REQUESTS, VOICE_HZ, Vendor
from tests.flows.tools.events import Vsi
from tests.flows.tools.ports import free_port
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server
from tests.flows.tools.vendors import KEY, Vendors

pytestmark = pytest.mark.flow

BOT = {"websocket_url": "ws://127.0.0.1:9/"}
BAD_BODIES: dict[str, list[Any]] = {
    "elevenlabs": [
        {},
        {"agent_id": ""},
        {"agent_id": 7},
        {"agent_id": "a", "dynamic_variables": {"x": {}}},
        {"agent_id": "a", "dynamic_variables": []},
    ],
    "vapi": [{}, {"assistant_id": ""}, {"assistant_id": "a", "variable_values": {"x": [1]}}],
    "pipecat": [
        {},
        {"websocket_url": ""},
        {"websocket_url": "http://127.0.0.1/"},
        {"websocket_url": "127.0.0.1:80"},
        {"websocket_url": "ws://"},
        {"websocket_url": "ws://[::1"},
        {"websocket_url": "ws://127.0.0.1:99999/"},
    ],
    "deepgram": [{"settings": "x"}, {"settings": {"agent": {"x": "y" * 70_000}}}],
}


@pytest.mark.parametrize("name", FAKES)
async def test_requests_are_refused_in_the_contracts_order(name: str, rest: Rest, phones: Phones) -> None:
    """rooms.md B6, legs.md 6.6: body, field, key, room or leg, state; a refusal leaves no trace."""
    phone = await phones.new()
    ringing = await rest.dial(phone.uri)
    await phone.called()
    before = await rest.everything()
    good = REQUESTS[name] or BOT
    for where in ("/rooms/none", "/legs/none"):
        path = f"{where}/agent/{name}"
        reply = await rest.call("POST", path, raw=b'{"agent_id":', expect=400)
        assert reply["error"] == "invalid JSON"
        for body in BAD_BODIES[name]:
            too_large = "settings" in body and len(str(body)) > 60_000
            await rest.post(path, body, expect=413 if too_large else 400)
        if name != "pipecat":
            keyless = {key: value for key, value in good.items() if key != "api_key"}
            reply = await rest.post(path, keyless, expect=503)
            assert reply["error"] == f"no {name} API key provided"
        await rest.post(path, good, expect=404)
    await rest.post(f"/legs/{ringing}/agent/{name}", good, expect=409)
    for where in ("/rooms/none", "/legs/none", f"/legs/{ringing}"):
        for body in ({}, {"message": ""}, {"message": 1}):
            await rest.post(f"{where}/agent/message", body, expect=400)
        await rest.post(f"{where}/agent/message", {"message": "psst"}, expect=404)
        await rest.delete(f"{where}/agent", expect=404)
    assert await rest.everything() == before


async def test_messages(rest: Rest, vsi: Vsi, vendor_of: VendorOf) -> None:
    """409 while the vendor connects, 501 where it knows no messages, 500 when it does not take one."""
    vendors = {name: vendor_of(name) for name in FAKES}
    vapi = vendors["vapi"].fake
    vapi.may_create.clear()
    for name, vendor in vendors.items():
        await rest.room(name)
        await rest.post(f"/rooms/{name}/{vendor.path}", vendor.request)
    await vapi.until(lambda: vapi.calls)
    await rest.post("/rooms/vapi/agent/message", {"message": "psst"}, expect=409)
    vapi.may_create.set()
    for name in vendors:
        await vsi.wait("agent.connected", room_id=name)
        told = await rest.post(f"/rooms/{name}/agent/message", {"message": "psst ✓"}, expect=None)
        assert told.status == (501 if name == "elevenlabs" else 200)
        assert name == "elevenlabs" or told["status"] == "message_sent"
    assert vapi.controls == [{"type": "add-message", "message": {"role": "system", "content": "psst ✓"}}]
    pipecat, deepgram = vendors["pipecat"].fake, vendors["deepgram"].fake
    await pipecat.until(lambda: pipecat.injected == ["psst ✓"])
    await deepgram.until(lambda: {"type": "InjectAgentMessage", "message": "psst ✓"} in deepgram.texts)
    vapi.control_status = 500
    failed = await rest.post("/rooms/vapi/agent/message", {"message": "psst"}, expect=500)
    assert "500" in failed["error"]
    assert KEY not in failed["error"]


# What the vendor does -> what the log says, and whether the agent counted as connected before.
FAULTS: dict[tuple[str, int | str], tuple[str, bool]] = {
    ("elevenlabs", 401): ("refused with 401", False),
    ("elevenlabs", 500): ("refused with 500", False),
    ("elevenlabs", "reset"): ("cannot connect", False),
    ("elevenlabs", "garbage"): ("not its protocol", False),
    ("elevenlabs", "wrong_types"): ("not its protocol", False),
    ("elevenlabs", "deep"): ("not its protocol", False),
    ("elevenlabs", "huge"): ("broke the WebSocket protocol", False),
    ("elevenlabs", "policy"): ("closed with 1008", False),
    ("elevenlabs", "cut"): ("the connection broke", True),
    ("elevenlabs", "close"): ("the vendor hung up", True),
    ("vapi", 403): ("refused with 403", False),
    ("vapi", "garbage"): ("not its protocol", True),
    ("vapi", "cut"): ("the connection broke", True),
    ("pipecat", 401): ("refused with 401", False),
    ("pipecat", "junk"): ("no frame", True),
    ("pipecat", "wrong_types"): ("no frame", True),
    ("pipecat", "cut"): ("the connection broke", True),
    ("deepgram", 401): ("refused with 401", False),
    ("deepgram", "garbage"): ("not its protocol", False),
    ("deepgram", "policy"): ("closed with 1008", False),
    ("deepgram", "cut"): ("the connection broke", True),
}
CREATIONS: dict[int | str, str] = {
    401: "refused with 401",
    402: "refused with 402",
    500: "refused with 500",
    "garbage": "not its protocol",
    "no_url": "named no WebSocket",
}


class Faults:
    """One room after the other gets an agent that fails; who is in the room notices nothing."""

    def __init__(self, server: Server, rest: Rest, vsi: Vsi) -> None:
        self._server, self._rest, self._vsi = server, rest, vsi

    async def fails(self, vendor: Vendor, *, because: str, was_connected: bool = False, **changes: Any) -> None:
        events, lines = len(self._vsi.events), len(self._server.lines)
        await self._rest.post(f"/rooms/r/{vendor.path}", vendor.request | changes)
        await self._vsi.wait("agent.disconnected", room_id="r", after=events)
        kinds = [event["type"] for event in self._vsi.events[events:] if event["type"].startswith("agent.")]
        assert kinds == ["agent.connected"] * was_connected + ["agent.disconnected"]
        await self._rest.delete("/rooms/r/agent", expect=404)
        async with asyncio.timeout(5):
            while not (said := [line for line in self._server.lines[lines:] if '"agent ended"' in line]):  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # the line comes by a pipe of its own
        assert len(said) == 1
        assert because in said[0]
        assert '"room_id":"r"' in said[0]
        assert not [line for line in self._server.lines[lines:] if KEY in line]


async def counted(server: Server) -> tuple[psutil.Process, int]:
    """The stream process and its descriptors, after its first connection: its event loop keeps a spare one from then on."""
    stream = await asyncio.to_thread(server.only, "roomtone: stream 0")
    return stream, stream.num_fds()


async def nothing_left(stream: psutil.Process, descriptors: int, vendors: Vendors) -> None:
    """Once the vendors are gone, and with them what stream keeps alive for its next request to them."""
    await vendors.close()
    async with asyncio.timeout(5):
        while stream.num_fds() > descriptors:  # noqa: ASYNC110 - polling a foreign process: nothing announces it
            await asyncio.sleep(0.05)


async def test_a_failing_vendor_is_one_event_and_one_reason(
    server: Server, rest: Rest, vsi: Vsi, phones: Phones, vendor_of: VendorOf
) -> None:
    faults = Faults(server, rest, vsi)
    agents = {name: vendor_of(name) for name in FAKES}
    (_, alice), (_, bob) = await phones.meeting(rest, "r", (440, 660))
    agents["pipecat"].fake.outcomes.append("close")
    await faults.fails(agents["pipecat"], because="the vendor hung up", was_connected=True)
    await agents["pipecat"].fake.until(lambda: agents["pipecat"].fake.closes)
    stream, descriptors = await counted(server)
    for (name, outcome), (because, was_connected) in FAULTS.items():
        agents[name].fake.outcomes += [outcome] * (2 if outcome == "reset" else 1)  # aiohttp asks once more
        await faults.fails(agents[name], because=because, was_connected=was_connected)
    for outcome, because in CREATIONS.items():
        agents["vapi"].fake.call_outcomes.append(outcome)
        await faults.fails(agents["vapi"], because=because)
    await faults.fails(agents["elevenlabs"], because="refused with 401", api_key="wrong")
    await faults.fails(agents["elevenlabs"], because="not printable", api_key="two\r\nX-Lines: 1")
    nowhere = f"ws://127.0.0.1:{free_port()}/"
    await faults.fails(agents["pipecat"], because="cannot connect", websocket_url=nowhere)
    for host in ("169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]"):
        await faults.fails(agents["pipecat"], because="leads to", websocket_url=f"ws://{host}/latest/meta-data")
    await alice.media.settled({660})
    await bob.media.settled({440})
    await nothing_left(stream, descriptors, agents["vapi"].fakes)


async def test_a_vendor_that_complains_and_goes_on(server: Server, rest: Rest, vsi: Vsi, vendor_of: VendorOf) -> None:
    """Is logged, and what the log calls it by is told with its room."""
    vendor = vendor_of("deepgram")
    await rest.room("r")
    begun = len(server.lines)
    await rest.post(f"/rooms/r/{vendor.path}", vendor.request)
    await vsi.wait("agent.connected")
    await vendor.socket.send_json({"type": "Error", "code": "SLOW", "description": f"hurry up, {KEY}"})
    await vendor.fake.tell_texts(vendor.socket)
    await vsi.wait("agent.agent_response")
    logged: dict[str, Any] = {}
    async with asyncio.timeout(5):
        while "agent problem" not in logged:
            logged = {line["event"]: line for line in map(json.loads, server.lines[begun:])}
            await asyncio.sleep(0.01)
    assert logged["agent problem"]["error"] == "deepgram: Error SLOW hurry up, …"
    assert logged["agent problem"]["session_id"] == logged["agent started"]["session_id"]
    assert logged["agent started"]["room_id"] == "r"
    assert not vsi.all("agent.disconnected")


async def test_a_vendor_that_never_answers_can_be_detached(
    server: Server, rest: Rest, vsi: Vsi, phones: Phones, vendor_of: VendorOf
) -> None:
    """Its own end comes after 30 s (tests/workers/stream/agents); until then everything else works."""
    _, alice = await phones.dialled(rest, tone_hz=440, fields={"room_id": "r"})
    agents = [vendor_of(name) for name in FAKES]
    agents[-1].fake.outcomes.append("close")
    await rest.post(f"/rooms/r/{agents[-1].path}", agents[-1].request)
    await agents[-1].fake.until(lambda: agents[-1].fake.closes)
    await vsi.wait("agent.disconnected")
    stream, descriptors = await counted(server)
    for vendor in agents:
        vendor.fake.outcomes.append("stall")
        dialled = len(vendor.fake.connections)
        await rest.post(f"/rooms/r/{vendor.path}", vendor.request)
        await vendor.fake.until(lambda: len(vendor.fake.connections) > dialled)  # noqa: B023 - awaited right here
        await rest.post("/rooms/r/agent/message", {"message": "psst"}, expect=409)
        await rest.post(f"/rooms/r/{vendor.path}", vendor.request, expect=409)
        await rest.delete("/rooms/r/agent")
        before = len(vsi.events)
        await rest.post(f"/rooms/r/{vendor.path}", vendor.request)
        await vsi.wait("agent.connected", after=before)
        await vendor.speak()
        await alice.media.settled({VOICE_HZ})
        await rest.delete("/rooms/r/agent")
    assert vsi.of(room_id="r").count("agent.disconnected") == 1 + 2 * len(FAKES)
    await nothing_left(stream, descriptors, agents[0].fakes)
