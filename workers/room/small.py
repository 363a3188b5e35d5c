"""The tick of a group of few legs and sources: as `loop.mix_group`, with next to no numpy.

Runs in: a room worker, in the tick.
Owns: views of the bank as plain memory, and where the legs of one group lie in it.

Rules
1. A process that wakes for one small room finds cold caches: a call of numpy then costs 3 to 15 us, a slice of memory a tenth of
   that (decision 0005). Sums are still numpy's: two people talking at once are rarer than one.
2. The result is the same to the last bit; `tests/workers/room/test_mixer.py` runs both.
"""

import numpy as np
from numpy.typing import NDArray

from shm.bank import RX_SLOTS, TX_SLOTS, Bank
from workers.room.mixer import LOUDEST, NOWHERE, Batch, Indices, Plan
from workers.room.sources import Sources

FEW = 8  # legs, and sources
WORD_SAMPLES = 4


def words_of(samples: NDArray[np.int16]) -> memoryview:
    """Contiguous frames as plain memory, four samples a word."""
    return _memory(samples.reshape(-1).view(np.int64))


def _memory(words: NDArray[np.int64]) -> memoryview:
    return memoryview(words)  # type: ignore[arg-type]  # numpy's stubs know no buffer before Python 3.12


class Small:
    def __init__(self, bank: Bank, batch: Batch, noise: NDArray[np.int16] | None, sources: Sources | None) -> None:
        self._bank = bank
        self._rx, self._tx = words_of(bank.rx), words_of(bank.tx)
        self._rx_stamps, self._tx_stamps = _memory(bank.rx_stamps), _memory(bank.tx_stamps)
        size = self._size = bank.frame_samples // WORD_SAMPLES
        self._silence = _memory(np.zeros(size, np.int64))
        self._noise = words_of(noise) if noise is not None else self._silence[:0]
        self._noise_frames = len(noise) if noise is not None else 0
        rows: list[int] = batch.rows.tolist()
        self._rx_at = [row * RX_SLOTS for row in rows]
        self._tx_at = [row * TX_SLOTS for row in rows]
        self._bits = [1 << leg if audible else 0 for leg, audible in enumerate(batch.audible.tolist())]
        self._legs = len(rows)
        self._sources = sources
        positions: list[int] = sources.positions.tolist() if sources is not None else []
        self._played = words_of(sources.frames) if sources is not None else self._silence[:0]
        self._source_bits = [0 if position == NOWHERE else 1 << position for position in positions]
        self._source_of = {position: index for index, position in enumerate(positions)}

    def gather(self, tick: int) -> tuple[int, int]:
        """(who is heard in `tick` as bits, how many rows had no frame)"""
        slot, size = tick % RX_SLOTS, self._size
        rx, stamps, silence = self._rx, self._rx_stamps, self._silence
        talking = missing = 0
        for first, bit in zip(self._rx_at, self._bits, strict=True):
            at = first + slot
            if stamps[at] != tick:
                missing += 1
            elif bit and rx[at * size : (at + 1) * size] != silence:
                talking |= bit
        if self._sources is not None:
            for index, (sounds, bit) in enumerate(zip(self._sources.sounds, self._source_bits, strict=True)):
                if sounds and bit and self._played[index * size : (index + 1) * size] != silence:
                    talking |= bit
        return talking, missing

    def follow(self, talkers: Indices, plan: Plan) -> None:
        """Another set of talkers, and who hears what then."""
        self._plan = plan
        self._talkers: list[int] = talkers.tolist()
        self._room_totals: list[int] = plan.total_of_room.tolist()
        self._hears: list[int] = plan.hears.tolist()
        totals = zip(plan.total_rows.tolist(), plan.total_of.tolist(), strict=True)
        self._copies = [(row * TX_SLOTS, total) for row, total in totals]
        if plan.adds is not None:
            sums = len(plan.adds)
            self._copies += [(row * TX_SLOTS, sums + own) for own, row in enumerate(plan.own_rows.tolist())]
            self._prepare_sums(plan, plan.adds)

    def _prepare_sums(self, plan: Plan, adds: NDArray[np.float32]) -> None:
        """Each sum that is heard is a row of one matrix: a tick then takes one product, and makes no array."""
        own = adds[plan.own_total]
        own[np.arange(len(own)), plan.own_talker] -= 1
        self._weights = np.concatenate([adds, own, *([] if plan.alone is None else [plan.alone])])
        talkers, samples = len(self._talkers), self._bank.frame_samples
        self._frames = np.empty((talkers, samples), np.int16)
        self._floats = np.empty((talkers, samples), np.float32)
        self._sums = np.empty((len(self._weights), samples), np.float32)
        self._mixed = np.empty((len(self._weights), samples), np.int16)
        self._frame_words, self._mixed_words = words_of(self._frames), words_of(self._mixed)

    def tell(self, tick: int) -> None:
        """What the legs hear in `tick`, into their rows; whom each hears is the caller's to write before the stamps."""
        plan, size = self._plan, self._size
        out = tick % TX_SLOTS
        if plan.adds is not None:
            self._mix(tick)
        for first, mixed in self._copies:
            at = first + out
            self._tx[at * size : (at + 1) * size] = self._mixed_of(mixed, tick)
        if plan.noise_row >= 0:
            at, source = plan.noise_row * TX_SLOTS + out, tick % self._noise_frames
            self._tx[at * size : (at + 1) * size] = self._noise[source * size : (source + 1) * size]

    def _mix(self, tick: int) -> None:
        """As `mixer.mix`."""
        size, frames, sums = self._size, self._frame_words, self._sums
        for place, talker in enumerate(self._talkers):
            frames[place * size : (place + 1) * size] = self._frame_of(talker, tick)
        self._floats[:] = self._frames
        np.matmul(self._weights, self._floats, out=sums)
        np.minimum(sums, LOUDEST, out=sums)
        np.maximum(sums, -LOUDEST - 1, out=sums)
        self._mixed[:] = sums

    def _mixed_of(self, mixed: int, tick: int) -> memoryview:
        """A total or what a talker hears, by its place in the plan; where nothing is added up a total is a talker's frame."""
        if self._plan.adds is None:
            return self._frame_of(self._talkers[mixed], tick)
        return self._mixed_words[mixed * self._size : (mixed + 1) * self._size]

    def _frame_of(self, talker: int, tick: int) -> memoryview:
        """What a leg says or a source plays, by its position."""
        size = self._size
        if talker < self._legs:
            at = self._rx_at[talker] + tick % RX_SLOTS
            return self._rx[at * size : (at + 1) * size]
        at = self._source_of[talker]
        return self._played[at * size : (at + 1) * size]

    def stamp(self, tick: int) -> None:
        out, stamps = tick % TX_SLOTS, self._tx_stamps
        for first in self._tx_at:
            stamps[first + out] = tick

    # What recordings take, in words; None where nothing sounds

    def total(self, room: int, tick: int) -> memoryview | None:
        """A room's full mix."""
        size, total = self._size, self._room_totals[room]
        if total < 0:
            source = tick % self._noise_frames if self._noise_frames else 0
            return self._noise[source * size : (source + 1) * size] if self._noise_frames else None
        return self._mixed_of(total, tick)

    def said(self, row: int, tick: int) -> memoryview | None:
        """What a row says, muted or not."""
        at, size = row * RX_SLOTS + tick % RX_SLOTS, self._size
        return self._rx[at * size : (at + 1) * size] if self._rx_stamps[at] == tick else None

    def heard(self, leg: int, tick: int) -> memoryview | None:
        """What a leg hears."""
        row, size = self._hears[leg], self._size
        at = row * TX_SLOTS + tick % TX_SLOTS
        return self._tx[at * size : (at + 1) * size] if row >= 0 else None
