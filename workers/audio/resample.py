"""Change of sample rate between 8, 16 and 48 kHz for a batch of rows, as one matrix product.

Runs in: rtp (wire rate ↔ bank rate), stream (providers' 16 kHz).
Owns: the polyphase matrices and the scratch they are applied in.

    ext  history │ block                    int16, a row each
    win  ├─ window 0 ─┤                     every window holds what 16 samples of the lower rate need:
             ├─ window 1 ─┤                 2·12 + 16 of them, so windows overlap
    out  (rows · windows, window) @ (window, 16 · to/from), rounded and saturated

Rules
1. No state: the caller hands over the input samples before the block. Consecutive calls equal one long call, bit for bit on
   AVX-512; BLAS's AVX2 kernels sum by a window's place in the batch, so there a near tie may round the other way (1 LSB).
2. One scratch per instance, of one chunk of rows, so that all steps stay in the second-level cache: one thread only.
3. Equal rates are not here: the caller knows and does nothing. The process sets OPENBLAS_NUM_THREADS=1.
"""

from functools import cache
from math import gcd

import numpy as np
from numpy.typing import NDArray

from workers.audio.lowpass import DELAY_LOW_SAMPLES, lowpass

RATES_HZ = (8_000, 16_000, 48_000)

_WINDOW_LOW_SAMPLES = 16  # measured best of 16 to 160: wider windows multiply mostly zeros
_CHUNK_LOW_SAMPLES = 128 * 160  # 128 rows of 20 ms at 8 kHz at once; longer blocks or higher rates take fewer rows
# All-zero rows (muted phones) are left out where they are a quarter of a batch as large as this: two thirds silent costs a quarter
# less at 75 rows and half at 300; looking costs 8 %.
_WORTH_SORTING_ROWS = 32
_LOWEST = np.float32(-32768)
_HIGHEST = np.float32(32767)


class Resampler:
    """One direction between two rates.

    history: input samples needed before a block. delay_samples: the filter's latency in output samples.
    granularity_samples: a block is a whole multiple of this many input samples (10 ms).
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        assert from_hz != to_hz
        common = gcd(from_hz, to_hz)
        self._up, self._down = to_hz // common, from_hz // common
        assert 1 in (self._up, self._down), "one rate must be a multiple of the other"
        self.history = 2 * DELAY_LOW_SAMPLES * self._down
        self.delay_samples = DELAY_LOW_SAMPLES * self._up
        self.granularity_samples = from_hz // 100
        self._hop_samples = _WINDOW_LOW_SAMPLES * self._down
        self._matrix = _polyphase_matrix(self._up, self._down)
        self._ext = np.empty(0, np.int16)
        self._windows = np.empty(0, np.float32)
        self._products = np.empty(0, np.float32)

    def __call__(
        self, history: NDArray[np.int16], block: NDArray[np.int16], out: NDArray[np.int16] | None = None
    ) -> NDArray[np.int16]:
        """history (rows, self.history) and block (rows, n) → (rows, n · to / from). `out` may be a strided view."""
        rows, samples = block.shape
        assert samples % self.granularity_samples == 0
        assert history.shape == (rows, self.history)
        if out is None:
            out = np.empty((rows, samples * self._up // self._down), np.int16)
        chunk_rows = max(1, _CHUNK_LOW_SAMPLES * self._down // samples)
        for start in range(0, rows, chunk_rows):
            chunk = slice(start, start + chunk_rows)
            self._convert(history[chunk], block[chunk], out[chunk])
        return out

    def _convert(self, history: NDArray[np.int16], block: NDArray[np.int16], out: NDArray[np.int16]) -> None:
        rows, samples = block.shape
        ext_samples = self.history + samples
        self._make_room(rows * ext_samples, rows * (samples // self._hop_samples))
        ext = self._ext[: rows * ext_samples].reshape(rows, ext_samples)
        ext[:, : self.history] = history
        ext[:, self.history :] = block
        if rows >= _WORTH_SORTING_ROWS:
            heard = np.bitwise_or.reduce(ext.view(np.int64), axis=1).nonzero()[
                0
            ]  # each width is a multiple of 4 samples
            if 4 * len(heard) <= 3 * rows:
                out[...] = 0
                out[heard] = self._filter(ext[heard])
                return
        np.copyto(out, self._filter(ext), casting="unsafe")

    def _filter(self, ext: NDArray[np.int16]) -> NDArray[np.float32]:
        """Histories and blocks side by side (rows, history + n) → rounded, saturated (rows, output samples) in scratch."""
        rows, ext_samples = ext.shape
        window_samples, out_samples = self._matrix.shape
        windows_per_row = (ext_samples - self.history) // self._hop_samples
        windows = rows * windows_per_row
        row_stride, sample_stride = ext.strides
        overlapping: NDArray[np.int16] = np.ndarray(  # as_strided takes 8 us for the same
            (rows, windows_per_row, window_samples),
            np.int16,
            ext.data,
            strides=(row_stride, sample_stride * self._hop_samples, sample_stride),
        )
        gathered = self._windows[: windows * window_samples]
        gathered.reshape(overlapping.shape)[...] = overlapping  # also int16 → float32; BLAS takes no overlapping rows
        products = self._products[: windows * out_samples].reshape(windows, out_samples)
        np.matmul(gathered.reshape(windows, window_samples), self._matrix, out=products)
        products.clip(_LOWEST, _HIGHEST, out=products)
        np.rint(products, out=products)
        return products.reshape(rows, windows_per_row * out_samples)

    def _make_room(self, ext_samples: int, windows: int) -> None:
        """Scratch grows to the largest chunk seen and stays."""
        if ext_samples > len(self._ext):
            self._ext = np.empty(ext_samples, np.int16)
        window_samples, out_samples = self._matrix.shape
        if windows * window_samples > len(self._windows):
            self._windows = np.empty(windows * window_samples, np.float32)
            self._products = np.empty(windows * out_samples, np.float32)


def _polyphase_matrix(up: int, down: int) -> NDArray[np.float32]:
    """(window input samples, window output samples): column o holds the taps that meet the window's samples for output o."""
    taps = lowpass(max(up, down)) * up
    window_samples = (2 * DELAY_LOW_SAMPLES + _WINDOW_LOW_SAMPLES) * down
    matrix = np.zeros((window_samples, _WINDOW_LOW_SAMPLES * up), np.float32)
    newest = 2 * DELAY_LOW_SAMPLES * down  # the window's sample that output 0 coincides with, before the delay
    for output in range(matrix.shape[1]):
        coincident, phase = divmod(output * down, up)
        column = taps[phase::up]
        last = newest + coincident
        matrix[last - len(column) + 1 : last + 1, output] = column[::-1]
    return matrix


@cache
def resampler(from_hz: int, to_hz: int) -> Resampler:
    """The process's one Resampler for this direction; the first call designs its filter (some ms)."""
    return Resampler(from_hz, to_hz)
