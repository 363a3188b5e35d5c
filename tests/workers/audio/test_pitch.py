"""The period of voices of known pitch."""

import numpy as np
import pytest

from workers.audio.pitch import pitch_periods

from .voices import voice


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 48_000])
@pytest.mark.parametrize("history_ms", [20, 30, 40])
def test_known_pitch_or_a_multiple(rate_hz, history_ms):
    pitches_hz = [70, 95, 110, 133, 180, 220, 260, 333, 390]
    rows = np.stack([voice(hz, rate_hz, history_ms / 1000, seed=hz) for hz in pitches_hz])
    for hz, period in zip(pitches_hz, pitch_periods(rows, rate_hz), strict=True):
        periods = period * hz / rate_hz
        assert abs(periods - round(periods)) * rate_hz / hz <= 1.5, f"{hz} Hz: {period} samples"
        assert round(periods) >= 1


def test_any_lag_will_do_for_silence_and_noise():
    rng = np.random.default_rng(1)
    rows = np.concatenate((np.zeros((1, 240), np.int16), rng.integers(-32768, 32768, (3, 240)).astype(np.int16)))
    periods = pitch_periods(rows, 8_000)
    assert periods.min() >= 20
    assert periods.max() <= 120
    assert pitch_periods(rows[:0], 8_000).shape == (0,)
