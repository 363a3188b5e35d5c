"""When does a packet play? The bank is the jitter buffer; this says where in it a packet goes.

Runs in: rtp. Pure: columns over legs, batches of packets that name each leg once.
Owns: the anchors (which bank sample an RTP timestamp is), and the delay they give each leg.

Time is counted in wake-ups of 5 ms: w = CLOCK_MONOTONIC // 5 ms. Wake-up i is the last before phase i % 4 mixes tick i // 4.
The slack of a packet is the number of wake-ups between the one that saw it and the last that would have done; below 0 it is late.

Jitter is what RFC 3550 section 6.4.1 estimates, the mean difference of two packets' transit, from the memory of slacks: so it
costs nothing per packet, and has the resolution of wake-ups.

Rules
1. position = anchor_sample + (timestamp - anchor_timestamp, mod 2³²) in the bank's rate; tick T begins at T * frame_samples.
2. Anchored anew (to the first tick mixed at least `margin_ms` after the arrival): the first packet, two in a row outside
   -1 s … +0.5 s, one after a gap that begins a talk spurt, three late in a row or every second of eight (at different
   wake-ups), and whenever the caller says `forget`.
3. A packet that begins in a tick already mixed is late; what of it lies in later ticks still plays. More than 28 ticks ahead is
   not kept.
4. `review` moves a leg by whole ticks so that less than 0.5 % is late (the packets that a stall held back count as one), later
   at once and earlier only when nobody hears it.

Not here: writing the samples → listening.py; loss → reception.py.
"""

from functools import cache
from math import gcd
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shm.clock import PHASES, TICKS_PER_SECOND

START_MARGIN_MS = 8.0
DELAY_LIMIT_MS = 500  # 25 ticks
AHEAD_LIMIT_TICKS = 28
LATE_SHARE = 0.005
_WAKE_MS = 5
_MIX_AFTER_WAKE_MS = 2
_SEEN_AFTER_MS = 2.5  # a packet is seen this long after its arrival, on average
_LATE_WEIGHT, _LATE_LIMIT = 4, 12  # each late packet weighs four in time: three late in a row, or four of eight
_ZERO_BIN = 28  # of slack 0; slacks from -140 ms to +500 ms are told apart
_FORGET_SHARE = np.float32(1 / 20)  # a review a second: the memory is about 20 s
_REVIEW_LEAST = 40  # packets
_REBASE_TICKS = 50 * 600  # ten minutes: long before the difference of timestamps wraps
_SLACK_LIMIT = 100  # wake-ups: 0.5 s ahead; twice as much behind
_BINS = _ZERO_BIN + _SLACK_LIMIT + 1  # every slack within the limits has one
_STRIKES = 2
_NOWHERE = -(1 << 60)  # the anchor of a leg that has none: everything comes out far too late


class Pace(NamedTuple):
    """How a bank and an RTP clock count: bank samples = clock units * up // down."""

    frame_samples: int
    up: int
    down: int

    @property
    def clock_step(self) -> int:
        """RTP clock units in a tick."""
        return self.frame_samples * self.down // self.up


