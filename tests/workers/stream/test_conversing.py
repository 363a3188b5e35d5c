"""Agents: a real row both ways, a real process, vendors' fakes."""

import json

import numpy as np
import pytest

from shm import messages as wire
from shm.clock import tick_now
from tests.vendors.convai import ConvAi
from tests.vendors.deepgram_agent import DeepgramConverse
from tests.vendors.pipecat import Pipecat
from tests.vendors.vapi import Vapi

from .conftest import RoomWorker, loudest_hz


@pytest.fixture
async def vendor():
    async with ConvAi() as fake:
        yield fake


@pytest.fixture
async def control(new_control, vendor):
    return new_control(elevenlabs_base=vendor.url)


def place(row, rate_hz=16_000):
    return wire.Row(rate_hz=rate_hz, index=row, generation=0)


def says(row, tone_hz, bank):
    def mixed(tick):
        times = (np.arange(bank.frame_samples) + tick % 50 * bank.frame_samples) / bank.rate_hz
        return {row: ((8000 * np.sin(2 * np.pi * tone_hz * times)).astype(np.int16), row)}

    return mixed


async def start(control, row, *, phase=0, key="good-key", provider="elevenlabs", settings=None, **more):
    settings = {"agent_id": "a1"} if settings is None else settings
    await control.ok(
        wire.StartAgent,
        session_id="s",
        row=row,
        phase=phase,
        provider=provider,
        api_key=key,
        settings=json.dumps(settings).encode(),
        **more,
    )


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 48_000])
async def test_it_hears_the_mix_and_is_heard_in_real_time(control, vendor, banks, rate_hz):
    vendor.burst_ms, vendor.interrupt_after_chunks = 1000, 10**9
    bank = banks[rate_hz]
    with RoomWorker(bank, [6], says(6, 700, bank)) as room:
        await start(control, place(6, rate_hz))
        assert (await control.event(wire.AgentConnected)).conversation_id == "conv_1"
        assert (await control.event(wire.AgentSaid, by_user=True)).text == "what time is it"
        assert (await control.event(wire.AgentSaid, by_user=False)).text == "it is noon"
        await vendor.until(lambda: vendor.audio_bytes > 60 * 640)
        assert abs(loudest_hz(np.frombuffer(bytes(vendor.audio[-32_000:]), np.int16), 16_000) - 700) < 3
        await room.wait(lambda: len(room.said(6)) >= rate_hz)
        ticks = [tick for tick, frame in room.heard[6] if frame is not None]
        assert 49 <= ticks[-1] - ticks[0] <= 56
        assert abs(loudest_hz(room.said(6)[:rate_hz], rate_hz) - 440) < 3
        await control.ok(wire.StopAgent, session_id="s")
        assert not await control.inventory()
        control.none(wire.AgentEnded)


async def test_an_interruption_silences_it(control, vendor, banks):
    """The burst is 2 s; the interruption comes 200 ms after it."""
    with RoomWorker(banks[16_000], [6]) as room:
        await start(control, place(6))
        await vendor.until(lambda: vendor.audio_bytes > 60 * 640)  # 1 s after the interruption
        assert 0 < len(room.said(6)) < 16_000
        silent = [frame is None for _, frame in room.heard[6][-20:]]
        assert all(silent)


async def test_stopped_it_is_silent_at_once(control, vendor, banks):
    vendor.interrupt_after_chunks = 10**9
    with RoomWorker(banks[16_000], [6]) as room:
        await start(control, place(6))
        await room.wait(lambda: len(room.said(6)))
        await control.ok(wire.StopAgent, session_id="s")
        ticks = len(room.heard[6])
        await room.wait(lambda: len(room.heard[6]) > ticks + 20)
        assert all(frame is None for _, frame in room.heard[6][ticks + 3 :])
        await vendor.until(lambda: vendor.closes)
        control.none(wire.AgentEnded)


async def test_an_agent_of_a_leg_hears_the_leg(control, vendor, banks):
    bank = banks[16_000]

    with RoomWorker(bank, [6]) as room:

        def speak(tick):
            times = (np.arange(320) + tick % 50 * 320) / 16_000
            bank.rx[7, (tick + 2) % 32] = 8000 * np.sin(2 * np.pi * 900 * times)
            bank.rx_tick[7, (tick + 2) % 32] = tick + 2
            return {}

        room.says = speak
        await start(control, place(6), hears=place(7))
        await vendor.until(lambda: vendor.audio_bytes > 60 * 640)
        assert abs(loudest_hz(np.frombuffer(bytes(vendor.audio[-32_000:]), np.int16), 16_000) - 900) < 3


