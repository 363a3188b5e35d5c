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
from typing import NamedTuple

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
from workers.rtp.playout import Placement, Playout, pace

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
    has_gaps: bool = True  # some leg was missing at its last mix


class Batch(NamedTuple):
    """Audio packets (k,) of one codec, one length and one bank, each of another leg."""

    legs: NDArray[np.int64]
    codec: int
    bank: Bank
    timestamp: NDArray[np.uint32]
    payload: NDArray[np.uint8]  # (k, bytes)
    after_gap: NDArray[np.bool_] | None  # those that begin a talk spurt; None: none does


class Listening:
    def __init__(self, legs: Legs, playout: Playout) -> None:
        self._legs = legs
        self._playout = playout
        self._decoders = Decoders()
        self._pacing = Pacing(legs, playout)
        self._tails = np.zeros((legs.limit, _TAIL_SAMPLES), np.int16)
        self._tail_timestamp = np.zeros(legs.limit, np.uint32)
        self._gap_ticks = np.zeros(legs.limit, np.int64)  # ticks in a row that were mixed without audio of the peer
        self._is_silent = np.zeros(legs.limit, np.bool_)  # what is missing is meant to be: no concealment
        self.concealed = np.zeros(legs.limit, np.int64)
        self.is_detecting = np.zeros(legs.limit, np.bool_)
        self.speech = SpeechDetector(legs.limit)
        self._groups: list[list[_Listeners]] = [[] for _ in range(PHASES)]
        self._is_stale = False
        self._has_gaps = True
        self.frames_concealed = 0

    def start(self, leg: int) -> None:
        self._gap_ticks[leg] = CONCEALED_TICKS
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
        self._has_gaps = True
        active = self._legs.active
        phase = self._playout.phase[active]
        for number in range(PHASES):
            self._groups[number] = [
                _Listeners(bank, members, self._legs.row[members], np.nonzero(self.is_detecting[members])[0])
                for bank, members in self._legs.by_bank(active[phase == number])
            ]

    def fall_silent(self, leg: int) -> None:
        """What is missing from now on, until audio comes again, is meant to be: no concealment."""
        self._is_silent[leg] = True

    def review(self, legs: NDArray[np.int64], wake: int) -> None:
        """Once a second per leg: is the delay still right?"""
        self._pacing.review(legs, wake)

    # ------------------------------------------------------------------------------------------ packets

    def hear(self, batch: Batch, wake: int) -> NDArray[np.int64]:
        """Place, decode and write; returns the legs whose packet was late."""
        wire, bank, legs = WIRES[batch.codec], batch.bank, batch.legs
        size = batch.payload.shape[1] // wire.step_bytes * wire.step_bytes
        if not 0 < size <= LONGEST_FRAMES * wire.frame_bytes:
            return _NOBODY
        samples = self._decoders.decode(batch.codec, legs, batch.payload[:, :size])
        units = samples.shape[1] * wire.clock_hz // wire.wire_hz
        counts = pace(bank.rate_hz, wire.clock_hz)
        placed = self._playout.place(legs, batch.timestamp, units, counts, wake, batch.after_gap)
        if wire.wire_hz != bank.rate_hz:
            samples = self._convert(batch, samples, units=units, wire_hz=wire.wire_hz)
        rows = self._legs.row[legs]
        if placed.is_kept is None and not self._has_gaps and not self._pacing.is_wanted:
            self._put(bank, rows, placed.position, placed.tick, samples)
            return _NOBODY
        return self._hear_with_care(batch, rows, placed, samples, self._playout.first_tick(legs, wake))

    def _hear_with_care(
        self,
        batch: Batch,
        rows: NDArray[np.int64],
        placed: Placement,
        samples: NDArray[np.int16],
        first_tick: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Where some packet is late, returns from a gap or moves in time."""
        bank, legs = batch.bank, batch.legs
        kept = np.ones(len(legs), np.bool_) if placed.is_kept is None else placed.is_kept
        self._is_silent[legs] = False
        returns = self._gap_ticks[legs] > 0
        if returns.any():
            before = (placed.position - 1) // bank.frame_samples
            is_joined = (before >= first_tick) & (bank.rx_tick[rows, before & (RX_SLOTS - 1)] == before)
            returns &= kept & ~is_joined
            if returns.any():
                self._return_from_gap(bank, legs, returns, samples, first_tick)
        if self._pacing.is_wanted:
            for index, other in self._pacing.apply(bank, legs, placed.position, samples):
                if kept[index]:
                    one = slice(index, index + 1)
                    self._scatter(bank, rows[one], placed.position[one], other[None], first_tick[one])
                    kept[index] = False
        if kept.any():
            position = placed.position[kept]
            tick = position // bank.frame_samples
            if (tick < first_tick[kept]).any():
                self._scatter(bank, rows[kept], position, samples[kept], first_tick[kept])
            else:
                self._put(bank, rows[kept], position, tick, samples[kept])
        return _NOBODY if placed.is_late is None else legs[placed.is_late]

    def _convert(self, batch: Batch, samples: NDArray[np.int16], *, units: int, wire_hz: int) -> NDArray[np.int16]:
        """To the bank's rate, going on from the packet before where this one follows it."""
        legs, bank_hz = batch.legs, batch.bank.rate_hz
        convert = resampler(wire_hz, bank_hz)
        start = _TAIL_SAMPLES - convert.history
        history = self._tails[legs, start:]
        follows = batch.timestamp == self._tail_timestamp[legs]
        if not follows.all():
            history[~follows] = 0
        count = samples.shape[1]
        if count >= convert.history:
            self._tails[legs, start:] = samples[:, count - convert.history :]
        else:
            self._tails[legs, start:] = np.concatenate((history, samples), axis=1)[:, count:]
        self._tail_timestamp[legs] = batch.timestamp + np.uint32(units)
        short = -count % convert.granularity_samples
        if short:
            samples = np.pad(samples, ((0, 0), (0, short)))
        converted = convert(history, samples)
        return converted[:, : count * bank_hz // wire_hz] if short else converted

    def _return_from_gap(
        self,
        bank: Bank,
        legs: NDArray[np.int64],
        returns: NDArray[np.bool_],
        samples: NDArray[np.int16],
        first_tick: NDArray[np.int64],
    ) -> None:
        """Cross-fade, in place, from what concealment would have gone on with, so that good audio returns without a click."""
        length = bank.rate_hz * concealment.FADE_IN_MS // 1000
        if samples.shape[1] < length:
            return
        gap = self._gap_ticks[legs[returns]]
        history = _history(bank, self._legs.row[legs[returns]], first_tick[returns] - 1 - gap)
        going_on = concealment.conceal(history, gap * bank.frame_samples, length, bank.rate_hz)
        samples[returns] = concealment.fade_in(going_on, samples[returns], bank.rate_hz)

    def _put(
        self,
        bank: Bank,
        rows: NDArray[np.int64],
        position: NDArray[np.int64],
        tick: NDArray[np.int64],
        samples: NDArray[np.int16],
    ) -> None:
        """Samples (k, m) to bank positions (k,), which begin in `tick`."""
        frame = bank.frame_samples
        if samples.shape[1] % frame or (tick * frame != position).any():
            self._scatter(bank, rows, position, samples, tick)
            return
        first_slot = rows * RX_SLOTS
        for start in range(0, samples.shape[1], frame):
            at = first_slot + (tick & (RX_SLOTS - 1))
            bank.rx_frames[at] = samples[:, start : start + frame]
            bank.rx_stamps[at] = tick
            tick = tick + 1

    def _scatter(
        self,
        bank: Bank,
        rows: NDArray[np.int64],
        position: NDArray[np.int64],
        samples: NDArray[np.int16],
        first_tick: NDArray[np.int64],
    ) -> None:
        """The same for packets that fill parts of slots: sample by sample, what lies before `first_tick` left out."""
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
            if group.has_gaps or missing.any():
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
        gaps = self._gap_ticks[group.legs]
        self._gap_ticks[group.legs] = (gaps + 1) * missing
        group.has_gaps = bool(missing.any())
        self._has_gaps = any(each.has_gaps for groups in self._groups for each in groups)
        if not group.has_gaps:
            return
        legs, rows, bank, gap = group.legs[missing], group.rows[missing], group.bank, gaps[missing]
        last_good = tick - 1 - gap
        can = (
            (gap < CONCEALED_TICKS)
            & (bank.rx_tick[rows, last_good & (RX_SLOTS - 1)] == last_good)
            & ~self._is_silent[legs]
        )
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
