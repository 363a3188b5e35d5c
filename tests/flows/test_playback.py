"""What is played is heard: tones and files, by rooms and by single legs, wherever the legs go meanwhile."""

from __future__ import annotations

import asyncio
import io
import wave
from collections.abc import AsyncIterator

import numpy as np
import pytest
from aiohttp import web

from tests.flows.conftest import Phones
from tests.flows.tools.events import Vsi
from tests.flows.tools.rest import Rest
from tests.flows.tools.spectrum import assert_hears, assert_silent

pytestmark = pytest.mark.flow


def sine_wav(tone_hz: float, seconds: float, rate_hz: int = 16000) -> bytes:
    samples = np.rint(6000 * np.sin(2 * np.pi * tone_hz * np.arange(int(seconds * rate_hz)) / rate_hz))
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setparams((1, 2, rate_hz, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())
    return data.getvalue()


@pytest.fixture
async def files() -> AsyncIterator[str]:
    """The base URL of a web server: /<tone>-<seconds>.wav; /stuck never answers."""

    async def wav(request: web.Request) -> web.Response:
        tone, seconds = request.match_info["name"].split("-")
        return web.Response(body=sine_wav(float(tone), float(seconds)), content_type="audio/wav")

    async def stuck(_request: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    application = web.Application()
    application.add_routes([web.get("/{name}.wav", wav), web.get("/stuck", stuck)])
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_everybody_in_the_room_hears_a_tone(rest: Rest, vsi: Vsi, phones: Phones) -> None:
    (_, alice), (_, bob) = await phones.meeting(rest, "t", (1000, 1300))
    started = await rest.post("/rooms/t/play", {"tone": "us_dial"})
    playback_id = started["playback_id"]
    await vsi.wait("playback.started", playback_id=playback_id, room_id="t")
    await alice.media.settled({350, 440, 1300})
    await bob.media.settled({350, 440, 1000})
    await rest.delete(f"/rooms/t/play/{playback_id}")
    ended = await vsi.wait("playback.finished", playback_id=playback_id)
    assert ended["reason"] == "stopped"
    assert ended["played_ms"] > 200
    await alice.media.settled({1300}, not_={350, 440})
    await rest.delete(f"/rooms/t/play/{playback_id}", expect=404)


async def test_a_file_is_played_twice_to_its_end(rest: Rest, vsi: Vsi, phones: Phones, files: str) -> None:
    _, alice = await phones.dialled(rest, fields={"room_id": "f"})
    playback_id = (await rest.post("/rooms/f/play", {"url": f"{files}/700-0.51.wav", "repeat": 2}))["playback_id"]
    await vsi.wait("playback.started", playback_id=playback_id)
    await alice.media.settled({700})
    ended = await vsi.wait("playback.finished", playback_id=playback_id)
    assert (ended["reason"], ended["played_ms"]) == ("completed", 1040)


async def test_a_fetch_is_cancelled_by_a_stop_and_fails_by_itself(
    rest: Rest, vsi: Vsi, phones: Phones, files: str
) -> None:
    await phones.dialled(rest, fields={"room_id": "f"})
    stuck = (await rest.post("/rooms/f/play", {"url": f"{files}/stuck"}))["playback_id"]
    await rest.delete(f"/rooms/f/play/{stuck}")
    assert (await vsi.wait("playback.finished", playback_id=stuck))["played_ms"] == 0
    missing = (await rest.post("/rooms/f/play", {"url": f"{files}/no-such"}))["playback_id"]
    assert "404" in (await vsi.wait("playback.error", playback_id=missing))["error"]
    assert not vsi.all("playback.started", playback_id=missing)


async def test_a_leg_playback_follows_its_leg(rest: Rest, vsi: Vsi, phones: Phones, files: str) -> None:
    """In no room, into a room of another rate, into a third one, out again: one playback, heard by that leg alone."""
    (alice_id, alice), (bob_id, bob) = await asyncio.gather(
        phones.dialled(rest, tone_hz=1000), phones.dialled(rest, tone_hz=1300)
    )
    playback_id = (await rest.post(f"/legs/{alice_id}/play", {"url": f"{files}/700-20.wav"}))["playback_id"]
    await vsi.wait("playback.started", playback_id=playback_id, leg_id=alice_id)
    await alice.media.settled({700})
    assert "room_id" not in await rest.leg(alice_id)
    assert not (await rest.get("/rooms")).json
    for room_id, rate_hz in (("m", 16000), ("n", 48000)):
        await rest.room(room_id, sample_rate=rate_hz)
        await rest.join(room_id, bob_id)
        await rest.join(room_id, alice_id)
        await alice.media.settled({700, 1300})
        await bob.media.settled({1000}, not_={700})
    assert_hears(await alice.media.listen(0.5), {700, 1300}, only=True)
    await rest.delete(f"/rooms/n/legs/{alice_id}")
    await alice.media.settled({700}, not_={1300})
    await rest.delete(f"/legs/{alice_id}/play/{playback_id}")
    ended = await vsi.wait("playback.finished", playback_id=playback_id)
    assert ended["reason"] == "stopped"
    assert 1000 < ended["played_ms"] < 20000
    assert vsi.of(playback_id=playback_id) == ["playback.started", "playback.finished"]
    await alice.media.settled(set(), not_={700})
    assert_silent(await alice.media.listen(0.3))


async def test_what_plays_ends_with_its_leg_and_its_room(rest: Rest, vsi: Vsi, phones: Phones) -> None:
    (alice_id, _), (bob_id, _) = await phones.meeting(rest, "e", (1000, 1300))
    own = (await rest.post(f"/legs/{alice_id}/play", {"tone": "busy"}))["playback_id"]
    rooms = (await rest.post("/rooms/e/play", {"tone": "busy"}))["playback_id"]
    await vsi.wait("playback.started", playback_id=own)
    await vsi.wait("playback.started", playback_id=rooms)
    await rest.delete(f"/legs/{alice_id}", expect=202)
    await vsi.wait("leg.disconnected", leg_id=alice_id)
    assert vsi.of(leg_id=alice_id)[-3:] == ["playback.finished", "leg.left_room", "leg.disconnected"]
    assert not vsi.all("playback.finished", playback_id=rooms)
    await rest.delete(f"/rooms/e/legs/{bob_id}")
    assert (await vsi.wait("playback.finished", playback_id=rooms))["reason"] == "stopped"
