"""Comfort noise: what a listener gets instead of digital silence (contract media.md, section 2.1).

Runs in: room (listeners whose sum is zero), rtp (legs that nothing reaches).
Owns: one loop of noise per rate, the same in every process.

Rules
1. White noise through two one-pole low-passes (coefficient 0.1), peaks ±4 LSB, LOOP_SECONDS long, then again: the filter runs
   around the loop, so the end joins the start without a seam.
2. Frames are read-only and shared: whoever takes frame T mod len(frames) neither computes nor copies.

Not here: whether it is enabled, and when → workers/room.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

LOOP_SECONDS = 5
PEAK_LSB = 4
_ALPHA = 0.1
_FRAMES_PER_SECOND = 50
_SEED = 0x4E6F697365


@cache
def frames(rate_hz: int) -> NDArray[np.int16]:
    """(LOOP_SECONDS · 50, samples of 20 ms) at `rate_hz`, read-only. The first call computes it (some ms)."""
    samples = LOOP_SECONDS * rate_hz
    white = np.random.default_rng(_SEED).standard_normal(samples)
    delay = np.exp(-2j * np.pi * np.arange(samples // 2 + 1) / samples)
    one_pole = _ALPHA / (1 - (1 - _ALPHA) * delay)
    # A product of spectra is the recursion run around the loop for ever: no start-up, no seam.
    noise = np.fft.irfft(np.fft.rfft(white) * one_pole**2, samples)
    noise *= PEAK_LSB / np.abs(noise).max()
    loop: NDArray[np.int16] = np.rint(noise).astype(np.int16).reshape(LOOP_SECONDS * _FRAMES_PER_SECOND, -1)
    loop.flags.writeable = False
    return loop
