"""Transcription that is refused, that its vendor ends, or that loses a process: told once, and nobody else is disturbed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from tests.flows.conftest import Phones
from tests.flows.tools.events import Vsi
from tests.flows.tools.house import answering_again
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server
from tests.flows.tools.vendors import KEY, Vendors

pytestmark = pytest.mark.flow

ELEVENLABS = {"api_key": KEY}
DEEPGRAM = {"provider": "deepgram", "api_key": KEY}

REFUSALS = [  # each is wrong in everything that is checked later, too (rooms.md B6)
    (400, "rooms/none", [1], "invalid JSON"),
    (400, "rooms/none", {"partial": "yes"}, "partial"),
    (400, "rooms/none", {"keyterms": "one"}, "keyterms"),
    (400, "rooms/none", {"provider": "acme", "endpointing": -1}, "acme"),
    (501, "rooms/none", {"provider": "azure", "endpointing": -1}, "azure"),
    (501, "rooms/none", {"provider": "deepgram_flux", "endpointing": -1}, "deepgram_flux"),
    (503, "rooms/none", {"endpointing": -1}, "no elevenlabs API key provided"),
    (503, "rooms/none", {"provider": "deepgram", "endpointing": -1}, "no deepgram API key provided"),
    (400, "rooms/none", {**DEEPGRAM, "endpointing": -1}, "endpointing"),
    (400, "legs/none", {**DEEPGRAM, "utterance_end_ms": -1}, "utterance_end_ms"),
    (413, "rooms/none", {**DEEPGRAM, "keyterms": ["long " * 13_000]}, "too large"),
    (404, "rooms/none", DEEPGRAM, "room not found"),
    (404, "legs/none", DEEPGRAM, "leg not found"),
    (409, "rooms/empty", DEEPGRAM, "no participants"),
]


async def test_refusals_in_the_order_of_the_contract(rest: Rest, vsi: Vsi, phones: Phones, vendors: Vendors) -> None:
    await rest.room("empty")
    before = len(vsi.events)
    for status, venue, body, words in REFUSALS:
        reply = await rest.post(f"/{venue}/stt", body, expect=status)
        assert words in reply["error"]
        assert set(reply.json) == {"instance_id", "error"}
    for venue in ("rooms/none", "rooms/empty", "legs/none"):
        await rest.delete(f"/{venue}/stt", expect=404)
    assert len(vsi.events) == before
    ringing = await rest.dial((await phones.new()).uri)
    await rest.post(f"/legs/{ringing}/stt", DEEPGRAM, expect=409)
    assert not vendors.deepgram_stt.connections


async def test_every_failure_of_a_vendor_is_told_and_a_new_start_is_free(
    rest: Rest, vsi: Vsi, phones: Phones, vendors: Vendors, server: Server
) -> None:
    alice_id, _ = await phones.dialled(rest, fields={"room_id": "f"})
    seen = len(server.lines)
    for fake, body in ((vendors.elevenlabs_stt, ELEVENLABS), (vendors.deepgram_stt, DEEPGRAM)):
        for outcome in (401, 429, 500, "reset", "redirect", "garbage", "wrong_types", "policy", "huge", "cut", "close"):
            fake.outcomes.extend([outcome, outcome])  # a connection kept alive and then reset is tried once more
            before = len(vsi.events)
            await rest.post("/rooms/f/stt", body)
            error = await vsi.wait("stt.error", after=before, leg_id=alice_id, room_id="f")
            assert KEY not in error["error"]
            await rest.delete("/rooms/f/stt", expect=404)
            assert not [event for event in vsi.events[before:] if event is not error]
            fake.outcomes.clear()
    vendors.elevenlabs_stt.complaint = "rate_limited"  # it complains and goes on
    vendors.elevenlabs_stt.commit_after_chunks = 20
    before = len(vsi.events)
    await rest.post("/rooms/f/stt", ELEVENLABS)
    await vsi.wait("stt.text", after=before, leg_id=alice_id)
    await rest.delete("/rooms/f/stt")
    assert not [line for line in server.lines[seen:] if KEY in line or "hello there" in line]


async def test_a_vendor_that_does_not_answer_does_not_keep_a_stop_waiting(
    rest: Rest, vsi: Vsi, phones: Phones, vendors: Vendors
) -> None:
    alice_id, _ = await phones.dialled(rest)
    for outcome in ("stall", "mute", "deaf"):
        vendors.deepgram_stt.outcomes.append(outcome)
        connections = len(vendors.deepgram_stt.connections)
        await rest.post(f"/legs/{alice_id}/stt", DEEPGRAM)
        await vendors.deepgram_stt.until(lambda before=connections: len(vendors.deepgram_stt.connections) > before)
        began_s = asyncio.get_running_loop().time()
        await rest.delete(f"/legs/{alice_id}/stt")
        assert asyncio.get_running_loop().time() - began_s < 3.0
    assert not vsi.all("stt.error")


async def test_the_end_of_one_session_is_not_the_end_of_the_others(
    rest: Rest, vsi: Vsi, phones: Phones, vendors: Vendors
) -> None:
    fake = vendors.elevenlabs_stt
    fake.commit_after_chunks = 20
    fake.outcomes.append("close")
    legs = await phones.meeting(rest, "o", (1000, 1300))
    await rest.post("/rooms/o/stt", ELEVENLABS)
    error = await vsi.wait("stt.error", room_id="o")
    other_id = next(leg_id for leg_id, _ in legs if leg_id != error["leg_id"])
    after = len(vsi.events)
    await vsi.wait("stt.text", after=after, leg_id=other_id)
    await rest.post("/rooms/o/stt", ELEVENLABS, expect=409)
    await rest.delete("/rooms/o/stt")
    assert not vsi.all("stt.text", leg_id=error["leg_id"])
    assert len(vsi.all("stt.error")) == 1
    assert len(fake.connections) == 2  # what a vendor ended is not begun anew


async def test_transcription_through_the_death_of_every_process_it_meets(
    own_server: Callable[..., Server], phones: Phones, vendors: Vendors
) -> None:
    server = own_server(DEEPGRAM_API_KEY=KEY, **vendors.environment)
    fake = vendors.deepgram_stt
    fake.final_after_chunks = 10
    async with Rest(server.base) as rest, Vsi(server.base) as vsi:
        (alice_id, _), (bob_id, _) = await phones.meeting(rest, "k", (1000, 1300))
        assert set((await rest.post("/rooms/k/stt", {"provider": "deepgram"}))["leg_ids"]) == {alice_id, bob_id}

        # The room's process hears nobody for us: nothing changes.
        await asyncio.to_thread(server.slay, "roomtone: room k")
        before = len(vsi.events)
        for leg_id in (alice_id, bob_id):
            await vsi.wait("stt.text", after=before, leg_id=leg_id, room_id="k")
        assert len(fake.connections) == 2

        # Control: the sessions go on under its successor.
        await asyncio.to_thread(server.slay, "roomtone: control")
        await answering_again(rest)
    async with Rest(server.base) as rest, Vsi(server.base) as vsi:
        for leg_id in (alice_id, bob_id):
            await vsi.wait("stt.text", leg_id=leg_id, room_id="k")
        await rest.post("/rooms/k/stt", {"provider": "deepgram"}, expect=409)
        carol_id, _ = await phones.dialled(rest, tone_hz=1600, fields={"room_id": "k"})
        await vsi.wait("stt.text", leg_id=carol_id, room_id="k")
        assert len(fake.connections) == 3

        # Stream: every session ends with a word, and a new start is free.
        await asyncio.to_thread(server.slay, "roomtone: stream 0")
        for leg_id in (alice_id, bob_id, carol_id):
            await vsi.wait("stt.error", leg_id=leg_id, room_id="k")
        await rest.delete("/rooms/k/stt", expect=404)
        before = len(vsi.events)
        assert len((await rest.post("/rooms/k/stt", {"provider": "deepgram"}))["leg_ids"]) == 3
        for leg_id in (alice_id, bob_id, carol_id):
            await vsi.wait("stt.text", after=before, leg_id=leg_id, room_id="k", within_s=15)
        await rest.delete("/rooms/k/stt")
        assert len(vsi.all("stt.error")) == 3
        assert np.all([len(heard) > 0 for heard in fake.heard])
    await asyncio.to_thread(server.stop)
