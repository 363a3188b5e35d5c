"""G.711: µ-law and A-law, one table look-up a sample.

Runs in: any worker that has a G.711 wire.
Owns: the four tables, exact to ITU-T G.711 tables 1a, 1b, 2a and 2b.

Rules
1. Tables are built once, at import, from the recommendation's decision and output values.
2. The encode tables are indexed by the sample's bits (int16 seen as uint16), so there is no sign, clip or branch per sample.
3. Arrays of any shape go in and come out in the same shape: a batch of packets is one call.
4. No index can be out of range; `clip` only spares the look at each, a third of the time.

Not here: which payload type is which law → workers/rtp.
"""

import numpy as np
from numpy.typing import NDArray

ULAW_SILENCE = 0xFF
ALAW_SILENCE = 0xD5

_CODES = np.arange(256)
_SAMPLES = np.arange(65536).astype(np.uint16).view(np.int16).astype(np.int32)  # the sample that each table index means
_SEGMENTS = np.arange(128) >> 4
_STEPS = np.arange(128) & 15
# One's complement: a sample right on a decision value goes to the interval above it on either side of zero, as in ITU-T G.191.
_MAGNITUDES = np.where(_SAMPLES < 0, ~_SAMPLES, _SAMPLES)


def _ulaw_tables() -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    inverted = _CODES ^ 0xFF
    magnitude = ((((inverted & 15) << 3) + 132) << ((inverted >> 4) & 7)) - 132
    lower_decisions = 4 * (((16 + _STEPS) << (_SEGMENTS + 1)) - 33)
    level = np.searchsorted(lower_decisions, _MAGNITUDES, side="right") - 1
    code = (level | np.where(_SAMPLES < 0, 0x80, 0)) ^ 0xFF
    return np.where(inverted & 0x80, -magnitude, magnitude).astype(np.int16), code.astype(np.uint8)


def _alaw_tables() -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    plain = _CODES ^ 0x55
    segment = (plain >> 4) & 7
    magnitude = (((plain & 15) << 4) + 8 + np.where(segment > 0, 256, 0)) << np.maximum(segment - 1, 0)
    lower_decisions = 16 * np.where(_SEGMENTS > 0, (16 + _STEPS) << np.maximum(_SEGMENTS - 1, 0), _STEPS)
    level = np.searchsorted(lower_decisions, _MAGNITUDES, side="right") - 1
    code = (level | np.where(_SAMPLES < 0, 0, 0x80)) ^ 0x55
    return np.where(plain & 0x80, magnitude, -magnitude).astype(np.int16), code.astype(np.uint8)


_ULAW_TO_LINEAR, _LINEAR_TO_ULAW = _ulaw_tables()
_ALAW_TO_LINEAR, _LINEAR_TO_ALAW = _alaw_tables()


def ulaw_decode(payload: NDArray[np.uint8]) -> NDArray[np.int16]:
    """µ-law bytes, any shape → int16 samples of the same shape (±32124)."""
    return _ULAW_TO_LINEAR.take(payload, mode="clip")


def ulaw_encode(samples: NDArray[np.int16]) -> NDArray[np.uint8]:
    """int16 samples, any shape → µ-law bytes of the same shape."""
    return _LINEAR_TO_ULAW.take(samples.view(np.uint16), mode="clip")


def alaw_decode(payload: NDArray[np.uint8]) -> NDArray[np.int16]:
    """A-law bytes, any shape → int16 samples of the same shape (±32256)."""
    return _ALAW_TO_LINEAR.take(payload, mode="clip")


def alaw_encode(samples: NDArray[np.int16]) -> NDArray[np.uint8]:
    """int16 samples, any shape → A-law bytes of the same shape."""
    return _LINEAR_TO_ALAW.take(samples.view(np.uint16), mode="clip")
