"""Concealment: what a listener would notice."""

import itertools

import numpy as np
import pytest

from workers.audio.conceal import FADE_IN_MS, SILENT_AFTER_MS, conceal, fade_in

from .voices import roughness, voice

each_rate = pytest.mark.parametrize("rate_hz", [8_000, 16_000, 48_000])


@each_rate
def test_a_voice_goes_on_without_a_click(rate_hz):
    history_samples, gap = rate_hz * 30 // 1000, rate_hz * 60 // 1000
    pitches_hz = [100, 123, 187, 250, 311]
    whole = np.stack([voice(hz, rate_hz, 0.1, seed=hz) for hz in pitches_hz])
    history = whole[:, :history_samples]
    concealed = conceal(history, np.zeros(5, np.int64), gap, rate_hz)
    for row in range(5):
        heard = np.concatenate((history[row], concealed[row]))
        before = roughness(history[row], 0, len(history[row]))
        for joint in range(history_samples - 2, history_samples + gap // 3):
            assert roughness(heard, joint, 2) < before * 1.5
    # The first 10 ms are what would have been said.
    first = slice(history_samples, history_samples + rate_hz // 100)
    error = concealed[:, : rate_hz // 100].astype(float) - whole[:, first]
    assert (error**2).sum() < 0.03 * (whole[:, first].astype(float) ** 2).sum()


@each_rate
def test_a_gap_in_pieces_is_the_gap_at_once(rate_hz):
    rng = np.random.default_rng(1)
    history = rng.integers(-32768, 32768, (4, rate_hz * 30 // 1000)).astype(np.int16)
    whole = conceal(history, np.zeros(4, np.int64), rate_hz // 10, rate_hz)
    start = 0
    for length in (1, 7, rate_hz // 50, rate_hz // 200, rate_hz // 50):
        assert np.array_equal(conceal(history, np.full(4, start), length, rate_hz), whole[:, start : start + length])
        start += length
    staggered = np.array([0, 5, 50, 500])
    for row, piece in enumerate(conceal(history, staggered, 100, rate_hz)):
        assert np.array_equal(piece, whole[row, staggered[row] : staggered[row] + 100])


@each_rate
def test_it_fades_and_ends(rate_hz):
    history = voice(125, rate_hz, 0.03)[None]
    concealed = conceal(history, np.zeros(1, np.int64), rate_hz // 10, rate_hz)[0].astype(float)
    loudness = [np.abs(part).max() for part in concealed.reshape(-1, rate_hz // 100)]
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(loudness[1:]))
    assert loudness[0] > 0.9 * np.abs(history).max()
    assert not concealed[SILENT_AFTER_MS * rate_hz // 1000 :].any()


def test_silence_stays_silence_and_full_scale_stays_in_range():
    silence = np.zeros((1, 160), np.int16)
    square = np.where(np.arange(160) // 20 % 2, 32767, -32768).astype(np.int16)[None]
    concealed = conceal(np.concatenate((silence, square)), np.zeros(2, np.int64), 80, 8_000)
    assert not concealed[0].any()
    expected = np.where(np.arange(160, 240) // 20 % 2, 32767, -32768)
    assert np.abs(concealed[1] - expected).max() <= 1
    assert conceal(silence[:0], np.zeros(0, np.int64), 80, 8_000).shape == (0, 80)


@each_rate
def test_fade_in_joins_both_sides(rate_hz):
    fade_samples = FADE_IN_MS * rate_hz // 1000
    whole = voice(150, rate_hz, 0.1)
    history_samples, gap, block = rate_hz * 30 // 1000, rate_hz * 20 // 1000, rate_hz * 20 // 1000
    history = whole[None, :history_samples]
    concealed = conceal(history, np.zeros(1, np.int64), gap + fade_samples, rate_hz)
    good = voice(150, rate_hz, 0.1, seed=9)[None, history_samples + gap : history_samples + gap + block]
    played = fade_in(concealed[:, gap:], good, rate_hz)
    assert np.array_equal(played[:, fade_samples:], good[:, fade_samples:])
    heard = np.concatenate((concealed[0, :gap], played[0]))
    assert roughness(heard, gap, fade_samples + 2) < 2 * roughness(whole, 0, len(whole))
    assert roughness(heard, gap, 2) < roughness(np.concatenate((concealed[0, :gap], good[0])), gap, 2)


@each_rate
def test_sound_without_a_period_does_not_jump_either(rate_hz):
    steps = np.random.default_rng(1).normal(0, 300, (20, rate_hz * 30 // 1000))
    history = np.cumsum(steps, axis=1).clip(-32768, 32767).astype(np.int16)
    concealed = conceal(history, np.zeros(20, np.int64), rate_hz // 20, rate_hz)
    heard = np.concatenate((history[:, -1:], concealed), axis=1).astype(float)
    assert np.abs(np.diff(heard, axis=1)).max() < 1.3 * np.abs(steps).max()
