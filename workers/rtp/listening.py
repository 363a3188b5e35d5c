"""From packets to rows: decode, bring to the bank's rate, put where it plays, fill what is missing.

Runs in: rtp, in the loop.
Owns: bank.rx and bank.rx_tick of this process's rows; the wire samples kept for resampling; speech detection.

Rules
1. A packet of whole frames at the start of a slot, as nearly all are, is one gather, one decode, one scatter for all legs.
2. The first write to a slot for a new tick zeroes it; the stamp comes after the samples.
3. A slot missing when its phase is about to mix is concealed from the last good audio for three ticks, then left silent.
   After a telephone-event or comfort noise it is silence at once.

Not here: where it plays → playout.py; moving a leg in time (drift, adaptation) → pacing.py.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shm.bank import RX_SLOTS, Bank
from shm.clock import PHASES
from workers.audio import conceal as concealment
from workers.audio.resample import resampler
from workers.audio.speech import SpeechDetector, rms
from workers.rtp.codecs import WIRES, Decoders
from workers.rtp.legs import Legs
from workers.rtp.pacing import Pacing
from workers.rtp.packet import HEADER_BYTES, Headers
from workers.rtp.playout import Playout

LONGEST_FRAMES = 3  # 60 ms a packet
CONCEALED_TICKS = concealment.SILENT_AFTER_MS // 20
_TAIL_SAMPLES = 144  # the longest resampler history (48 to 8 kHz)
_NOBODY = np.zeros(0, np.int64)


@dataclass
class _Listeners:
    """The legs of one phase in one bank."""

    bank: Bank
    legs: NDArray[np.int64]
    rows: NDArray[np.int64]
    detecting: NDArray[np.int64]  # positions in `legs` whose speech is wanted


class Listening:
    def __init__(self, legs: Legs, playout: Playout) -> None:
        self._legs = legs
        self._playout = playout
        self._decoders = Decoders()
        self._pacing = Pacing(legs, playout)
        self._tails = np.zeros((legs.limit, _TAIL_SAMPLES), np.int16)
        self._tail_timestamp = np.zeros(legs.limit, np.uint32)
        self.gap_ticks = np.zeros(legs.limit, np.int64)  # ticks in a row that came without audio
        self.concealed = np.zeros(legs.limit, np.int64)
        self.is_detecting = np.zeros(legs.limit, np.bool_)
        self.speech = SpeechDetector(legs.limit)
        self._groups: list[list[_Listeners]] = [[] for _ in range(PHASES)]
        self._is_stale = False
        self.frames_concealed = 0

    def start(self, leg: int) -> None:
        self.gap_ticks[leg] = CONCEALED_TICKS
        self.concealed[leg] = 0
        self.is_detecting[leg] = False
        self.speech.reset(leg)
        self.restart_stream(np.array([leg], np.int64))

    def restart_stream(self, legs: NDArray[np.int64]) -> None:
        """A new SSRC or codec: nothing of the stream before is gone on with."""
        self._tails[legs] = 0
        for leg in legs.tolist():
            self._decoders.forget(leg)
            self._playout.forget(leg)
            self._pacing.forget(leg)

    def regroup(self) -> None:
        """Legs, rows, phases or wishes have changed: the groups are made anew when they are needed next."""
        self._is_stale = True

    def _regroup(self) -> None:
        self._is_stale = False
        active = self._legs.active
        phase = self._playout.phase[active]
        for number in range(PHASES):
            self._groups[number] = [
                _Listeners(bank, members, self._legs.row[members], np.nonzero(self.is_detecting[members])[0])
                for bank, members in self._legs.by_bank(active[phase == number])
            ]

    def fall_silent(self, leg: int) -> None:
        """What is missing from now on is meant to be: no concealment."""
        self.gap_ticks[leg] = CONCEALED_TICKS

    def review(self, legs: NDArray[np.int64]) -> None:
        """Once a second per leg: is the delay still right?"""
        self._pacing.review(legs)

    # ------------------------------------------------------------------------------------------ packets

    def hear(
        self, legs: NDArray[np.int64], codec: NDArray[np.uint8], headers: Headers, data: NDArray[np.uint8], wake: int
    ) -> NDArray[np.int64]:
        """One audio packet of each of `legs` (none twice); returns the legs whose packet was late."""
        key = (codec.astype(np.int64) << 16 | headers.payload_bytes) << 2 | self._legs.bank[legs]
        if (key == key[0]).all():
            return self._hear_alike(int(key[0]), legs, headers, data, wake)
        late = []
        for each in np.unique(key):
            chosen = key == each
            late.append(self._hear_alike(int(each), legs[chosen], headers.only(chosen), data[chosen], wake))
        return np.concatenate(late)

    def _hear_alike(
        self, key: int, legs: NDArray[np.int64], headers: Headers, data: NDArray[np.uint8], wake: int
    ) -> NDArray[np.int64]:
        """Packets of one codec, one length and one bank."""
        bank = self._legs.banks[key & 3]
        wire = WIRES[key >> 18]
        size = (key >> 2 & 0xFFFF) // wire.step_bytes * wire.step_bytes
        if not 0 < size <= LONGEST_FRAMES * wire.frame_bytes:
            return _NOBODY
        if (headers.payload_at == HEADER_BYTES).all():
            payload = data[:, HEADER_BYTES : HEADER_BYTES + size]
        else:
            payload = data[np.arange(len(data))[:, None], headers.payload_at[:, None] + np.arange(size)]
        samples = self._decoders.decode(key >> 18, legs, payload)
        units = samples.shape[1] * wire.clock_hz // wire.wire_hz
        duration = np.full(len(legs), units, np.int64)
        placed = self._playout.place(legs, headers.timestamp, duration, headers.marker, wake)
        if wire.wire_hz != bank.rate_hz:
            samples = self._convert(
                legs, headers.timestamp, samples, units=units, wire_hz=wire.wire_hz, bank_hz=bank.rate_hz
            )

        has_gap = (self.gap_ticks[legs] > 0) & placed.is_kept
        if has_gap.any():
            samples = self._return_from_gap(bank, legs, has_gap, samples, placed.first_tick)
        position, kept = placed.position, placed.is_kept
        if self._pacing.is_wanted:
            odd = self._pacing.apply(bank, legs, position, samples)
            for index, stretched in odd:
                if kept[index]:
                    one = slice(index, index + 1)
                    self._scatter(
                        bank, self._legs.row[legs[one]], position[one], stretched[None], placed.first_tick[one]
                    )
                kept[index] = False
        late: NDArray[np.int64] = legs[placed.is_late] if placed.is_late.any() else _NOBODY
        if kept.all():
            self._put(bank, self._legs.row[legs], position, samples, placed.first_tick)
        elif kept.any():
            self._put(bank, self._legs.row[legs[kept]], position[kept], samples[kept], placed.first_tick[kept])
        return late

    def _convert(
        self,
        legs: NDArray[np.int64],
        timestamp: NDArray[np.uint32],
        samples: NDArray[np.int16],
        *,
        units: int,
        wire_hz: int,
        bank_hz: int,
    ) -> NDArray[np.int16]:
        """To the bank's rate, going on from the packet before where this one follows it."""
        convert = resampler(wire_hz, bank_hz)
        history = self._tails[legs, -convert.history :]
        follows = timestamp == self._tail_timestamp[legs]
        if not follows.all():
            history[~follows] = 0
        count = samples.shape[1]
        if count >= convert.history:
            self._tails[legs, -convert.history :] = samples[:, -convert.history :]
        else:
            joined = np.concatenate((history, samples), axis=1)
            self._tails[legs, -convert.history :] = joined[:, -convert.history :]
        self._tail_timestamp[legs] = timestamp + np.uint32(units)
        short = -count % convert.granularity_samples
        if short:
            samples = np.pad(samples, ((0, 0), (0, short)))
        return convert(history, samples)[:, : count * bank_hz // wire_hz]

    def _return_from_gap(
        self,
        bank: Bank,
        legs: NDArray[np.int64],
        has_gap: NDArray[np.bool_],
        samples: NDArray[np.int16],
        first_tick: NDArray[np.int64],
    ) -> NDArray[np.int16]:
        """Cross-fade from what concealment would have gone on with, so that good audio returns without a click."""
        length = bank.rate_hz * concealment.FADE_IN_MS // 1000
        returning = legs[has_gap]
        gap = self.gap_ticks[returning]
        self.gap_ticks[returning] = 0
        if samples.shape[1] < length:
            return samples
        history = _history(bank, self._legs.row[returning], first_tick[has_gap] - 1 - gap)
        going_on = concealment.conceal(history, gap * bank.frame_samples, length, bank.rate_hz)
        samples[has_gap] = concealment.fade_in(going_on, samples[has_gap], bank.rate_hz)
        return samples

    def _put(
        self,
        bank: Bank,
        rows: NDArray[np.int64],
        position: NDArray[np.int64],
        samples: NDArray[np.int16],
        first_tick: NDArray[np.int64],
    ) -> None:
        """Samples (k, m) to bank positions (k,)."""
        frame = bank.frame_samples
        frames, rest = divmod(samples.shape[1], frame)
        tick = position // frame
        if rest or (tick * frame != position).any():
            self._scatter(bank, rows, position, samples, first_tick)
            return
        for number in range(frames):
            part = samples[:, number * frame : (number + 1) * frame]
            if frames > 1 and (tick < first_tick).any():
                heard = tick >= first_tick
                slot = tick[heard] & (RX_SLOTS - 1)
                bank.rx[rows[heard], slot] = part[heard]
                bank.rx_tick[rows[heard], slot] = tick[heard]
            else:
                slot = tick & (RX_SLOTS - 1)
                bank.rx[rows, slot] = part
                bank.rx_tick[rows, slot] = tick
            tick = tick + 1

    def _scatter(
        self,
        bank: Bank,
        rows: NDArray[np.int64],
        position: NDArray[np.int64],
        samples: NDArray[np.int16],
        first_tick: NDArray[np.int64],
    ) -> None:
        """The same for packets that fill parts of slots: sample by sample."""
        frame = bank.frame_samples
        sample = position[:, None] + np.arange(samples.shape[1])
        tick = sample // frame
        playable = tick >= first_tick[:, None]
        row = np.broadcast_to(rows[:, None], tick.shape)[playable]
        tick, sample, values = tick[playable], sample[playable], samples[playable]
        slot = tick & (RX_SLOTS - 1)
        is_edge = np.ones(len(tick), np.bool_)  # one entry for each run of samples in one slot
        is_edge[1:] = (slot[1:] != slot[:-1]) | (row[1:] != row[:-1])
        row_of, slot_of, tick_of = row[is_edge], slot[is_edge], tick[is_edge]
        is_new = bank.rx_tick[row_of, slot_of] != tick_of
        bank.rx[row_of[is_new], slot_of[is_new]] = 0
        bank.rx[row, slot, sample - tick * frame] = values
        bank.rx_tick[row_of, slot_of] = tick_of

    # ------------------------------------------------------------------------------------------ ticks

    def complete(self, tick: int, phase: int) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """Phase `phase` mixes `tick` in 2 ms: fill what is missing → the legs that began and those that ceased to speak."""
        if self._is_stale:
            self._regroup()
        started, stopped = [], []
        for group in self._groups[phase]:
            slot = tick & (RX_SLOTS - 1)
            missing = group.bank.rx_tick[group.rows, slot] != tick
            if missing.any():
                self._conceal(group, missing, tick)
            if len(group.detecting):
                rows = group.rows[group.detecting]
                level = rms(group.bank.rx[rows, slot])
                level[missing[group.detecting]] = 0
                begun, ceased = self.speech.update(group.legs[group.detecting], level)
                started.append(begun)
                stopped.append(ceased)
        if not started:
            return _NOBODY, _NOBODY
        return np.concatenate(started), np.concatenate(stopped)

    def _conceal(self, group: _Listeners, missing: NDArray[np.bool_], tick: int) -> None:
        legs, rows, bank = group.legs[missing], group.rows[missing], group.bank
        gap = self.gap_ticks[legs]
        self.gap_ticks[legs] = gap + 1
        last_good = tick - 1 - gap
        can = (gap < CONCEALED_TICKS) & (bank.rx_tick[rows, last_good & (RX_SLOTS - 1)] == last_good)
        if not can.any():
            return
        legs, rows, gap, last_good = legs[can], rows[can], gap[can], last_good[can]
        history = _history(bank, rows, last_good)
        filled = concealment.conceal(history, gap * bank.frame_samples, bank.frame_samples, bank.rate_hz)
        slot = tick & (RX_SLOTS - 1)
        bank.rx[rows, slot] = filled
        bank.rx_tick[rows, slot] = tick
        self.concealed[legs] += 1
        self.frames_concealed += len(legs)

    # ------------------------------------------------------------------------------------------ moves

    def carry_over(self, old: Bank, old_row: int, new: Bank, new_row: int, from_tick: int) -> None:
        """A leg goes to another bank: take along what is already placed for `from_tick` and later."""
        for tick in range(from_tick, from_tick + RX_SLOTS - 1):
            slot = tick & (RX_SLOTS - 1)
            if old.rx_tick[old_row, slot] != tick:
                continue
            frame = old.rx[old_row, slot][None]
            if old.rate_hz != new.rate_hz:
                convert = resampler(old.rate_hz, new.rate_hz)
                before = _history(old, np.array([old_row]), np.array([tick - 1]))
                frame = convert(before[:, -convert.history :], frame)
            new.rx[new_row, slot] = frame[0]
            new.rx_tick[new_row, slot] = tick


def _history(bank: Bank, rows: NDArray[np.int64], last_tick: NDArray[np.int64]) -> NDArray[np.int16]:
    """The 40 ms (k, 2 frames) that end with `last_tick`; what is not stamped is silence."""
    frame = bank.frame_samples
    history = np.empty((len(rows), 2 * frame), np.int16)
    for part, tick in ((history[:, :frame], last_tick - 1), (history[:, frame:], last_tick)):
        slot = tick & (RX_SLOTS - 1)
        part[:] = bank.rx[rows, slot]
        part[bank.rx_tick[rows, slot] != tick] = 0
    return history
