"""The process itself: its life, repeated commands, the inventory, the heartbeat."""

import asyncio
import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shm import messages as wire
from shm.clock import MIX_OFFSET_NS, PHASE_NS, TICK_NS, mix_time_ns, monotonic_ns
from tests.vendors.convai import ConvAi
from tests.vendors.deepgram_stt import DeepgramStt
from workers.stream.tick import mixed_tick

from .conftest import EVENT_S

ROW = wire.Row(rate_hz=16_000, index=8, generation=0)


async def test_it_beats(control):
    await control.inventory()
    seen = set()
    async with asyncio.timeout(EVENT_S):
        while len(seen) < 4:
            seen.add(int(control.stats.table[0]["heartbeat_ns"]))
            await asyncio.sleep(0.02)
    assert max(seen) <= monotonic_ns()


async def test_told_to_leave(control):
    await control.inventory()
    control.channel.send(wire.Leave())
    assert await control.gone() == 0


async def test_the_master_is_gone(control):
    await control.inventory()
    os.close(control.lifeline_write)
    assert await control.gone() == 0


async def test_leaving_says_goodbye_to_vendors(new_control):
    async with ConvAi() as agent, DeepgramStt() as ears:
        control = new_control(elevenlabs_base=agent.url, deepgram_base=ears.url)
        await control.ok(
            wire.StartAgent,
            session_id="a",
            row=ROW,
            phase=0,
            provider="elevenlabs",
            api_key="good-key",
            settings=b'{"agent_id":"x"}',
        )
        await control.ok(
            wire.StartTranscription, session_id="t", row=ROW, phase=0, provider="deepgram", api_key="good-key"
        )
        await control.event(wire.AgentConnected)
        await ears.until(lambda: ears.audio_bytes)
        assert await control.inventory() == {"a", "t"}
        control.channel.send(wire.Leave())
        assert await control.gone() == 0
        await agent.until(lambda: agent.closes)
        await ears.until(lambda: {"type": "CloseStream"} in ears.texts)


async def test_a_command_that_comes_twice_is_done_once(control, server):
    server.files["/silent"] = server.silent
    command = control.send(wire.FetchClip, clip_id="c", url=server.url("/silent"), rate_hz=16_000)
    control.channel.send(command)
    for _ in range(2):
        assert await control.answer(command) == wire.Done(command_id=command.command_id)
    await asyncio.wait_for(server.was_asked.wait(), EVENT_S)
    assert server.asked == ["/silent"]
    bad = control.send(wire.Synthesize, clip_id="d", provider="parrot", text="x", voice="", rate_hz=16_000)
    first = await control.answer(bad)
    control.channel.send(bad)
    assert await control.answer(bad) == first


async def test_what_was_not_acknowledged_is_said_again(control, server):
    control.acknowledges = False
    await control.ok(wire.FetchClip, clip_id="c", url=server.url("/none"), rate_hz=16_000)
    event = await control.event(wire.ClipFailed)
    await control.ok(wire.Hello)
    assert await control.event(wire.ClipFailed) == event
    control.channel.send(wire.Acknowledge(number=event.number))
    await control.ok(wire.Hello)
    control.none(wire.ClipFailed)


async def test_secrets_stay_out_of_the_log(new_control, unused_tcp_port):
    control = new_control(deepgram_base=f"http://127.0.0.1:{unused_tcp_port}")
    await control.ok(
        wire.StartTranscription, session_id="t", row=ROW, phase=0, provider="deepgram", api_key="very-secret"
    )
    event = await control.event(wire.TranscriptionEnded)
    assert event.error
    assert "very-secret" not in str(control.events) + str(event)


@pytest.mark.parametrize("phase", range(4))
@given(now_ns=st.integers(10**9, 10**15))
def test_the_mixed_tick_is_the_latest_whose_mix_was_due(phase, now_ns):
    tick = mixed_tick(now_ns, phase)
    assert mix_time_ns(tick, phase) <= now_ns < mix_time_ns(tick + 1, phase)
    assert mix_time_ns(tick, phase) == tick * TICK_NS + phase * PHASE_NS + MIX_OFFSET_NS


def test_every_command_fits_into_a_message():
    longest = wire.Transcribed(session_id="x" * 40, text="\U0001f600" * 16_000, is_final=True)
    assert len(msgspec.msgpack.encode(longest)) < 64 * 1024
