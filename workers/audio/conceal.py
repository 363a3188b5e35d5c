"""Lost audio is replaced by the last period heard, fading; good audio returns by a cross-fade.

Runs in: rtp (rows whose slot is missing at their phase).
Owns: what concealment sounds like.

Rules
1. No state: the same history gives the same period, so a gap filled in pieces equals one filled at once. The history is the
   last GOOD audio throughout a gap, never what was concealed.
2. The gain holds for 10 ms and is 0 from 60 ms on. Callers may stop asking then: it is silence.
3. Every joint goes on where the sample before it was: the step between two periods is spread over the period.

Not here: whether a gap is loss or intended silence (both fade alike), counters → workers/rtp.
"""

import numpy as np
from numpy.typing import NDArray

from workers.audio.pitch import pitch_periods

HISTORY_MS = 30  # what a caller should keep; 20 ms is the least
HOLD_MS = 10
SILENT_AFTER_MS = 60
FADE_IN_MS = 5


def conceal(
    history: NDArray[np.int16], concealed_samples: NDArray[np.integer], samples: int, rate_hz: int
) -> NDArray[np.int16]:
    """history (rows, ≥ 20 ms) of good audio, samples already concealed since then (rows,) → the next (rows, samples)."""
    rows, width = history.shape
    period = pitch_periods(history, rate_hz)
    row = np.arange(rows)
    hold, silent_after = HOLD_MS * rate_hz // 1000, SILENT_AFTER_MS * rate_hz // 1000
    since_good = concealed_samples[:, None] + np.arange(samples)
    place = since_good % period[:, None]
    repeated = history.take(place + (row * width + width - period)[:, None]).astype(np.float32)

    # The sample before the period and the last one should be equal; where not, the difference wears off within each repeat.
    step = history[:, -1].astype(np.float32) - history[row, width - period - 1]
    repeated += (step / period)[:, None] * (period[:, None] - place)

    repeated *= ((silent_after - since_good) / np.float32(silent_after - hold)).clip(0, 1)
    concealed: NDArray[np.int16] = np.rint(repeated.clip(-32768, 32767)).astype(np.int16)
    return concealed


def fade_in(continuation: NDArray[np.int16], good: NDArray[np.int16], rate_hz: int) -> NDArray[np.int16]:
    """What concealment would have gone on with (rows, ≥ 5 ms) and the first good block (rows, n ≥ 5 ms) → the block to play.

    After a gap of over 60 ms the continuation is zeros and this is a plain fade.
    """
    length = FADE_IN_MS * rate_hz // 1000
    weight = np.arange(1, length + 1, dtype=np.float32) / np.float32(length + 1)
    faded = good.copy()
    faded[:, :length] = np.rint(continuation[:, :length] * (1 - weight) + good[:, :length] * weight)
    return faded
