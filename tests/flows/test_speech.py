"""Texts are spoken: by every vendor, to rooms and to single legs, from the first audio that comes to the one last event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.flows.conftest import Phones
from tests.flows.tools.call import Call
from tests.flows.tools.events import Vsi
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server
from tests.flows.tools.speaking import VOICES, cache_name, cached, speak
from tests.flows.tools.spectrum import assert_hears, assert_silent, level_db
from tests.flows.tools.vendors import KEY, POLLY_KEY, Vendors

pytestmark = pytest.mark.flow

HALF_SCALE_DB = -6.02  # of the fakes' sines
WHOLE = ["tts.started", "tts.finished"]


async def level_heard(call: Call, tone_hz: float) -> float:
    heard = await call.media.listen(0.3)
    return level_db(heard.audio, heard.rate_hz, tone_hz)


async def test_every_vendor_is_heard_and_all_at_once(rest: Rest, vsi: Vsi, phones: Phones, vendors: Vendors) -> None:
    fakes = {
        "elevenlabs": vendors.elevenlabs_tts, "aws": vendors.polly, "google": vendors.google,
        "deepgram": vendors.deepgram_tts,
    }  # fmt: skip
    tones = dict(zip(fakes, (500, 700, 900, 1100), strict=True))
    for provider, fake in fakes.items():
        fake.tone_hz, fake.audio_ms = tones[provider], 2500
    (_, alice), (_, bob) = await phones.meeting(rest, "t", (1500, 1900))
    ids = {provider: await speak(rest, "rooms/t", provider, volume=-3) for provider in fakes}
    for tts_id in ids.values():
        await vsi.wait("tts.started", tts_id=tts_id, room_id="t")
    await asyncio.gather(
        alice.media.settled({*tones.values(), 1900}, not_={1500}),
        bob.media.settled({*tones.values(), 1500}, not_={1900}),
    )
    for provider, tts_id in ids.items():
        ended = await vsi.wait("tts.finished", tts_id=tts_id)
        assert (ended["reason"], ended["played_ms"]) == ("completed", 2500)
        assert vsi.of(tts_id=tts_id) == WHOLE
        assert len(fakes[provider].requests) == 1
    await alice.media.settled({1900}, not_=set(tones.values()))


async def test_what_has_come_is_heard_before_the_rest_exists(
    rest: Rest, vsi: Vsi, phones: Phones, vendors: Vendors
) -> None:
    fake = vendors.elevenlabs_tts
    fake.tone_hz, fake.audio_ms, fake.chunk_bytes = 700, 1500, 16_001  # the first half second, and a torn sample
    fake.may_go_on.clear()
    _, alice = await phones.dialled(rest, fields={"room_id": "t"})
    tts_id = await speak(rest, "rooms/t")
    await vsi.wait("tts.started", tts_id=tts_id)
    await alice.media.settled({700})
    await alice.media.settled(set(), not_={700})  # heard all there is
    assert vsi.of(tts_id=tts_id) == ["tts.started"]
    fake.may_go_on.set()
    await alice.media.settled({700})
    ended = await vsi.wait("tts.finished", tts_id=tts_id)
    assert (ended["reason"], ended["played_ms"]) == ("completed", 1500)  # the pause was not speech


async def test_volume_at_the_start_and_while_speaking(rest: Rest, vsi: Vsi, phones: Phones, vendors: Vendors) -> None:
    vendors.deepgram_tts.tone_hz, vendors.deepgram_tts.audio_ms = 700, 20_000
    await rest.room("v", sample_rate=48_000)
    _, alice = await phones.dialled(rest, fields={"room_id": "v"}, codecs=("L16/16000",))
    tts_id = await speak(rest, "rooms/v", "deepgram", volume=-4)
    await alice.media.settled({700})
    unchanged_db = await level_heard(alice, 700) + 12
    assert unchanged_db == pytest.approx(HALF_SCALE_DB, abs=0.5)  # the conversion between rates has its own small say
    for volume in (-8, 1, 0):
        await rest.call("PATCH", f"/rooms/v/play/{tts_id}", {"volume": volume}, expect=200)
        await alice.media.listen(0.1)  # what was sent before, and the ramp
        assert await level_heard(alice, 700) == pytest.approx(unchanged_db + 3 * volume, abs=0.2)
    await rest.call("PATCH", f"/rooms/v/play/{tts_id}", {"volume": 9}, expect=400)
    await rest.delete(f"/rooms/v/play/{tts_id}")
    await rest.call("PATCH", f"/rooms/v/play/{tts_id}", {"volume": 1}, expect=404)


async def test_a_stop_before_and_after_the_first_audio(rest: Rest, vsi: Vsi, phones: Phones, vendors: Vendors) -> None:
    fake = vendors.elevenlabs_tts
    fake.tone_hz, fake.audio_ms, fake.chunk_bytes = 700, 20_000, 64_001
    fake.outcomes.append("stall")
    _, alice = await phones.dialled(rest, fields={"room_id": "t"})
    mute = await speak(rest, "rooms/t")
    await fake.was_asked.wait()
    assert (await rest.delete(f"/rooms/t/play/{mute}"))["status"] == "stopped"
    ended = await vsi.wait("tts.finished", tts_id=mute)
    assert (ended["reason"], ended["played_ms"]) == ("stopped", 0)
    async with asyncio.timeout(5):
        await fake.was_abandoned.wait()
    fake.was_abandoned.clear()
    fake.may_go_on.clear()  # the vendor is still at it when the stop comes
    loud = await speak(rest, "rooms/t")
    await alice.media.settled({700})
    await alice.media.listen(0.5)
    assert (await rest.delete(f"/rooms/t/play/{loud}"))["status"] == "stopped"
    ended = await vsi.wait("tts.finished", tts_id=loud)
    assert ended["reason"] == "stopped"
    assert 500 <= ended["played_ms"] <= 2000
    await rest.delete(f"/rooms/t/play/{loud}", expect=404)
    async with asyncio.timeout(5):
        await fake.was_abandoned.wait()
    await alice.media.settled(set(), not_={700})
    assert_silent(await alice.media.listen(0.2))
    assert vsi.of(tts_id=mute) == ["tts.finished"]
    assert vsi.of(tts_id=loud) == WHOLE


async def test_a_voice_by_its_name_and_what_vendors_are_asked(
    rest: Rest, vsi: Vsi, phones: Phones, vendors: Vendors
) -> None:
    await phones.dialled(rest, fields={"room_id": "t"})
    fake = vendors.elevenlabs_tts
    for _ in range(2):
        tts_id = await speak(rest, "rooms/t", voice="Räuber/Hotz", model_id="eleven_turbo_v2_5", text="Grüße")
        await vsi.wait("tts.finished", tts_id=tts_id)
    assert fake.look_ups == 1
    assert [request["path"].split("/")[3] for request in fake.requests][1:] == ["plain-voice", "plain-voice"]
    assert fake.requests[-1]["body"] == {"text": "Grüße", "model_id": "eleven_turbo_v2_5"}
    tts_id = await speak(
        rest, "rooms/t", "google", voice="Kore", language="de-DE", prompt="Whisper.", model_id="gemini"
    )
    await vsi.wait("tts.finished", tts_id=tts_id)
    assert vendors.google.requests[-1]["body"] | {"audioConfig": 0} == {
        "input": {"text": "Hello.", "prompt": "Whisper."},
        "voice": {"languageCode": "de-DE", "name": "Kore", "modelName": "gemini"},
        "audioConfig": 0,
    }
    tts_id = await speak(rest, "rooms/t", "aws", model_id="generative")
    await vsi.wait("tts.finished", tts_id=tts_id)
    assert vendors.polly.requests[-1]["body"]["Engine"] == "generative"
    tts_id = await speak(rest, "rooms/t", "deepgram", voice="a&b=c", model_id="unused", language="unused")
    await vsi.wait("tts.finished", tts_id=tts_id)
    assert vendors.deepgram_tts.requests[-1]["query"]["model"] == "a&b=c"


async def test_speech_to_a_leg_follows_it_into_rooms(rest: Rest, vsi: Vsi, phones: Phones, vendors: Vendors) -> None:
    vendors.elevenlabs_tts.tone_hz, vendors.elevenlabs_tts.audio_ms = 700, 20_000
    (alice_id, alice), (bob_id, bob) = await asyncio.gather(
        phones.dialled(rest, tone_hz=1000), phones.dialled(rest, tone_hz=1300)
    )
    tts_id = await speak(rest, f"legs/{alice_id}")
    started = await vsi.wait("tts.started", tts_id=tts_id)
    assert started["leg_id"] == alice_id
    await alice.media.settled({700})
    assert not (await rest.get("/rooms")).json
    for room_id, rate_hz in (("m", 8000), ("n", 48000)):
        await rest.room(room_id, sample_rate=rate_hz)
        await rest.join(room_id, bob_id)
        await rest.join(room_id, alice_id)
        await alice.media.settled({700, 1300})
        await bob.media.settled({1000}, not_={700})
    await rest.delete(f"/rooms/n/play/{tts_id}", expect=404)  # it is the leg's
    assert_hears(await alice.media.listen(0.5), {700, 1300}, only=True)
    await rest.delete(f"/legs/{alice_id}", expect=202)
    await vsi.wait("leg.disconnected", leg_id=alice_id)
    ended = await vsi.wait("tts.finished", tts_id=tts_id)
    assert ended["reason"] == "stopped"
    assert not any("room_id" in event for kind in WHOLE for event in vsi.all(kind, tts_id=tts_id))
    assert vsi.of(tts_id=tts_id) == WHOLE


async def test_the_last_one_to_leave_ends_the_speech_of_the_room(
    rest: Rest, vsi: Vsi, phones: Phones, vendors: Vendors
) -> None:
    vendors.elevenlabs_tts.audio_ms = 20_000
    alice_id, _ = await phones.dialled(rest, fields={"room_id": "e"})
    speaking = await speak(rest, "rooms/e")
    await vsi.wait("tts.started", tts_id=speaking)
    vendors.elevenlabs_tts.outcomes.append("stall")
    waiting = await speak(rest, "rooms/e")
    await rest.delete(f"/rooms/e/legs/{alice_id}")
    for tts_id in (speaking, waiting):
        assert (await vsi.wait("tts.finished", tts_id=tts_id))["reason"] == "stopped"
    await rest.post("/rooms/e/tts", {"text": "a", "voice": "b", "api_key": KEY}, expect=409)


async def test_keys_of_the_environment_and_of_the_request(
    own_server: Callable[..., Server], tmp_path: Path, phones: Phones, vendors: Vendors
) -> None:
    access, _, secret = POLLY_KEY.partition(":")
    settings = {
        "ELEVENLABS_API_KEY": KEY,
        "DEEPGRAM_API_KEY": KEY,
        "AWS_ACCESS_KEY_ID": access,
        "AWS_SECRET_ACCESS_KEY": secret,
        "TTS_CACHE_ENABLED": "true",
        "TTS_CACHE_DIR": str(tmp_path),
        "TTS_CACHE_INCLUDE_API_KEY": "true",
    }
    server = own_server(**settings, **vendors.environment)
    async with Rest(server.base) as rest, Vsi(server.base) as vsi:
        alice_id, _ = await phones.dialled(rest)
        for provider in ("elevenlabs", "deepgram", "aws"):
            tts_id = await speak(rest, f"legs/{alice_id}", provider, api_key="")
            await vsi.wait("tts.finished", tts_id=tts_id)
            tts_id = await speak(rest, f"legs/{alice_id}", provider, api_key="WRONG:key")
            assert (await vsi.wait("tts.error", tts_id=tts_id))["category"] == "permanent_auth"
        for provider in ("", "deepgram"):
            await rest.post(f"/legs/{alice_id}/stt", {"provider": provider})
            await rest.delete(f"/legs/{alice_id}/stt")
            before = len(vsi.events)
            await rest.post(f"/legs/{alice_id}/stt", {"provider": provider, "api_key": "WRONG"})
            await vsi.wait("stt.error", after=before, leg_id=alice_id)
    await asyncio.to_thread(server.stop)
    assert not [line for line in server.lines if "WRONG" in line or KEY in line or secret in line]
    used = {"elevenlabs": KEY, "deepgram": KEY, "aws": ""}  # Amazon's chain is none of the cache's business
    names = {cache_name(name, VOICES[name]["voice"], "", "", "", "Hello.", used[name]) for name in used}
    assert cached(tmp_path) == names


async def test_the_local_voice_is_understood_by_the_local_ear(rest: Rest, vsi: Vsi, phones: Phones) -> None:
    """Without a key or a network: one phone hears a sentence, another says what was heard, and its words come back."""
    (alice_id, alice), (bob_id, bob) = await asyncio.gather(
        phones.dialled(rest, codecs=("L16/16000",)), phones.dialled(rest, codecs=("L16/16000",))
    )
    start = await rest.post(f"/legs/{bob_id}/stt", {"provider": "local"})
    assert (start["status"], start["leg_id"]) == ("stt_started", bob_id)
    listening = asyncio.create_task(alice.media.listen(3.0, within_s=20))
    tts_id = await speak(rest, f"legs/{alice_id}", "local", text="one two three four five")
    await vsi.wait("tts.finished", tts_id=tts_id, leg_id=alice_id, within_s=15)
    heard = (await listening).audio
    spoken = np.flatnonzero(np.abs(heard) > 300)
    sentence = heard[spoken[0] : spoken[-1]]
    assert 1.0 < len(sentence) / 16_000 < 2.5
    assert np.abs(sentence).max() > 5000
    bob.media.say(samples=np.concatenate([sentence, np.zeros(2 * 16_000, np.int16)]))

    def is_understood(event: dict) -> bool:
        words = {"one", "two", "three", "four", "five"} & set(event.get("text", "").split())
        return event["type"] == "stt.text" and event["leg_id"] == bob_id and event["is_final"] and len(words) >= 3

    said = await vsi.events.first(
        is_understood, within_s=30, named="the sentence"
    )  # the first time it may lack its beginning
    assert "room_id" not in said
    assert 1000 < said["audio_end_ms"] - said["audio_start_ms"] < 3000
    assert not vsi.all("stt.text", leg_id=alice_id)
    await rest.delete(f"/legs/{bob_id}/stt")
    await rest.delete(f"/legs/{bob_id}/stt", expect=404)
