"""Rows of the banks as sessions see them: 16 kHz, 20 ms at a time.

Runs in: stream.
Owns: how a session reads and writes a row, whatever its rate; the resampler's history of each direction.

Rules
1. A `Tap` gives one chunk for every tick, silence where nothing was said or mixed. A tick not yet mixed when it is asked for is
   given at the next; a reader that comes later than the ring lasts loses what is gone.
2. A `Mouth` writes one frame for the tick that is mixed next, and only while the row is its own (`generation`).
3. A move holds from its tick on; between rates the resampler begins anew.

Not here: when → `tick.py`; what is queued → `playout.py`.
"""

import numpy as np
from numpy.typing import NDArray

from shm.bank import HEARS_NOTHING, RX_SLOTS, TX_SLOTS, Bank
from shm.messages import Row
from workers.audio.resample import resampler

SESSION_HZ = 16_000
CHUNK_SAMPLES = SESSION_HZ // 50
SILENCE = bytes(2 * CHUNK_SAMPLES)
RX_BEHIND_TICKS = RX_SLOTS - 7  # the writer may be 4 ahead of the mix
TX_BEHIND_TICKS = TX_SLOTS - 2

Frame = NDArray[np.int16]


class Tap:
    """Reads what a row's leg says (`side` "rx") or hears ("tx")."""

    def __init__(self, banks: dict[int, Bank], row: Row, side: str) -> None:
        self._banks = banks
        self._is_rx = side == "rx"
        self._row = row
        self._next_tick = 0
        self._begin()

    def _begin(self) -> None:
        rate_hz = self._row.rate_hz
        self._bank = self._banks[rate_hz]
        self._convert = None if rate_hz == SESSION_HZ else resampler(rate_hz, SESSION_HZ)
        self._history = np.zeros((1, self._convert.history if self._convert else 0), np.int16)

    def move(self, row: Row) -> None:
        """The same leg lives on another row from now on."""
        other_rate = row.rate_hz != self._row.rate_hz
        self._row = row
        if other_rate:
            self._begin()

    def read(self, mixed: int) -> list[bytes]:
        """Chunks of all ticks up to `mixed` not given before."""
        behind = RX_BEHIND_TICKS if self._is_rx else TX_BEHIND_TICKS
        if not self._next_tick:
            self._next_tick = mixed
        chunks: list[bytes] = []
        for tick in range(max(self._next_tick, mixed - behind), mixed + 1):
            frame = self._said(tick) if self._is_rx else self._heard(tick)
            if frame is None and tick == mixed and not self._is_rx:
                self._next_tick = tick  # its mixer is late: the next time
                return chunks
            chunks.append(self._converted(frame))
        self._next_tick = mixed + 1
        return chunks

    def _said(self, tick: int) -> Frame | None:
        slot, index = tick % RX_SLOTS, self._row.index
        return self._bank.rx[index, slot] if self._bank.rx_tick[index, slot] == tick else None

    def _heard(self, tick: int) -> Frame | None:
        slot, index = tick % TX_SLOTS, self._row.index
        if self._bank.tx_tick[index, slot] != tick:
            return None
        source = self._bank.tx_from[index, slot]
        if source == HEARS_NOTHING:
            return np.zeros(self._bank.frame_samples, np.int16)
        heard: Frame = self._bank.tx[source, slot]
        return heard

    def _converted(self, frame: Frame | None) -> bytes:
        if self._convert is None:
            return SILENCE if frame is None else frame.tobytes()
        if frame is None:
            frame = np.zeros(self._bank.frame_samples, np.int16)
        block = frame[None, :]
        chunk = self._convert(self._history, block).tobytes()
        self._history = np.concatenate([self._history, block], axis=1)[:, -self._convert.history :]
        return chunk


class Mouth:
    """Writes what a session says."""

    def __init__(self, banks: dict[int, Bank], row: Row) -> None:
        self._banks = banks
        self._row = row
        self._said_tick = 0
        self._begin()

    def _begin(self) -> None:
        rate_hz = self._row.rate_hz
        self._bank = self._banks[rate_hz]
        self._convert = None if rate_hz == SESSION_HZ else resampler(SESSION_HZ, rate_hz)
        self._history = np.zeros((1, self._convert.history if self._convert else 0), np.int16)

    def move(self, row: Row) -> None:
        """Another row from now on."""
        other_rate = row.rate_hz != self._row.rate_hz
        self._row = row
        if other_rate:
            self._begin()

    def say(self, mixed: int, chunk: bytes | None) -> None:
        """A chunk for the tick after `mixed`; None: nothing more to say."""
        tick = mixed + 1
        if tick <= self._said_tick:
            return
        if chunk is None:
            if not self._history.any():
                return
            chunk = SILENCE  # brings out what the resampler still holds
        frame = np.frombuffer(chunk, np.int16)
        if self._convert is not None:
            block = frame[None, :]
            frame = self._convert(self._history, block)[0]
            self._history = np.concatenate([self._history, block], axis=1)[:, -self._convert.history :]
        self._said_tick = tick
        index, slot = self._row.index, tick % RX_SLOTS
        if self._bank.leg["generation"][index] == self._row.generation:
            self._bank.rx[index, slot] = frame
            self._bank.rx_tick[index, slot] = tick
