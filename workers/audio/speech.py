"""Who speaks: a threshold on the level with memory, for all rows at once (contract media.md, section 8).

Runs in: rtp, stream (where audio is decoded).
Owns: the runs of voiced and silent frames, and who is speaking.

Rules
1. A 20 ms frame of RMS ≥ 300 is voiced. Three voiced in a row start speech, fifteen silent in a row end it.
2. Missing audio is a frame of level 0: the caller lists such rows too.
3. A muted leg is reset and then left out.

Not here: whether detection is wanted, events → workers/rtp, app.
"""

import numpy as np
from numpy.typing import NDArray

VOICED_RMS = 300.0
START_FRAMES = 3
STOP_FRAMES = 15


def rms(frames: NDArray[np.int16]) -> NDArray[np.float32]:
    """int16 (k, n) → RMS (k,). float32 sums: 960 full-scale squares are far below its range, and exact enough to 1e-5."""
    samples = frames.astype(np.float32)
    power: NDArray[np.float32] = np.vecdot(samples, samples)
    power *= np.float32(1 / frames.shape[-1])
    return np.sqrt(power, out=power)


class SpeechDetector:
    """State of `rows` rows; arrays are indexed by row."""

    def __init__(self, rows: int) -> None:
        self.voiced_run = np.zeros(rows, np.int64)  # frames; 64 bits, so that no call is long enough to wrap
        self.silent_run = np.zeros(rows, np.int64)
        self.speaking = np.zeros(rows, np.bool_)

    def update(
        self, rows: NDArray[np.integer], level_rms: NDArray[np.floating]
    ) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """One frame of each of `rows` (no row twice), its RMS beside it → the rows that started and those that stopped speaking."""
        voiced = level_rms >= VOICED_RMS
        voiced_run = (self.voiced_run[rows] + 1) * voiced
        silent_run = (self.silent_run[rows] + 1) * ~voiced
        speaking = self.speaking[rows]
        self.voiced_run[rows] = voiced_run
        self.silent_run[rows] = silent_run
        started = rows[~speaking & (voiced_run >= START_FRAMES)]
        stopped = rows[speaking & (silent_run >= STOP_FRAMES)]
        self.speaking[started] = True
        self.speaking[stopped] = False
        return started, stopped

    def reset(self, row: int) -> bool:
        """Forget a row (mute, end of call). True if it was speaking: the caller then reports that it stopped."""
        was_speaking = bool(self.speaking[row])
        self.voiced_run[row] = self.silent_run[row] = 0
        self.speaking[row] = False
        return was_speaking
