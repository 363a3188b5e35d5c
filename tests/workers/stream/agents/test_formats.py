"""Formats of vendors: nothing torn, no seams, the right pitch, aliases 50 dB down."""

import numpy as np
import pytest

from tests.vendors.socket_fake import sine
from workers.audio.g711 import ulaw_decode, ulaw_encode
from workers.stream.agents.formats import FromVendor, ToVendor

RATES_HZ = [8_000, 16_000, 22_050, 24_000, 44_100, 48_000]


def spectrum_peak_hz(pcm):
    samples = np.frombuffer(pcm, "<i2")[1600:-1600].astype(float)
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return power.argmax() * 16000 / len(samples)


def others_db(samples, tone_hz, rate_hz):
    """The loudest thing that is not the tone, in dB below it."""
    power = np.abs(np.fft.rfft(samples * np.blackman(len(samples)))) ** 2
    frequencies = np.arange(len(power)) * rate_hz / len(samples)
    is_tone = np.abs(frequencies - tone_hz) < 40
    return 10 * np.log10(power[~is_tone].max() / power[is_tone].max())


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("piece_bytes", [101, 640, 4003, 200_000])
def test_a_vendors_audio_in_any_pieces(rate_hz, piece_bytes):
    wire = sine(1000, 1000, rate_hz)
    convert = FromVendor(rate_hz)
    heard = b"".join(convert(wire[start : start + piece_bytes]) for start in range(0, len(wire), piece_bytes))
    assert len(heard) % 2 == 0
    assert 0 <= 1000 - len(heard) / 32 <= 30  # ms that still wait
    samples = np.frombuffer(heard, "<i2")[1600:-1600].astype(float)
    assert abs(spectrum_peak_hz(heard) - 1000) < 2
    assert others_db(samples, 1000, 16_000) < -50
    assert abs(np.abs(samples).max() / 16384 - 1) < 0.05  # 0.4 dB: the ripple of the banks' filter


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_our_audio_at_a_vendors_rate(rate_hz):
    chunks = sine(1000, 1000)
    convert = ToVendor(rate_hz)
    wire = b"".join(convert(chunks[start : start + 640]) for start in range(0, len(chunks), 640))
    samples = np.frombuffer(wire, "<i2")
    assert 0 <= 1000 - len(samples) * 1000 / rate_hz <= 30
    assert others_db(samples[rate_hz // 10 : -rate_hz // 10].astype(float), 1000, rate_hz) < -50


def test_pieces_of_16_khz_pass_untouched():
    wire = sine(440, 100)
    convert = FromVendor()
    assert convert(wire[:3]) + convert(wire[3:]) == wire
    assert ToVendor()(wire[:640]) == wire[:640]


def test_ulaw():
    wire = ulaw_encode(np.frombuffer(sine(440, 1000, 8_000), "<i2")).tobytes()
    heard = FromVendor(8_000, is_ulaw=True)(wire)
    assert abs(spectrum_peak_hz(heard) - 440) < 2
    back = ToVendor(8_000, is_ulaw=True)(heard)
    assert abs(len(back) - len(wire)) <= 160
    assert np.abs(ulaw_decode(np.frombuffer(back, np.uint8)).astype(int)).max() > 15_000


def test_channels_become_their_mean():
    left, right = np.frombuffer(sine(440, 100), "<i2"), np.zeros(1600, "<i2")
    wire = np.column_stack([left, right]).tobytes()
    convert = FromVendor(16_000, 2)
    heard = np.frombuffer(convert(wire[:5]) + convert(wire[5:]), "<i2")
    assert np.abs(heard - left / 2).max() <= 0.5
