"""Periodic sounds like voices, for the tests of this folder."""

import numpy as np


def voice(pitch_hz, rate_hz, seconds, seed=0, noise=20):
    """Harmonics up to 3.4 kHz falling by 12 dB an octave with random phases, and a little noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    sound = sum(
        np.sin(2 * np.pi * pitch_hz * number * time + rng.uniform(0, 6.28)) / number**2
        for number in range(1, int(3400 / pitch_hz) + 1)
    )
    return (sound * 8000 + noise * rng.standard_normal(len(time))).round().clip(-32768, 32767).astype(np.int16)


def roughness(samples, around, reach):
    """Largest second difference near an index: what a click raises."""
    bend = np.abs(np.diff(samples.astype(float), 2))
    return bend[max(around - reach, 0) : around + reach].max()
