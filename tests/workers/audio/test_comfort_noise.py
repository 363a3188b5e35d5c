"""Comfort noise: quiet, dark, endless."""

import numpy as np
import pytest

from workers.audio.comfort_noise import LOOP_SECONDS, PEAK_LSB, frames

each_rate = pytest.mark.parametrize("rate_hz", [8_000, 16_000, 48_000])


@each_rate
def test_peaks_and_shape(rate_hz):
    loop = frames(rate_hz)
    assert loop.shape == (LOOP_SECONDS * 50, rate_hz // 50)
    assert loop.dtype == np.int16
    assert np.abs(loop).max() == PEAK_LSB
    assert abs(loop.mean()) < 0.1
    assert np.any(loop, axis=1).mean() > 0.99  # hardly a frame is digital silence
    assert frames(rate_hz) is loop
    with pytest.raises(ValueError, match="read-only"):
        loop[0, 0] = 1


@each_rate
def test_the_spectrum_is_two_one_poles(rate_hz):
    power = np.abs(np.fft.rfft(frames(rate_hz).ravel().astype(float))) ** 2
    hz = np.arange(len(power)) / LOOP_SECONDS

    def expected(at_hz):
        return np.abs(0.1 / (1 - 0.9 * np.exp(-2j * np.pi * at_hz / rate_hz))) ** 4

    low, high = rate_hz / 1000, rate_hz / 32
    measured = power[np.abs(hz - low) < low / 2].mean() / power[np.abs(hz - high) < high / 8].mean()
    assert abs(10 * np.log10(measured / (expected(low) / expected(high)))) < 2


@each_rate
def test_the_loop_has_no_seam(rate_hz):
    loop = frames(rate_hz).ravel().astype(int)
    assert abs(loop[0] - loop[-1]) <= np.abs(np.diff(loop)).max()