@cache
def pace(bank_hz: int, clock_hz: int) -> Pace:
    """One of the two is a multiple of the other."""
    up, down = (bank_hz // clock_hz, 1) if bank_hz >= clock_hz else (1, clock_hz // bank_hz)
    return Pace(bank_hz // TICKS_PER_SECOND, up, down)


class Placement(NamedTuple):
    """Columns (k,) of one batch."""

    position: NDArray[np.int64]  # bank sample of the packet's first
    tick: NDArray[np.int64]  # the one that it lies in
    is_kept: NDArray[np.bool_] | None  # None: all are, and none is late
    is_late: NDArray[np.bool_] | None


class Playout:
    """Columns over legs; `floor_ms` and `ceiling_ms` bound the delay that adaptation chooses."""

    def __init__(self, legs: int, floor_ms: int, ceiling_ms: int) -> None:
        self._floor_ms = floor_ms
        self._ceiling_ms = min(max(ceiling_ms, floor_ms), DELAY_LIMIT_MS)
        self.anchor_sample = np.full(legs, _NOWHERE, np.int64)
        self.anchor_timestamp = np.zeros(legs, np.uint32)
        self.margin_ms = np.full(legs, max(START_MARGIN_MS, floor_ms), np.float32)
        self.jitter_ms = np.zeros(legs, np.float32)
        self.phase = np.zeros(legs, np.int64)
        self.frame_samples = np.full(legs, 160, np.int64)  # of the bank
        self.clock_step = np.full(legs, 160, np.int64)  # RTP clock units in a tick
        self._strikes = np.zeros(legs, np.int8)
        self._late_run = np.zeros(legs, np.int8)
        self._late_wake = np.zeros(legs, np.int64)
        self._is_wary = False  # some leg has strikes or a late run
        self._slacks = np.zeros((legs, _BINS), np.float32)

    def start(self, leg: int, bank_hz: int, clock_hz: int, phase: int) -> None:
        """A leg begins, on a bank of this rate and with this RTP clock."""
        self.margin_ms[leg] = max(START_MARGIN_MS, self._floor_ms)
        self.jitter_ms[leg] = 0
        self.forget(leg)
        self.set_pace(leg, bank_hz, clock_hz)
        self.phase[leg] = phase

    def set_pace(self, leg: int, bank_hz: int, clock_hz: int) -> None:
        """Another bank or clock. A leg keeps its anchor, scaled; with another clock the caller forgets it."""
        counts = pace(bank_hz, clock_hz)
        if self.is_anchored(leg):
            self.anchor_sample[leg] = (
                int(self.anchor_sample[leg]) * counts.frame_samples // int(self.frame_samples[leg])
            )
        self.frame_samples[leg], self.clock_step[leg] = counts.frame_samples, counts.clock_step

    def is_anchored(self, leg: int) -> bool:
        return int(self.anchor_sample[leg]) != _NOWHERE

    def forget(self, leg: int) -> None:
        """The next packet is an anchor."""
        self.anchor_sample[leg] = _NOWHERE
        self._strikes[leg] = self._late_run[leg] = 0
        self._slacks[leg] = 0

    def resume(self, leg: int, anchor_sample: int, anchor_timestamp: int, margin_ms: float) -> None:
        """Go on with the anchor of a process that died."""
        self.anchor_sample[leg], self.anchor_timestamp[leg] = anchor_sample, anchor_timestamp
        self.margin_ms[leg] = min(max(margin_ms, START_MARGIN_MS, self._floor_ms), self._ceiling_ms)

    def first_tick(self, legs: NDArray[np.int64], wake: int) -> NDArray[np.int64]:
        """The first tick that the room of each leg has not mixed yet."""
        tick: NDArray[np.int64] = (wake + ((self.phase[legs] - wake) & (PHASES - 1))) // PHASES
        return tick

    def place(  # noqa: PLR0917 - a batch is its columns
        self,
        legs: NDArray[np.int64],
        timestamp: NDArray[np.uint32],
        units: int,
        counts: Pace,
        wake: int,
        after_gap: NDArray[np.bool_] | None = None,
    ) -> Placement:
        """One packet of `units` RTP clock units of each of `legs` (none twice, all at one pace), seen at `wake`.

        `after_gap`: those that begin a talk spurt.
        """
        delta = (timestamp - self.anchor_timestamp[legs]).view(np.int32).astype(np.int64)
        if counts.up > 1:
            delta *= counts.up
        elif counts.down > 1:
            delta //= counts.down
        position = self.anchor_sample[legs] + delta
        tick = position // counts.frame_samples
        slack = tick * PHASES + self.phase[legs] - wake
        if after_gap is None and not self._is_wary and slack.min() >= 0 and slack.max() <= _SLACK_LIMIT:
            self._slacks[legs, slack + _ZERO_BIN] += 1
            return Placement(position, tick, None, None)
        return self._place_with_care(legs, timestamp, units, counts, wake, position, slack, after_gap)

    def _place_with_care(  # noqa: PLR0917 - what `place` knows
        self,
        legs: NDArray[np.int64],
        timestamp: NDArray[np.uint32],
        units: int,
        counts: Pace,
        wake: int,
        position: NDArray[np.int64],
        slack: NDArray[np.int64],
        after_gap: NDArray[np.bool_] | None,
    ) -> Placement:
        """Where some packet is early, late, or an anchor."""
        frame = counts.frame_samples
        is_anew = self.anchor_sample[legs] == _NOWHERE
        is_outside = ((slack < -_SLACK_LIMIT * 2) | (slack > _SLACK_LIMIT)) & ~is_anew
        strikes = (self._strikes[legs] + 1) * is_outside
        is_late = (slack < 0) & ~is_outside & ~is_anew
        is_again = is_late & (self._late_wake[legs] == wake)  # a burst after a stall is one event
        run = np.maximum(self._late_run[legs] + np.where(is_late, _LATE_WEIGHT * ~is_again, -1), 0)
        self._strikes[legs], self._late_run[legs] = strikes, run
        self._late_wake[legs[is_late]] = wake
        is_anew |= (strikes >= _STRIKES) | (run >= _LATE_LIMIT)
        if after_gap is not None:
            is_anew |= after_gap
        if is_anew.any():
            position[is_anew] = self._anchor(legs[is_anew], timestamp[is_anew], units, counts, wake)
            is_late &= ~is_anew
            is_outside &= ~is_anew
        self._is_wary = bool(self._strikes.any() or self._late_run.any())
        tick = position // frame
        slack = tick * PHASES + self.phase[legs] - wake
        self._slacks[legs, (slack + _ZERO_BIN).clip(0, _BINS - 1)] += ~(is_outside | is_again)
        end = position + units * counts.up // counts.down
        is_kept = (slack // PHASES <= AHEAD_LIMIT_TICKS) & (end > self.first_tick(legs, wake) * frame)
        return Placement(position, tick, is_kept, is_late)

    def _anchor(
        self, legs: NDArray[np.int64], timestamp: NDArray[np.uint32], units: int, counts: Pace, wake: int
    ) -> NDArray[np.int64]:
        """Anchor these packets at the start of a tick; returns their positions.

        Packets that do not fill whole ticks will also begin within a tick, and then must be there for the same mix though they come
        later: the margin grows by the latest such beginning (10 ms for packets of 10 and 30 ms, none for 20, 40 and 60).
        """
        step = counts.clock_step
        within_ms = _WAKE_MS * PHASES * (step - gcd(units, step)) / step
        arrival_ms = wake * _WAKE_MS - _SEEN_AFTER_MS + within_ms
        earliest_ms = (
            arrival_ms + self.margin_ms[legs].astype(np.float64) - self.phase[legs] * _WAKE_MS - _MIX_AFTER_WAKE_MS
        )
        tick = np.maximum(np.ceil(earliest_ms / (_WAKE_MS * PHASES)).astype(np.int64), self.first_tick(legs, wake))
        position = tick * counts.frame_samples
        self.anchor_sample[legs] = position
        self.anchor_timestamp[legs] = timestamp
        self._strikes[legs] = 0
        self._late_run[legs] = 0
        self._slacks[legs] = 0
        return position

    # ------------------------------------------------------------------------------------------ adaptation

    def review(self, legs: NDArray[np.int64], wake: int) -> NDArray[np.int64]:
        """Once a second per leg → the ticks (k,) by which each should play later (> 0) or earlier (< 0); see `shift`.

        Later: more than 0.5 % came late, or (a sender slower than we are) half of all come at the last wake-up possible.
        Earlier: even with a tick less, all but 0.5 % would come a whole wake-up before the last.
        """
        slacks = self._slacks[legs]
        cumulated = slacks.cumsum(axis=1)
        total = cumulated[:, -1:]
        least = (cumulated > LATE_SHARE * total).argmax(axis=1) - _ZERO_BIN
        median = (cumulated > total / 2).argmax(axis=1) - _ZERO_BIN
        late = cumulated[:, _ZERO_BIN - 1]
        share = cumulated / np.maximum(total, 1)
        self.jitter_ms[legs] = 2 * _WAKE_MS * (share * (1 - share)).sum(axis=1)
        self._slacks[legs] = slacks * (1 - _FORGET_SHARE)

        later = np.where((least < 0) & (late > 2), -(least // PHASES), np.where(median < 1, 1, 0))
        room = (self._ceiling_ms - median * _WAKE_MS) // (_WAKE_MS * PHASES)
        earlier = np.maximum(least - 1, 0) // PHASES
        spare = (median * _WAKE_MS + _SEEN_AFTER_MS + _MIX_AFTER_WAKE_MS - self._floor_ms) // (_WAKE_MS * PHASES)
        wanted = np.minimum(later, np.maximum(room, 0)) - np.minimum(earlier, np.maximum(spare, 0)).astype(np.int64)
        is_known = total[:, 0] >= _REVIEW_LEAST
        spread_ms = np.maximum(median - least, 1) * _WAKE_MS + START_MARGIN_MS - _WAKE_MS
        margin_ms = np.clip(spread_ms, max(START_MARGIN_MS, self._floor_ms), self._ceiling_ms)
        self.margin_ms[legs] = np.where(is_known, margin_ms, self.margin_ms[legs])
        self._rebase(legs, wake // PHASES)
        return np.where(is_known, wanted, 0).astype(np.int64)

    def _rebase(self, legs: NDArray[np.int64], tick: int) -> None:
        """Move old anchors along their line through time, by whole ticks."""
        old_ticks = tick - self.anchor_sample[legs] // self.frame_samples[legs]
        is_old = (old_ticks > _REBASE_TICKS) & (self.anchor_sample[legs] != _NOWHERE)
        if is_old.any():
            old, by = legs[is_old], old_ticks[is_old]
            self.anchor_sample[old] += by * self.frame_samples[old]
            self.anchor_timestamp[old] += (by * self.clock_step[old]).astype(np.uint32)

    def shift(self, leg: int, samples: int) -> None:
        """Play the leg `samples` later (> 0) or earlier (< 0) from now on."""
        self.anchor_sample[leg] += samples
        bins = round(samples * PHASES / int(self.frame_samples[leg]))
        moved = np.zeros(_BINS, np.float32)
        if bins >= 0:
            moved[bins:] = self._slacks[leg, : _BINS - bins]
        else:
            moved[:bins] = self._slacks[leg, -bins:]
        self._slacks[leg] = moved

    def change_phase(self, leg: int, phase: int) -> int:
        """The leg is mixed at another phase: keep its delay above 0 (or the floor) and below a tick more. Returns the samples it
        moved by."""
        slacks = self._slacks[leg]
        moved_by = 0
        if slacks.any():
            least = (
                int((slacks.cumsum() > LATE_SHARE * slacks.sum()).argmax()) - _ZERO_BIN + phase - int(self.phase[leg])
            )
            frame = int(self.frame_samples[leg])
            spare_ms = least * _WAKE_MS + _SEEN_AFTER_MS + _MIX_AFTER_WAKE_MS - self._floor_ms
            moved_by = -min(least // PHASES, int(spare_ms // (_WAKE_MS * PHASES))) * frame
            self.shift(leg, moved_by)
            self._slacks[leg] = 0
        self.phase[leg] = phase
        return moved_by
