"""One pitch period more or less, unheard: how a playout follows the sender's clock.

Runs in: rtp (a row that drifts and does not pause: ±200 ppm is one period in some 20 s, so cost does not matter).
Owns: where to cut and how to join.

Rules
1. One row, one block, pure. The result's length tells by how much: 2.5 to 15 ms, at most three quarters of the block.
2. It begins where the history ends and ends with the block's own last samples: neighbours fit on both sides.

Not here: when to do it (whole frames in silence are cheaper and come first) → workers/rtp.
"""

import numpy as np
from numpy.typing import NDArray

from workers.audio.pitch import SHORTEST_MS, pitch_periods

_JOIN_MS = 4


def insert_period(block: NDArray[np.int16], history: NDArray[np.int16], rate_hz: int) -> NDArray[np.int16]:
    """block (n ≥ 10 ms,) and the audio before it (≥ 20 ms,) → (n + period,)."""
    period = _period(block, history, rate_hz)
    again = np.concatenate((history[-period:], block))
    return _join(block, again, rate_hz)


def drop_period(block: NDArray[np.int16], history: NDArray[np.int16], rate_hz: int) -> NDArray[np.int16]:
    """block (n ≥ 10 ms,) and the audio before it (≥ 20 ms,) → (n - period,)."""
    period = _period(block, history, rate_hz)
    return _join(block, block[period:], rate_hz)


def _period(block: NDArray[np.int16], history: NDArray[np.int16], rate_hz: int) -> int:
    """The period of history and block; halved, for a poorer match, where it leaves too little of a short block to join in."""
    period = int(pitch_periods(np.concatenate((history, block))[None], rate_hz)[0])
    longest = len(block) * 3 // 4
    assert longest >= SHORTEST_MS * rate_hz / 1000
    while period > longest:
        period //= 2
    return period


def _join(leaving: NDArray[np.int16], entering: NDArray[np.int16], rate_hz: int) -> NDArray[np.int16]:
    """`entering`, its beginning (never all of it) cross-faded from `leaving`, which goes on from what was heard before."""
    length = min(_JOIN_MS * rate_hz // 1000, len(leaving), len(entering) * 3 // 4)
    weight = np.arange(1, length + 1, dtype=np.float32) / np.float32(length + 1)
    joined = entering.copy()
    joined[:length] = np.rint(leaving[:length] * (1 - weight) + entering[:length] * weight)
    return joined