async def test_it_moves(control, vendor, banks):
    """To another rate and phase, while it speaks."""
    vendor.burst_ms, vendor.interrupt_after_chunks = 3000, 10**9
    slow, fast = banks[8_000], banks[16_000]
    with (
        RoomWorker(fast, [6], says(6, 700, fast)) as first,
        RoomWorker(slow, [9], says(9, 300, slow), phase=3) as second,
    ):
        await start(control, place(6))
        await first.wait(lambda: len(first.said(6)))
        at_tick = tick_now() + 3
        await control.ok(wire.MoveTap, session_id="s", row=place(9, 8_000), phase=3, at_tick=at_tick)
        await second.wait(lambda: len(second.said(9)) >= 8_000)
        last = max(tick for tick, frame in first.heard[6] if frame is not None)
        begun = min(tick for tick, frame in second.heard[9] if frame is not None)
        assert last < at_tick + 3  # a loaded machine may be late
        assert 0 < begun - last <= 4
        assert abs(loudest_hz(second.said(9)[:8_000], 8_000) - 440) < 3
        await vendor.until(lambda: vendor.audio_bytes > 120 * 640)
        assert abs(loudest_hz(np.frombuffer(bytes(vendor.audio[-32_000:]), np.int16), 16_000) - 300) < 3


@pytest.mark.parametrize(
    ("outcome", "error"),
    [("close", ""), (401, "elevenlabs: refused with 401"), ("cut", "elevenlabs: the connection broke")],
)
async def test_the_vendor_ends_it(control, vendor, outcome, error):
    vendor.outcomes.append(outcome)
    await start(control, place(6))
    assert (await control.event(wire.AgentEnded, session_id="s")).error == error
    assert not await control.inventory()
    await control.ok(wire.StopAgent, session_id="s")


async def test_messages(new_control, banks):
    async with DeepgramConverse() as vendor:
        control = new_control(deepgram_agent_base=vendor.url)
        reply = await control.do(wire.SendAgentMessage, session_id="s", text="psst")
        assert isinstance(reply, wire.Failed)
        assert reply.blame == "caller"
        await start(control, place(6), provider="deepgram", settings={"greeting": "hi"})
        await control.event(wire.AgentConnected)
        await control.ok(wire.SendAgentMessage, session_id="s", text="psst")  # also before the settings are taken
        await vendor.until(lambda: {"type": "InjectAgentMessage", "message": "psst"} in vendor.texts)


async def test_no_messages_for_elevenlabs(control):
    await start(control, place(6))
    await control.event(wire.AgentConnected)
    reply = await control.do(wire.SendAgentMessage, session_id="s", text="psst")
    assert isinstance(reply, wire.Failed)
    assert reply.blame == "caller"


async def test_vapi(new_control):
    async with Vapi() as vendor:
        control = new_control(vapi_base=vendor.url)
        await start(control, place(6), provider="vapi", settings={"assistant_id": "x", "first_message": "hi"})
        assert (await control.event(wire.AgentConnected)).conversation_id
        await control.event(wire.AgentSaid, by_user=False)
        await control.ok(wire.StopAgent, session_id="s")
        await vendor.until(lambda: vendor.closes)


async def test_pipecat(new_control):
    async with Pipecat() as vendor:
        control = new_control()
        url = vendor.url.replace("http", "ws") + vendor.path
        await start(control, place(6), provider="pipecat", settings={"websocket_url": url})
        assert (await control.event(wire.AgentConnected)).conversation_id == url
        await control.event(wire.AgentSaid, by_user=True)


async def test_pipecat_on_a_private_address(new_control):
    async with Pipecat() as vendor:
        control = new_control(fetch_allow_private=False)
        url = vendor.url.replace("http", "ws") + vendor.path
        settings = {"websocket_url": url.replace("127.0.0.1", "localhost")}
        await start(control, place(6), provider="pipecat", settings=settings)
        assert (await control.event(wire.AgentEnded)).error
        reply = await control.do(
            wire.StartAgent,
            session_id="s",
            row=place(6),
            phase=0,
            provider="pipecat",
            settings=json.dumps({"websocket_url": url}).encode(),
        )
        assert reply.error == "127.0.0.1 leads to a private address"
        assert not vendor.connections


@pytest.mark.parametrize(
    ("provider", "settings"),
    [
        ("parrot", {}),
        ("pipecat", {"websocket_url": "http://127.0.0.1/"}),
        ("pipecat", {"websocket_url": "ws://["}),
        ("elevenlabs", {"agent_id": 7}),
        ("elevenlabs", []),
    ],
)
async def test_what_cannot_be_an_agent(control, provider, settings):
    reply = await control.do(
        wire.StartAgent,
        session_id="s",
        row=place(6),
        phase=0,
        provider=provider,
        settings=json.dumps(settings).encode(),
    )
    assert isinstance(reply, wire.Failed)
    assert reply.blame == "caller"
    assert not await control.inventory()
