"""All 44 tones against the contract's table: what is heard (spectrum), when (cadence), and every sample (formula)."""

import numpy as np
import pytest

from workers.audio.tones import NAMES, parse_tone

FOR_EVER = ()
# country: (ringback, busy, dial, congestion), each ({Hz: share of the peak}, on and off in ms)
PLAN = {
    "us": (((440, 480), (2000, 4000)), ((480, 620), (500, 500)), ((350, 440), FOR_EVER), ((480, 620), (250, 250))),
    "gb": (
        ((400, 450), (400, 200, 400, 2000)),
        ((400,), (375, 375)),
        ((350, 440), FOR_EVER),
        ((400,), (400, 350, 225, 525)),
    ),
    "de": (((425,), (1000, 4000)), ((425,), (480, 480)), ((425,), FOR_EVER), ((425,), (240, 240))),
    "fr": (((440,), (1500, 3500)), ((440,), (500, 500)), ((440,), FOR_EVER), ((440,), (250, 250))),
    "au": (
        ((413, 438), (400, 200, 400, 2000)),
        ((425,), (375, 375)),
        ((413, 438), FOR_EVER),
        ((425,), (375, 375, 375, 375)),
    ),
    "jp": (("400x16", (1000, 2000)), ((400,), (500, 500)), ((400,), FOR_EVER), ((400,), (250, 250))),
    "it": (((425,), (1000, 4000)), ((425,), (500, 500)), ((425,), (200, 200, 600, 1000)), ((425,), (200, 200))),
    "in": (("400x25", (400, 200, 400, 2000)), ((400,), (750, 750)), ("400x25", FOR_EVER), ((400,), (250, 250))),
    "br": (((425,), (1000, 4000)), ((425,), (250, 250)), ((425,), FOR_EVER), ((425,), (250, 250))),
    "pl": (((425,), (1000, 4000)), ((425,), (500, 500)), ((425,), FOR_EVER), ((425,), (500, 500))),
    "ru": (((425,), (800, 3200)), ((425,), (350, 350)), ((425,), FOR_EVER), ((425,), (175, 175))),
}
EXPECTED = {
    f"{country}_{type_}": entry
    for country, entries in PLAN.items()
    for type_, entry in zip(("ringback", "busy", "dial", "congestion"), entries, strict=True)
}
each_tone = pytest.mark.parametrize("name", EXPECTED)
each_rate = pytest.mark.parametrize("rate_hz", [8000, 16000, 48000])


