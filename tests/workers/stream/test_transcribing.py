"""Transcription sessions: a real row, a real process, a vendor's fake."""

import numpy as np
import pytest

from shm import messages as wire
from shm.bank import RX_SLOTS
from shm.clock import tick_now
from tests.vendors.deepgram_stt import DeepgramStt

from .conftest import RoomWorker, loudest_hz, sine


class Speaker(RoomWorker):
    """An I/O process: writes a sine into rx rows ahead of their mix; rows not spoken for stay silent."""

    def __init__(self, bank, tones, phase=0):
        super().__init__(bank, list(tones), phase=phase)
        self.tones = tones
        self.n = bank.frame_samples

    def mix(self, tick):
        for row, tone_hz in self.tones.items():
            times = (np.arange(self.n) + (tick + 2) % 50 * self.n) / self.bank.rate_hz
            self.bank.rx[row, (tick + 2) % RX_SLOTS] = 8000 * np.sin(2 * np.pi * tone_hz * times)
            self.bank.rx_tick[row, (tick + 2) % RX_SLOTS] = tick + 2


@pytest.fixture
async def vendor():
    async with DeepgramStt() as fake:
        yield fake


@pytest.fixture
async def control(new_control, vendor):
    return new_control(deepgram_base=vendor.url)


def place(row, rate_hz=16_000):
    return wire.Row(rate_hz=rate_hz, index=row, generation=0)


async def start(control, row, *, phase=0, key="good-key", provider="deepgram", **more):
    await control.ok(
        wire.StartTranscription, session_id="s", row=row, phase=phase, provider=provider, api_key=key, **more
    )


def heard(vendor, last_s=1.0):
    return np.frombuffer(bytes(vendor.audio[-int(last_s * 32_000) :]), np.int16)


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 48_000])
async def test_what_a_leg_says_is_heard_and_its_words_come_back(control, vendor, banks, rate_hz):
    with Speaker(banks[rate_hz], {3: 440}):
        await start(control, place(3, rate_hz), partial=True, language="en")
        partial = await control.event(wire.Transcribed, is_final=False)
        final = await control.event(wire.Transcribed, is_final=True)
        assert partial.text
        assert final.text == "hello there"
        assert abs(loudest_hz(heard(vendor), 16_000) - 440) < 3
        assert "s" in await control.inventory()
        await control.ok(wire.StopTranscription, session_id="s")
        assert (await control.event(wire.Transcribed, text="goodbye")).is_final  # said before the stop
        assert (await control.event(wire.TranscriptionEnded)).error == ""
        assert not await control.inventory()
    clean = heard(vendor, 0.9)[:14_000].astype(float)
    spectrum = np.abs(np.fft.rfft(clean * np.hanning(len(clean)))) ** 2
    peak = round(440 * len(clean) / 16_000)
    spectrum_rest = spectrum.sum() - spectrum[peak - 4 : peak + 5].sum()
    assert spectrum_rest < spectrum.sum() / 100  # no clicks at the seams of frames


async def test_silence_is_sent_too(control, vendor, banks):
    banks[16_000].rx_tick[4] = 0
    await start(control, place(4))
    await vendor.until(lambda: vendor.audio_bytes > 25 * 640)
    assert not any(vendor.audio)


async def test_a_leg_that_moves(control, vendor, banks):
    with Speaker(banks[16_000], {3: 440}), Speaker(banks[8_000], {5: 1000}, phase=2):
        await start(control, place(3))
        await vendor.until(lambda: vendor.audio_bytes > 50 * 640)
        assert abs(loudest_hz(heard(vendor), 16_000) - 440) < 3
        before = vendor.audio_bytes
        await control.ok(wire.MoveTap, session_id="s", row=place(5, 8_000), phase=2, at_tick=tick_now() + 3)
        await vendor.until(lambda: vendor.audio_bytes > before + 70 * 640)
        assert abs(loudest_hz(heard(vendor), 16_000) - 1000) < 3


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        ("close", "closed by the provider"),
        (401, "deepgram: refused with 401"),
        ("cut", "deepgram: the connection broke"),
    ],
)
async def test_the_vendor_ends_it(control, vendor, outcome, error):
    vendor.outcomes.append(outcome)
    await start(control, place(4))
    assert (await control.event(wire.TranscriptionEnded, session_id="s")).error == error
    assert not await control.inventory()
    await control.ok(wire.StopTranscription, session_id="s")
    await control.ok(wire.MoveTap, session_id="s", row=place(5), phase=2)


async def test_a_vendor_that_says_no_goodbye(control, vendor):
    vendor.outcomes.append("deaf")
    await start(control, place(4))
    await vendor.until(lambda: vendor.audio_bytes >= 4 * 640)  # the fifth chunk is its last
    await control.ok(wire.StopTranscription, session_id="s")
    assert (await control.event(wire.TranscriptionEnded, session_id="s", within=5)).error == ""


async def test_options_reach_the_vendor(control, vendor):
    options = {"model": "nova-2", "keyterms": ["roomtone"], "endpointing": 300, "utterance_end_ms": 1000}
    await start(control, place(4), options=options)
    await vendor.until(lambda: vendor.connections)
    query = {tuple(pair) for pair in vendor.connections[0]["query"]}
    assert {
        ("model", "nova-2"),
        ("keyterm", "roomtone"),
        ("endpointing", "300"),
        ("utterance_end_ms", "1000"),
        ("interim_results", "true"),
    } <= query


async def test_unknown_provider(control):
    reply = await control.do(
        wire.StartTranscription, session_id="s", row=place(4), phase=0, provider="parrot", api_key="k"
    )
    assert isinstance(reply, wire.Failed)
    assert reply.blame == "caller"


def test_the_tone_of_the_speaker_has_no_seams():
    """What the tests above rely on: whole periods in 50 frames."""
    assert all(tone_hz == int(tone_hz) for tone_hz in (440, 1000))
    assert len(sine(440, 1.0)) == 16_000
