"""Resampling: by spectrum, against direct convolution, and without a seam."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.audio.lowpass import lowpass
from workers.audio.resample import RATES_HZ, resampler

DIRECTIONS = list(itertools.permutations(RATES_HZ, 2))
each_direction = pytest.mark.parametrize(("from_hz", "to_hz"), DIRECTIONS)


def convert(signal, from_hz, to_hz):
    """A whole (rows, n) signal after silence."""
    resample = resampler(from_hz, to_hz)
    return resample(np.zeros((len(signal), resample.history), np.int16), signal)


def assert_same(some, others):
    """Equal but for near ties that BLAS rounds differently by place (rule 1); a seam would be off by hundreds."""
    assert np.abs(some.astype(int) - others).max(initial=0) <= 1


def tone(hz, rate_hz, seconds=1.0, amplitude=20_000):
    return (
        (amplitude * np.sin(2 * np.pi * hz / rate_hz * np.arange(round(seconds * rate_hz))))
        .round()
        .astype(np.int16)[None]
    )


def amplitudes(signal, rate_hz):
    """Amplitude per Hz of the steady half second in the middle (whole Hz of even number only, so no leakage)."""
    middle = signal[0, rate_hz // 4 : rate_hz * 3 // 4].astype(float)
    return np.abs(np.fft.rfft(middle)) * 2 / len(middle)


@each_direction
def test_passband_is_flat_and_nothing_else_appears(from_hz, to_hz):
    lower_hz = min(from_hz, to_hz)
    for hz in (60, 300, 1000, 2002, 3000, int(0.42 * lower_hz)):
        spectrum = amplitudes(convert(tone(hz, from_hz), from_hz, to_hz), to_hz)
        assert abs(20 * np.log10(spectrum[hz // 2] / 20_000)) < 0.5
        spectrum[hz // 2] = 0
        assert 20 * np.log10(spectrum.max() / 20_000) < -50


@each_direction
def test_above_half_the_lower_rate_nothing_passes(from_hz, to_hz):
    lower_hz = min(from_hz, to_hz)
    for share in (0.5, 0.505, 0.55, 0.6, 0.75, 0.95):
        if (hz := int(share * lower_hz) + 2) < from_hz / 2:  # going down: these would be aliases
            assert 20 * np.log10(amplitudes(convert(tone(hz, from_hz), from_hz, to_hz), to_hz).max() / 20_000) < -50
    if from_hz < to_hz:  # going up: images of the band that the pass band does not cover
        for share in (0.44, 0.47, 0.49):
            spectrum = amplitudes(convert(tone(int(share * lower_hz) // 2 * 2, from_hz), from_hz, to_hz), to_hz)
            assert 20 * np.log10(spectrum[lower_hz // 4 + 1 :].max() / 20_000) < -50


@each_direction
def test_equals_direct_convolution_saturated(from_hz, to_hz):
    ratio = max(from_hz, to_hz) // min(from_hz, to_hz)
    taps = lowpass(ratio)
    signs = np.random.default_rng(1).integers(0, 2, from_hz // 100).repeat(10)
    samples = np.where(signs, 32767, -32768).astype(np.int16)[None]
    if from_hz < to_hz:
        stuffed = np.zeros(samples.shape[1] * ratio)
        stuffed[::ratio] = samples[0]
        expected = np.convolve(stuffed, taps * ratio)[: len(stuffed)]
    else:
        expected = np.convolve(samples[0], taps)[: samples.shape[1] : ratio]
    assert np.abs(expected).max() > 33_000
    assert np.abs(convert(samples, from_hz, to_hz)[0] - expected.clip(-32768, 32767)).max() < 0.52


@settings(max_examples=60, deadline=None)
@given(
    direction=st.sampled_from(DIRECTIONS),
    rows=st.integers(1, 5),
    tens_of_ms=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_seam(direction, rows, tens_of_ms, seed):
    from_hz, to_hz = direction
    resample = resampler(from_hz, to_hz)
    total = sum(tens_of_ms) * resample.granularity_samples
    signal = np.random.default_rng(seed).integers(-32768, 32768, (rows, resample.history + total)).astype(np.int16)
    whole = resample(signal[:, : resample.history], signal[:, resample.history :])
    pieces = []
    start = resample.history
    for count in tens_of_ms:
        end = start + count * resample.granularity_samples
        pieces.append(resample(signal[:, start - resample.history : start], signal[:, start:end]))
        start = end
    assert_same(np.concatenate(pieces, axis=1), whole)


@each_direction
def test_rows_do_not_depend_on_their_company(from_hz, to_hz):
    resample = resampler(from_hz, to_hz)
    rng = np.random.default_rng(2)
    history = rng.integers(-32768, 32768, (300, resample.history)).astype(np.int16)
    block = rng.integers(-32768, 32768, (300, from_hz // 50)).astype(np.int16)
    history[7] = block[7] = 0
    together = resample(history, block)
    for row in (0, 1, 7, 127, 128, 299):
        assert_same(resample(history[row : row + 1], block[row : row + 1])[0], together[row])
    assert not together[7].any()


@pytest.mark.parametrize("heard", [0, 1, 20, 60, 79, 80])
def test_silent_rows_change_nothing_for_the_others(heard):
    resample = resampler(16_000, 8_000)
    rng = np.random.default_rng(heard)
    signal = rng.integers(-32768, 32768, (80, resample.history + 320)).astype(np.int16)
    signal[rng.permutation(80)[heard:]] = 0
    signal[:, resample.history :][:3] = 0  # the history alone still rings
    history, block = signal[:, : resample.history], signal[:, resample.history :]
    together = resample(history, block, np.full((80, 160), 99, np.int16))
    alone = np.concatenate([resample(history[row : row + 1], block[row : row + 1]) for row in range(80)])
    assert_same(together, alone)
    assert np.array_equal(together.any(axis=1), signal.any(axis=1))


@each_direction
def test_delay_is_as_stated(from_hz, to_hz):
    resample = resampler(from_hz, to_hz)
    click = np.zeros((1, from_hz // 10), np.int16)
    click[0, from_hz // 20] = 30_000
    assert convert(click, from_hz, to_hz)[0].argmax() == to_hz // 20 + resample.delay_samples
    assert resample.delay_samples <= 0.0015 * to_hz


@each_direction
def test_a_constant_stays(from_hz, to_hz):
    resample = resampler(from_hz, to_hz)
    for value in (-32768, -5, 1000, 32767):
        constant = np.full((1, resample.history + from_hz // 50), value, np.int16)
        assert (resample(constant[:, : resample.history], constant[:, resample.history :]) == value).all()


def test_out_is_written_in_place():
    resample = resampler(8_000, 16_000)
    assert resample is resampler(8_000, 16_000)
    rng = np.random.default_rng(3)
    history, block = (
        rng.integers(-999, 999, (4, 24)).astype(np.int16),
        rng.integers(-999, 999, (4, 160)).astype(np.int16),
    )
    slots = np.zeros((4, 3, 320), np.int16)
    assert resample(history, block, slots[:, 1]) is not None
    assert_same(slots[:, 1], resample(history, block))
    assert not slots[:, 0].any()
    assert not slots[:, 2].any()
    assert resample(history[:0], block[:0]).shape == (0, 320)
