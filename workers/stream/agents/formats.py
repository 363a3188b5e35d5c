"""Audio between a vendor's format and ours, 16 kHz signed 16-bit little-endian mono; a stream, without seams between its pieces.

Runs in: stream.
Owns: what is carried from one piece of a stream to the next.

Rules
1. 8, 16 and 48 kHz by workers/audio/resample (1.5 ms of delay, up to 10 ms wait for the next piece); 22.05, 24 and 44.1 kHz by
   soxr (about 20 ms). What waits at the end of an utterance is the fade of its last sound; it precedes the next one.
2. Bytes that tear a sample or a pair of channels apart wait for the next piece.
3. Several channels become their mean.

Not here: which vendor wants what → its file.
"""

from collections.abc import Callable

import numpy as np
import soxr
from numpy.typing import NDArray

from workers.audio.g711 import ulaw_decode, ulaw_encode
from workers.audio.resample import RATES_HZ as OWN_RATES_HZ
from workers.audio.resample import resampler

ROOM_HZ = 16_000
MAX_CHANNELS = 8

Samples = NDArray[np.int16]


def is_rate(rate_hz: int) -> bool:
    """Whether it is a rate of audio at all."""
    return 8_000 <= rate_hz <= 48_000


class FromVendor:
    """A vendor's pieces → ours."""

    def __init__(self, rate_hz: int = ROOM_HZ, channels: int = 1, *, is_ulaw: bool = False) -> None:
        assert is_rate(rate_hz)
        assert 1 <= channels <= MAX_CHANNELS
        self.rate_hz = rate_hz
        self.channels = channels
        self._is_ulaw = is_ulaw
        self._frame_bytes = channels * (1 if is_ulaw else 2)
        self._torn = b""
        self._convert = _converter(rate_hz, ROOM_HZ)

    def __call__(self, piece: bytes) -> bytes:
        whole = self._torn + piece
        end = len(whole) // self._frame_bytes * self._frame_bytes
        self._torn = whole[end:]
        if self._is_ulaw:
            samples = ulaw_decode(np.frombuffer(whole[:end], np.uint8))
        else:
            samples = np.frombuffer(whole[:end], np.dtype("<i2"))
        if self.channels > 1:
            samples = np.rint(samples.reshape(-1, self.channels).mean(axis=1)).astype(np.int16)
        return self._convert(samples).tobytes()


class ToVendor:
    """Our chunks → a vendor's pieces."""

    def __init__(self, rate_hz: int = ROOM_HZ, *, is_ulaw: bool = False) -> None:
        assert is_rate(rate_hz)
        self._is_ulaw = is_ulaw
        self._convert = _converter(ROOM_HZ, rate_hz)

    def __call__(self, chunk: bytes) -> bytes:
        samples = self._convert(np.frombuffer(chunk, np.dtype("<i2")))
        return ulaw_encode(samples).tobytes() if self._is_ulaw else samples.tobytes()


def _converter(from_hz: int, to_hz: int) -> Callable[[Samples], Samples]:
    if from_hz == to_hz:
        return lambda samples: samples
    if from_hz in OWN_RATES_HZ and to_hz in OWN_RATES_HZ:
        return _Blocks(from_hz, to_hz)
    stream = soxr.ResampleStream(from_hz, to_hz, 1, dtype="int16", quality="LQ")  # better ones wait 40 ms
    return lambda samples: stream.resample_chunk(samples)


class _Blocks:
    """The stateless resampler of the banks, with the state that a stream needs: [history │ rest] of its input."""

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self._resample = resampler(from_hz, to_hz)
        self._piece_samples = (
            from_hz  # a burst is cut into seconds: the resampler's scratch grows to the longest block ever
        )
        self._before = np.zeros(self._resample.history, np.int16)

    def __call__(self, samples: Samples) -> Samples:
        history = self._resample.history
        held = np.concatenate([self._before, samples])
        done: list[Samples] = []
        while block := min(len(held) - history, self._piece_samples) // self._resample.granularity_samples:
            block *= self._resample.granularity_samples
            done.append(self._resample(held[None, :history], held[None, history : history + block])[0])
            held = held[block:]
        self._before = held
        return np.concatenate(done) if done else np.zeros(0, np.int16)
