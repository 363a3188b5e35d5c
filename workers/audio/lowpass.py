"""The low-pass that every change of sample rate needs: an equiripple, linear-phase FIR.

Runs in: any worker, once per pair of rates.
Owns: the filter's specification and its design.

Rules
1. The stop band begins at half the lower rate, not symmetrically around it as a half-band filter's would: what lies between
   0.42 and 0.5 of the lower rate is attenuated, and nothing of it appears mirrored.
2. The gain is exactly 1 at 0 Hz and exactly 0 at every multiple of the lower rate: a constant in gives the same constant out.
3. One specification for all ratios, in units of the lower rate: the delay is DELAY_LOW_SAMPLES samples of the lower rate.
"""

import numpy as np
from numpy.typing import NDArray

DELAY_LOW_SAMPLES = 12  # 1.5 ms at 8 kHz, 0.75 ms at 16 kHz

_PASS_EDGE = 0.42  # of the lower rate
_STOP_EDGE = 0.5
_PASS_OVER_STOP_RIPPLE = 20.0  # 0.05 (0.43 dB up or down) over 0.0025 (52 dB down)
_GRID_PER_RIPPLE = 6
_ROUNDS = 10  # the ripples are equal to 0.2 dB by then


def lowpass(ratio: int) -> NDArray[np.float64]:
    """Taps (2 · DELAY_LOW_SAMPLES · ratio + 1) at `ratio` times the lower rate, symmetric, their sum 1.

    Least squares whose weights follow the error (Lawson's iteration), with rule 2 as exact constraints (Lagrange multipliers).
    Takes milliseconds; scipy's remez would be a large dependency for one filter.
    """
    half_taps = DELAY_LOW_SAMPLES * ratio
    spacing = 1 / (2 * DELAY_LOW_SAMPLES * _GRID_PER_RIPPLE)
    pass_band = np.linspace(0, _PASS_EDGE, round(_PASS_EDGE / spacing) + 1)
    stop_band = np.linspace(_STOP_EDGE, ratio / 2, round((ratio / 2 - _STOP_EDGE) / spacing) + 1)
    cosines = _cosines(np.concatenate((pass_band, stop_band)), half_taps, ratio)
    wanted = np.repeat((1.0, 0.0), (len(pass_band), len(stop_band)))
    strictness = np.repeat((1.0, _PASS_OVER_STOP_RIPPLE), (len(pass_band), len(stop_band)))

    fixed = _cosines(np.arange(ratio // 2 + 1.0), half_taps, ratio)
    unknowns, constraints = half_taps + 1, len(fixed)
    system = np.zeros((unknowns + constraints, unknowns + constraints))
    system[:unknowns, unknowns:] = fixed.T
    system[unknowns:, :unknowns] = fixed
    target = np.zeros(unknowns + constraints)
    target[unknowns] = 1.0

    weights = strictness**2
    half: NDArray[np.float64] = np.zeros(unknowns)
    for _ in range(_ROUNDS):
        weighted = cosines.T * weights
        system[:unknowns, :unknowns] = weighted @ cosines
        target[:unknowns] = weighted @ wanted
        half = np.linalg.solve(system, target)[:unknowns].astype(np.float64)
        error = np.abs(cosines @ half - wanted) * strictness
        weights *= error + 0.3 * error.max()  # the constant keeps points of zero error from being forgotten
        weights /= weights.max()
    return np.concatenate((half[:0:-1], half))


def _cosines(frequencies: NDArray[np.float64], half_taps: int, ratio: int) -> NDArray[np.float64]:
    """Gain of a symmetric FIR as a linear map of its middle tap and right half."""
    cosines: NDArray[np.float64] = np.cos(2 * np.pi / ratio * np.outer(frequencies, np.arange(half_taps + 1)))
    cosines[:, 1:] *= 2
    return cosines
