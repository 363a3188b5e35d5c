"""Speech that is refused, fails or loses a process: one clear event, nothing left behind, and the room goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.flows.conftest import Phones
from tests.flows.tools.events import Vsi
from tests.flows.tools.house import answering_again
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server
from tests.flows.tools.speaking import VOICES, speak
from tests.flows.tools.vendors import KEY, POLLY_KEY, Vendors

pytestmark = pytest.mark.flow

KEYS = (KEY, *POLLY_KEY.split(":"))
GOOD = {"text": "Hello.", "voice": "v", "api_key": KEY}


REFUSALS = [  # each is wrong in everything that is checked later, too (rooms.md B6)
    (400, "rooms/none", [1], "invalid JSON"),
    (400, "rooms/none", {"text": 7}, "text"),
    (400, "rooms/none", {"volume": 1.5}, "volume"),
    (404, "rooms/none", {"provider": "acme"}, "room not found"),
    (404, "legs/none", {"provider": "acme"}, "leg not found"),
    (400, "rooms/empty", {"provider": "acme"}, "acme"),
    (501, "rooms/empty", {"provider": "azure"}, "azure"),
    (503, "rooms/empty", {"volume": 9}, "no elevenlabs API key provided"),
    (503, "rooms/empty", {"provider": "", "api_key": ""}, "no elevenlabs API key provided"),
    (503, "rooms/empty", {"provider": "deepgram", "volume": 9}, "no deepgram API key provided"),
    (400, "rooms/empty", {"api_key": KEY, "text": " \n", "volume": 9}, "text"),
    (400, "rooms/empty", {"api_key": KEY, "text": "a", "voice": " ", "volume": 9}, "voice"),
    (400, "rooms/empty", {"provider": "aws", **GOOD, "model_id": "psychic"}, "model_id"),
    (400, "rooms/empty", {"provider": "aws", **GOOD, "api_key": "no colon"}, "ACCESS:SECRET"),
    (413, "rooms/empty", {**GOOD, "text": "long " * 13_000, "volume": 9}, "too large"),
    (400, "rooms/empty", {**GOOD, "volume": 9}, "volume"),
    (400, "rooms/empty", {**GOOD, "volume": -9}, "volume"),
    (409, "rooms/empty", GOOD, "no participants"),
    (409, "rooms/empty", {"provider": "local", "text": "a", "voice": "b"}, "no participants"),
]


async def test_refusals_in_the_order_of_the_contract(rest: Rest, vsi: Vsi, phones: Phones, vendors: Vendors) -> None:
    await rest.room("empty")
    before = len(vsi.events)
    for status, venue, body, words in REFUSALS:
        reply = await rest.post(f"/{venue}/tts", body, expect=status)
        assert words in reply["error"]
        assert set(reply.json) == {"instance_id", "error"}
    assert len(vsi.events) == before
    assert not vendors.elevenlabs_tts.requests
    ringing = await rest.dial((await phones.new()).uri)
    await rest.post(f"/legs/{ringing}/tts", GOOD, expect=409)


FAILURES = [
    # provider, outcomes, category, whether it was heard before, how often the vendor was asked
    ("elevenlabs", [401], "permanent_auth", False, 1),
    ("elevenlabs", [422], "permanent_input", False, 1),
    ("elevenlabs", [429, 429, 429], "rate_limited", False, 3),
    ("deepgram", [500, 503, 500], "service_unavailable", False, 3),
    ("deepgram", [418], "unknown", False, 1),
    ("deepgram", ["reset", "reset", "reset"], "retryable", False, 3),
    ("aws", [403], "permanent_auth", False, 1),
    ("aws", ["throttled"] * 3, "rate_limited", False, 3),
    ("aws", ["redirect"], "unknown", False, 1),
    ("deepgram", ["html"], "unknown", False, 1),
    ("deepgram", ["empty"], "unknown", False, 1),
    ("google", ["garbage"], "unknown", False, 1),
    ("deepgram", ["cut"], "retryable", True, 1),
]


async def test_every_failure_of_a_vendor_is_one_event_and_the_room_goes_on(
    rest: Rest, vsi: Vsi, phones: Phones, vendors: Vendors, server: Server
) -> None:
    fakes = {
        "elevenlabs": vendors.elevenlabs_tts, "aws": vendors.polly, "google": vendors.google,
        "deepgram": vendors.deepgram_tts,
    }  # fmt: skip
    (_, alice), _ = await phones.meeting(rest, "f", (1000, 1300))
    seen = len(server.lines)
    for provider, outcomes, category, is_heard, asked in FAILURES:
        fake = fakes[provider]
        fake.outcomes.extend(outcomes)
        before = len(fake.requests)
        tts_id = await speak(rest, "rooms/f", provider)
        error = await vsi.wait("tts.error", tts_id=tts_id, room_id="f")
        assert (provider, outcomes, error["category"]) == (provider, outcomes, category), error
        assert not any(key in error["error"] for key in KEYS)
        assert len(fake.requests) - before == asked
        assert not fake.outcomes
        assert vsi.of(tts_id=tts_id) == ["tts.started"] * is_heard + ["tts.error"]
        await rest.delete(f"/rooms/f/play/{tts_id}", expect=404)
    tts_id = await speak(rest, "rooms/f", "local", voice="no such voice")
    assert (await vsi.wait("tts.error", tts_id=tts_id, within_s=15))["category"] == "permanent_input"
    vendors.elevenlabs_tts.outcomes.extend([500, 429])  # the third attempt is heard
    tts_id = await speak(rest, "rooms/f")
    await vsi.wait("tts.finished", tts_id=tts_id)
    await alice.media.settled({1300}, not_={440})
    assert not await clips_left(server)
    assert not [line for line in server.lines[seen:] if any(key in line for key in KEYS)]


async def clips_left(server: Server, *, within_s: float = 3.0) -> list[str]:
    """Clips that any process still has open or mapped, espeak processes and temporary files, once it had time to let go."""
    deadline_s = asyncio.get_running_loop().time() + within_s
    while True:
        left = await asyncio.to_thread(_clips_left, server)
        if not left or asyncio.get_running_loop().time() > deadline_s:
            return left
        await asyncio.sleep(0.05)  # polling foreign processes: nothing announces that they let go


def _clips_left(server: Server) -> list[str]:
    left = [str(path) for path in server.folder.rglob("*tts*")]
    for process in server.processes():
        folder = Path(f"/proc/{process.pid}")
        try:
            title = process.cmdline()[0]
            # A mapping shows as a descriptor, too: Python keeps one of its own with it.
            left += [title for link in (folder / "fd").iterdir() if "roomtone-clip" in str(link.readlink())]
            left += [title for word in process.cmdline() if "espeak" in word]
        except (FileNotFoundError, psutil.NoSuchProcess):
            continue
    return left


async def test_speech_through_the_death_of_every_process_it_meets(
    own_server: Callable[..., Server], phones: Phones, vendors: Vendors
) -> None:
    server = own_server(ELEVENLABS_API_KEY=KEY, **vendors.environment)
    fake = vendors.elevenlabs_tts
    fake.tone_hz, fake.audio_ms, fake.chunk_bytes = 700, 20_000, 64_001
    async with Rest(server.base) as rest, Vsi(server.base) as vsi:
        (_, alice), _ = await phones.meeting(rest, "k", (1000, 1300))
        speech = {"text": "Hello.", "voice": VOICES["elevenlabs"]["voice"]}

        # The room's process: its successor speaks on where it stopped.
        tts_id = (await rest.post("/rooms/k/tts", speech))["tts_id"]
        await vsi.wait("tts.started", tts_id=tts_id)
        began_s = asyncio.get_running_loop().time()
        await alice.media.settled({700, 1300})
        await asyncio.to_thread(server.slay, "roomtone: room k")
        await alice.media.listen(0.5)
        await alice.media.settled({700, 1300})
        await rest.delete(f"/rooms/k/play/{tts_id}")
        ended = await vsi.wait("tts.finished", tts_id=tts_id)
        length_ms = 1000 * (asyncio.get_running_loop().time() - began_s)
        assert length_ms - 1000 < ended["played_ms"] < length_ms + 1000
        assert vsi.of(tts_id=tts_id) == ["tts.started", "tts.finished"]

        # The stream process, while it still fetches what is being heard, and while it waits for the first audio.
        fake.may_go_on.clear()
        heard = (await rest.post("/rooms/k/tts", speech))["tts_id"]
        await alice.media.settled({700, 1300})
        fake.outcomes.append("stall")
        fake.was_asked.clear()
        unheard = (await rest.post("/rooms/k/tts", speech))["tts_id"]
        await fake.was_asked.wait()
        await asyncio.to_thread(server.slay, "roomtone: stream 0")
        for broken in (heard, unheard):
            error = await vsi.wait("tts.error", tts_id=broken, room_id="k")
            assert error["category"] == "service_unavailable"
        assert vsi.of(tts_id=heard) == ["tts.started", "tts.error"]
        assert vsi.of(tts_id=unheard) == ["tts.error"]
        fake.may_go_on.set()

        # Control, while one is heard and one is waited for: its successor tells the rest of both, once.
        heard = (await rest.post("/rooms/k/tts", speech))["tts_id"]
        await vsi.wait("tts.started", tts_id=heard)
        await alice.media.settled({700, 1300})
        fake.outcomes.append("stall")
        fake.was_asked.clear()
        unheard = (await rest.post("/rooms/k/tts", speech))["tts_id"]
        await fake.was_asked.wait()
        await asyncio.to_thread(server.slay, "roomtone: control")
        await answering_again(rest)
    async with Rest(server.base) as rest, Vsi(server.base) as vsi:
        assert (await alice.media.listen(0.2)).audio.any()
        await alice.media.settled({700, 1300})
        await rest.call("PATCH", f"/rooms/k/play/{heard}", {"volume": 0}, expect=200)
        await rest.delete(f"/rooms/k/play/{heard}")
        ended = await vsi.wait("tts.finished", tts_id=heard)
        assert (ended["reason"], ended["room_id"]) == ("stopped", "k")
        await alice.media.settled({700, 1300})  # the other, asked for anew
        await alice.media.listen(1.5)  # and not given up as lost a second later
        await alice.media.settled({700, 1300})
        await rest.delete(f"/rooms/k/play/{unheard}")
        ended = await vsi.wait("tts.finished", tts_id=unheard)
        assert ended["played_ms"] > 0
        await alice.media.settled({1300}, not_={700})
        assert vsi.of(tts_id=heard) == ["tts.finished"]
        assert vsi.of(tts_id=unheard)[-1] == "tts.finished"
        assert not await clips_left(server)
    await asyncio.to_thread(server.stop)
