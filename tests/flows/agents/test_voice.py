"""An agent's voice comes in bursts and is heard at its pace, until it is interrupted, detached or through with it."""

from __future__ import annotations

import asyncio

import pytest

from tests.flows.agents.conftest import VendorOf
from tests.flows.conftest import Phones
from tests.flows.tools.agents import FAKES, RATE_HZ, VOICE_HZ
from tests.flows.tools.events import Vsi
from tests.flows.tools.rest import Rest
from tests.flows.tools.spectrum import heard_ms, longest_gap_ms

pytestmark = pytest.mark.flow

FORMATS = ("pcm_8000", "pcm_16000", "pcm_22050", "pcm_24000", "pcm_44100", "pcm_48000", "ulaw_8000")
BURST_MS = 2000


async def test_an_interruption_silences_it(rest: Rest, vsi: Vsi, phones: Phones, vendor_of: VendorOf) -> None:
    """2 s come at once and are interrupted when the phone hears them; what comes afterwards is heard again."""

    async def interrupted(name: str) -> None:
        vendor = vendor_of(name)
        _, alice = await phones.dialled(rest, fields={"room_id": name})
        await rest.post(f"/rooms/{name}/{vendor.path}", vendor.request)
        await vsi.wait("agent.connected", room_id=name)
        await vendor.fake.until(lambda: vendor.fake.audio_bytes)
        listening = asyncio.create_task(alice.media.listen(2.5))
        await vendor.speak(BURST_MS)
        await alice.media.settled({VOICE_HZ})
        await vendor.fake.interrupt(vendor.socket)
        assert 0 < heard_ms(await listening, VOICE_HZ) < 1000
        listening = asyncio.create_task(alice.media.listen(1.0))
        await vendor.speak(300)
        assert heard_ms(await listening, VOICE_HZ) == pytest.approx(300, abs=80)

    await asyncio.gather(*(interrupted(name) for name in FAKES))


async def test_a_burst_is_heard_at_its_pace(rest: Rest, vsi: Vsi, phones: Phones, vendor_of: VendorOf) -> None:
    vendor = vendor_of("elevenlabs")
    _, alice = await phones.dialled(rest, fields={"room_id": "r"}, codecs=("L16/16000",))
    await rest.post(f"/rooms/r/{vendor.path}", vendor.request)
    await vsi.wait("agent.connected", room_id="r")
    listening = asyncio.create_task(alice.media.listen(BURST_MS / 1000 + 1))
    await vendor.speak(BURST_MS)
    heard = await listening
    assert heard_ms(heard, VOICE_HZ) == pytest.approx(BURST_MS, abs=60)
    gaps_ms = heard.audio.size / heard.rate_hz * 1000 - BURST_MS
    assert longest_gap_ms(heard, VOICE_HZ) <= gaps_ms + 60


async def test_it_hears_without_a_gap(rest: Rest, vsi: Vsi, phones: Phones, vendor_of: VendorOf) -> None:
    """From the first moment on, silence included, 50 chunks a second; a tone in them has no seam."""
    vendor = vendor_of("pipecat")
    fake, loop = vendor.fake, asyncio.get_running_loop()
    await rest.room("r")
    await rest.post(f"/rooms/r/{vendor.path}", vendor.request)
    await fake.until(lambda: fake.audio_bytes)
    begun_s, begun = loop.time(), fake.audio_bytes
    await phones.dialled(rest, fields={"room_id": "r"}, codecs=("L16/16000",), tone_hz=440)
    await fake.until(lambda: vendor.impurity_db(440) < -40)
    heard_s = (fake.audio_bytes - begun) / (2 * RATE_HZ)
    assert heard_s == pytest.approx(loop.time() - begun_s, abs=0.3)
    assert fake.piece_bytes == {640}


async def test_every_format_is_understood_both_ways(rest: Rest, vsi: Vsi, phones: Phones, vendor_of: VendorOf) -> None:
    vendor = vendor_of("elevenlabs")
    fake = vendor.fake
    for form in FORMATS:
        fake.output_format = fake.input_format = form
        _, alice = await phones.dialled(rest, tone_hz=440, fields={"room_id": form})
        await rest.post(f"/rooms/{form}/{vendor.path}", vendor.request)
        await vsi.wait("agent.connected", room_id=form)
        begun = fake.audio_bytes
        await vendor.speak(BURST_MS)
        await alice.media.settled({VOICE_HZ})
        await fake.until(lambda: fake.audio_bytes > begun + 8000)  # noqa: B023 - awaited right here
        assert vendor.loudest_hz(form) == pytest.approx(440, abs=15)
        await rest.delete(f"/rooms/{form}")


async def test_detached_it_is_silent(rest: Rest, vsi: Vsi, phones: Phones, vendor_of: VendorOf) -> None:
    vendor = vendor_of("deepgram")
    _, alice = await phones.dialled(rest, fields={"room_id": "r"})
    await rest.post(f"/rooms/r/{vendor.path}", vendor.request)
    await vendor.fake.until(lambda: vendor.fake.audio_bytes)
    listening = asyncio.create_task(alice.media.listen(2.5))
    await vendor.speak(BURST_MS)
    await alice.media.settled({VOICE_HZ})
    await rest.delete("/rooms/r/agent")
    assert 0 < heard_ms(await listening, VOICE_HZ) < 1000
    assert vendor.fake.closes == [1000]


@pytest.mark.parametrize("rate_hz", [8000, 48000])
async def test_rooms_of_other_rates(rate_hz: int, rest: Rest, vsi: Vsi, phones: Phones, vendor_of: VendorOf) -> None:
    vendor = vendor_of("vapi")
    await rest.room("r", sample_rate=rate_hz)
    (_, alice), (_, bob) = await phones.meeting(rest, "r", (440, 660))
    await rest.post(f"/rooms/r/{vendor.path}", vendor.request)
    await vendor.hears({440, 660})
    await vendor.speak()
    await alice.media.settled({660, VOICE_HZ}, not_={440})
    await bob.media.settled({440, VOICE_HZ}, not_={660})
    await vendor.hears({440, 660}, not_={VOICE_HZ})
    assert vendor.fake.piece_bytes == {640}