def sound(name, rate_hz, duration_ms):
    tone = parse_tone(name)
    return np.concatenate([tone.frame(index, rate_hz) for index in range(duration_ms // 20)])


def components(frequencies):
    """{Hz: share of the peak level} of a sum of equal sines, or of a carrier with its two side tones."""
    if isinstance(frequencies, str):
        carrier, modulation = map(int, frequencies.split("x"))
        return {carrier - modulation: 0.25, carrier: 0.5, carrier + modulation: 0.25}
    return {frequency: 1 / len(frequencies) for frequency in frequencies}


def bursts(cadence, duration_ms):
    """(begin, end) in ms of all bursts that begin within the time."""
    at, index, found = 0, 0, []
    while at < duration_ms:
        found.append((at, at + cadence[index % len(cadence)]))
        at += cadence[index % len(cadence)] + cadence[(index + 1) % len(cadence)]
        index += 2
    return found


@each_rate
@each_tone
def test_spectrum(name, rate_hz):
    frequencies, cadence = EXPECTED[name]
    begin, end = max(bursts(cadence, sum(cadence)), key=lambda span: span[1] - span[0]) if cadence else (20, 1020)
    at_ms = rate_hz // 1000
    heard = sound(name, rate_hz, end + 20)[(begin + 2) * at_ms : (end - 2) * at_ms]
    window = np.hanning(heard.size)
    padded = rate_hz * 2  # half a hertz a bin
    spectrum = 2 * np.abs(np.fft.rfft(heard * window, padded)) / window.sum()
    expected = components(frequencies)
    for frequency, share in expected.items():
        assert 20 * np.log10(spectrum[frequency * 2] / (23000 * share)) == pytest.approx(0, abs=0.2)
    apart_hz = 4 * 1000 / (end - begin - 4)  # the foot of a Hann peak, doubled
    bins = np.arange(spectrum.size) / 2
    elsewhere = np.all([np.abs(bins - frequency) > apart_hz for frequency in expected], axis=0)
    assert spectrum[elsewhere].max() < 23000 * 10 ** (-40 / 20)


@each_rate
@each_tone
def test_cadence(name, rate_hz):
    _, cadence = EXPECTED[name]
    duration_ms = 2 * sum(cadence) // 20 * 20 or 2000
    is_on = sound(name, rate_hz, duration_ms).reshape(duration_ms, -1).any(axis=1)  # for each millisecond
    wanted = np.zeros(duration_ms, bool) if cadence else np.ones(duration_ms, bool)
    for begin, end in bursts(cadence, duration_ms) if cadence else []:
        wanted[begin:end] = True
    assert np.array_equal(is_on, wanted)


@each_rate
@each_tone
def test_every_sample_is_the_formula(name, rate_hz):
    frequencies, cadence = EXPECTED[name]
    duration_ms = min(2 * sum(cadence) // 20 * 20, 7000) or 2000
    t_ms = np.arange(duration_ms * rate_hz // 1000) * 1000 / rate_hz
    envelope = np.zeros(t_ms.size) if cadence else np.minimum(t_ms / 2, 1)
    for number, (begin, end) in enumerate(bursts(cadence, duration_ms) if cadence else []):
        level = 10 ** (-10 / 20) if name == "au_congestion" and number % 2 else 1
        envelope += level * np.clip(np.minimum(t_ms - begin, end - t_ms) / 2, 0, 1)
    t = t_ms / 1000
    if isinstance(frequencies, str):
        carrier, modulation = map(int, frequencies.split("x"))
        wave = np.sin(2 * np.pi * carrier * t) * (0.5 + 0.5 * np.sin(2 * np.pi * modulation * t))
    else:
        wave = sum(np.sin(2 * np.pi * frequency * t) for frequency in frequencies) / len(frequencies)
    assert np.abs(sound(name, rate_hz, duration_ms) - 23000 * envelope * wave).max() <= 0.51


@each_tone
def test_a_frame_needs_no_frame_before_it(name):
    whole = sound(name, 16000, 8000).reshape(-1, 320)
    for index in (399, 0, 123, 51, 251):
        assert np.array_equal(parse_tone(name).frame(index, 16000), whole[index])


def test_hours_later_nothing_has_drifted():
    tone = parse_tone("us_ringback")
    frames_in_300_hours = 300 * 3600 * 50  # a whole number of both its periods: 6 s and 1 s
    assert np.array_equal(tone.frame(frames_in_300_hours + 7, 48000), tone.frame(7 + 300, 48000))


def test_a_frame_is_the_callers_own():
    tone = parse_tone("de_dial")
    tone.frame(1, 8000)[:] = 0
    assert tone.frame(1, 8000).any()


def test_names():
    assert set(NAMES) == set(EXPECTED)
    assert len(NAMES) == 44
    assert parse_tone(" UK_Busy\n") == parse_tone("gb_busy")
    assert parse_tone("GB_BUSY").name == "gb_busy"
    for type_ in ("ringback", "busy", "dial", "congestion"):
        assert parse_tone(type_).name == f"us_{type_}"


@pytest.mark.parametrize(
    "name", ["", "_", "us", "us_", "_busy", "xx_busy", "us_ring", "us_busy_", "busy_us", "us busy"]
)
def test_an_unknown_name_lists_the_known(name):
    with pytest.raises(ValueError, match="unknown tone") as caught:
        parse_tone(name)
    assert all(known in str(caught.value) for known in ("us_ringback", "ru_congestion", "pl_dial"))
