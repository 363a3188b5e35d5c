"""A text becomes a clip: first audio first, failures by category, and the cache."""

import asyncio

import numpy as np
import pytest

from shm import messages as wire
from shm.clip import COMPLETE, FAILED, GROWING
from tests.vendors.elevenlabs_tts import ElevenLabsTts
from tests.vendors.speech import sine as spoken

from .conftest import EVENT_S, loudest_hz


@pytest.fixture
async def vendor():
    async with ElevenLabsTts() as fake:
        yield fake


@pytest.fixture
async def control(new_control, vendor):
    return new_control(elevenlabs_base=vendor.url)


async def speak(
    control,
    clip_id="c",
    *,
    rate_hz=16_000,
    provider="elevenlabs",
    key="good-key",
    text="hello",
    voice="EXAVITQu4vr4xnSDxMaL",
):
    await control.ok(
        wire.Synthesize, clip_id=clip_id, provider=provider, text=text, voice=voice, api_key=key, rate_hz=rate_hz
    )


async def until_not(clip, state):
    async with asyncio.timeout(EVENT_S):
        while clip.state == state:  # noqa: ASYNC110  memory tells nobody
            await asyncio.sleep(0.005)


async def test_it_can_be_heard_before_it_is_whole(control, vendor):
    vendor.audio_ms = 2000
    vendor.may_go_on.clear()
    await speak(control)
    await control.event(wire.ClipReady, clip_id="c")
    clip = control.clip("c")
    early = clip.read(0, 1 << 30).copy()
    assert 0 < len(early) < 32_000
    assert clip.state == GROWING
    vendor.may_go_on.set()
    await until_not(clip, GROWING)
    assert clip.state == COMPLETE
    assert np.array_equal(clip.read(0, 1 << 30), np.frombuffer(spoken(440, 2000), np.int16))
    control.none(wire.ClipReady)


@pytest.mark.parametrize("rate_hz", [8_000, 48_000])
async def test_at_the_rooms_rate(control, vendor, rate_hz):
    vendor.audio_ms = 2000
    await speak(control, rate_hz=rate_hz)
    heard = await control.clip_samples("c")
    assert abs(len(heard) - 2 * rate_hz) <= 2
    assert abs(loudest_hz(heard[rate_hz // 2 : -rate_hz // 2], rate_hz) - 440) < 2


@pytest.mark.parametrize(
    ("outcome", "category"),
    [(401, "permanent_auth"), (400, "permanent_input"), ("html", "unknown"), ("empty", "unknown")],
)
async def test_failures(control, vendor, outcome, category):
    vendor.outcomes.append(outcome)
    await speak(control)
    event = await control.event(wire.ClipFailed, clip_id="c")
    assert event.category == category
    assert "good-key" not in event.error
    control.none(wire.ClipReady)


async def test_cut_off_in_mid_sentence(control, vendor):
    vendor.outcomes.append("cut")
    await speak(control)
    await control.event(wire.ClipReady, clip_id="c")
    await control.event(wire.ClipFailed, clip_id="c")
    clip = control.clip("c")
    assert clip.state == FAILED
    assert len(clip.read(0, 1 << 30))


async def test_cancelled(control, vendor):
    vendor.outcomes.append("endless")
    await speak(control)
    await control.event(wire.ClipReady, clip_id="c")
    clip = control.clip("c")
    await control.ok(wire.CancelClip, clip_id="c")
    await asyncio.wait_for(vendor.was_abandoned.wait(), EVENT_S)
    assert clip.state == FAILED
    control.none(wire.ClipFailed)
    assert not await control.inventory()


async def test_unknown_provider(control):
    reply = await control.do(wire.Synthesize, clip_id="c", provider="parrot", text="hello", voice="v", rate_hz=16_000)
    assert isinstance(reply, wire.Failed)
    assert reply.blame == "caller"


async def test_the_cache(new_control, vendor, tmp_path):
    control = new_control(elevenlabs_base=vendor.url, tts_cache_dir=str(tmp_path / "cache"))
    for clip_id in ("a", "b"):
        await speak(control, clip_id)
    first, second = await control.clip_samples("a"), await control.clip_samples("b")
    assert np.array_equal(first, second)
    assert len(vendor.requests) == 1
    later = new_control(elevenlabs_base=vendor.url, tts_cache_dir=str(tmp_path / "cache"))
    async with asyncio.timeout(EVENT_S):
        while not [path for path in (tmp_path / "cache").iterdir() if len(path.name) == 64]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await speak(later)
    assert np.array_equal(await later.clip_samples("c"), first)
    assert len(vendor.requests) == 1


async def test_without_any_key(control):
    await speak(control, provider="local", key="", voice="default", text="good morning")
    heard = await control.clip_samples("c")
    assert len(heard) > 8000
    assert np.abs(heard).max() > 1000
