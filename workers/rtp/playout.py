"""When does a packet play? The bank is the jitter buffer; this says where in it a packet goes.

Runs in: rtp. Pure: columns over legs, batches of packets that name each leg once.
Owns: the anchors (which bank sample an RTP timestamp is), and the delay they give each leg.

Time is counted in wake-ups of 5 ms: w = CLOCK_MONOTONIC // 5 ms. Wake-up i is the last before phase i % 4 mixes tick i // 4.
The slack of a packet is the number of wake-ups between the one that saw it and the last that would have done; below 0 it is late.

Rules
1. position = anchor_sample + (timestamp - anchor_timestamp, mod 2³²) in the bank's rate. Tick T begins at T * frame_samples.
2. Anchored anew (to the first tick mixed at least `margin_ms` after the arrival): the first packet, two in a row outside
   -1 s … +0.5 s, a marker bit after a gap, three late in a row at different wake-ups, and whenever the caller says `forget`.
3. A packet that begins in a tick already mixed is late; what of it lies in later ticks still plays. More than 28 ticks ahead is
   not kept.
4. `review` moves a leg by whole ticks so that less than 0.5 % is late, later at once and earlier only when nobody hears it.

Not here: writing the samples → listening.py; loss and jitter counters → reception.py.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

START_MARGIN_MS = 8.0
DELAY_LIMIT_MS = 500  # 25 ticks
AHEAD_LIMIT_TICKS = 28
LATE_SHARE = 0.005
_WAKE_MS = 5
_PER_TICK = 4  # wake-ups in a tick
_MIX_AFTER_WAKE_MS = 2
_SEEN_AFTER_MS = 2.5  # a packet is seen this long after its arrival, on average
_LATE_RUN = 3
_BINS = 128
_ZERO_BIN = 28  # of slack 0; slacks from -140 ms to +495 ms are told apart
_FORGET_SHARE = np.float32(1 / 20)  # a review a second: the memory is about 20 s
_REVIEW_LEAST = 40  # packets
_REBASE_AT = 1 << 24  # RTP clock units: long before the difference wraps


class Placement(NamedTuple):
    """Columns (k,) of one batch."""

    position: NDArray[np.int64]  # bank sample of the packet's first
    is_kept: NDArray[np.bool_]
    is_late: NDArray[np.bool_]
    is_anew: NDArray[np.bool_]
    first_tick: NDArray[np.int64]  # the first tick that the leg's room has not mixed yet


class Playout:
    """Columns over legs; `floor_ms` and `ceiling_ms` bound the delay that adaptation chooses."""

    def __init__(self, legs: int, floor_ms: int, ceiling_ms: int) -> None:
        self._floor_ms = floor_ms
        self._ceiling_ms = min(max(ceiling_ms, floor_ms), DELAY_LIMIT_MS)
        self.is_anchored = np.zeros(legs, np.bool_)
        self.anchor_sample = np.zeros(legs, np.int64)
        self.anchor_timestamp = np.zeros(legs, np.uint32)
        self.margin_ms = np.full(legs, max(START_MARGIN_MS, floor_ms), np.float32)
        self.phase = np.zeros(legs, np.int64)
        self.frame_samples = np.full(legs, 160, np.int64)  # of the bank
        self.up = np.ones(legs, np.int64)  # bank samples = RTP clock units * up // down
        self.down = np.ones(legs, np.int64)
        self._next_timestamp = np.zeros(legs, np.uint32)  # where the packet after the latest one begins
        self._strikes = np.zeros(legs, np.int8)
        self._late_run = np.zeros(legs, np.int8)
        self._late_wake = np.zeros(legs, np.int64)
        self._slacks = np.zeros((legs, _BINS), np.float32)

    def start(self, leg: int, frame_samples: int, clock_hz: int, phase: int) -> None:
        """A leg begins, on a bank of this frame length and with this RTP clock."""
        self.margin_ms[leg] = max(START_MARGIN_MS, self._floor_ms)
        self.set_rates(leg, frame_samples, clock_hz)
        self.phase[leg] = phase
        self.forget(leg)

    def set_rates(self, leg: int, frame_samples: int, clock_hz: int) -> None:
        """Another bank or clock; the anchor is only kept (scaled) where the clock stays."""
        if self.is_anchored[leg]:
            self.anchor_sample[leg] = int(self.anchor_sample[leg]) * frame_samples // int(self.frame_samples[leg])
        bank_hz = frame_samples * 50
        self.frame_samples[leg] = frame_samples
        self.up[leg], self.down[leg] = (bank_hz // clock_hz, 1) if bank_hz >= clock_hz else (1, clock_hz // bank_hz)

    def forget(self, leg: int) -> None:
        """The next packet is an anchor."""
        self.is_anchored[leg] = False
        self._strikes[leg] = self._late_run[leg] = 0
        self._slacks[leg] = 0

    def resume(self, leg: int, anchor_sample: int, anchor_timestamp: int, margin_ms: float) -> None:
        """Go on with the anchor of a process that died."""
        self.is_anchored[leg] = True
        self.anchor_sample[leg], self.anchor_timestamp[leg] = anchor_sample, anchor_timestamp
        self._next_timestamp[leg] = anchor_timestamp
        self.margin_ms[leg] = min(max(margin_ms, START_MARGIN_MS, self._floor_ms), self._ceiling_ms)

    def first_tick(self, legs: NDArray[np.int64], wake: int) -> NDArray[np.int64]:
        """The first tick that the room of each leg has not mixed yet."""
        return (wake + ((self.phase[legs] - wake) & (_PER_TICK - 1))) >> 2

    def place(
        self,
        legs: NDArray[np.int64],
        timestamp: NDArray[np.uint32],
        duration: NDArray[np.int64],
        marker: NDArray[np.bool_],
        wake: int,
    ) -> Placement:
        """One packet of each of `legs` (none twice), `duration` in RTP clock units, seen at `wake`."""
        delta = (timestamp - self.anchor_timestamp[legs]).view(np.int32).astype(np.int64)
        frame = self.frame_samples[legs]
        position = self.anchor_sample[legs] + delta * self.up[legs] // self.down[legs]
        first_tick = self.first_tick(legs, wake)
        ahead = position - first_tick * frame
        is_outside = (ahead < -50 * frame) | (ahead > 25 * frame)
        is_anew = ~self.is_anchored[legs]
        is_late = ahead < 0
        if is_outside.any() or self._strikes[legs].any():
            strikes = (self._strikes[legs] + 1) * is_outside
            self._strikes[legs] = strikes
            is_anew |= strikes >= 2
        if is_late.any():
            is_anew |= self._is_late_again(legs, is_late & ~is_outside, wake)
        else:
            self._late_run[legs] = 0
        if marker.any():
            is_anew |= marker & (timestamp != self._next_timestamp[legs])
        if is_anew.any():
            position[is_anew] = self._anchor(legs[is_anew], timestamp[is_anew], first_tick[is_anew], wake)
            is_late &= ~is_anew
            is_outside &= ~is_anew
        elif delta.max() > _REBASE_AT:
            self._rebase(legs, timestamp, delta, position)

        tick = position // frame
        end = timestamp + duration.astype(np.uint32)
        is_newer = (end - self._next_timestamp[legs]).view(np.int32) > 0
        self._next_timestamp[legs] = np.where(is_newer | is_anew, end, self._next_timestamp[legs])
        slack = (tick * _PER_TICK + self.phase[legs] - wake + _ZERO_BIN).clip(0, _BINS - 1)
        self._slacks[legs, slack] += ~is_outside
        is_kept = (tick <= first_tick + AHEAD_LIMIT_TICKS) & (
            position + duration * self.up[legs] // self.down[legs] > first_tick * frame
        )
        return Placement(position, is_kept, is_late, is_anew, first_tick)

    def _is_late_again(self, legs: NDArray[np.int64], is_late: NDArray[np.bool_], wake: int) -> NDArray[np.bool_]:
        run = self._late_run[legs]
        run = np.where(is_late, run + (self._late_wake[legs] != wake), 0).astype(np.int8)
        self._late_run[legs] = run
        self._late_wake[legs[is_late]] = wake
        again: NDArray[np.bool_] = run >= _LATE_RUN
        return again

    def _anchor(
        self, legs: NDArray[np.int64], timestamp: NDArray[np.uint32], first_tick: NDArray[np.int64], wake: int
    ) -> NDArray[np.int64]:
        """Anchor these packets at the start of a tick; returns their positions."""
        earliest_ms = (
            wake * _WAKE_MS - _SEEN_AFTER_MS - _MIX_AFTER_WAKE_MS + self.margin_ms[legs] - self.phase[legs] * _WAKE_MS
        )
        tick = np.maximum(np.ceil(earliest_ms / (_WAKE_MS * _PER_TICK)).astype(np.int64), first_tick)
        position = tick * self.frame_samples[legs]
        self.anchor_sample[legs] = position
        self.anchor_timestamp[legs] = timestamp
        self.is_anchored[legs] = True
        self._strikes[legs] = 0
        self._late_run[legs] = 0
        self._slacks[legs] = 0
        return position

    def _rebase(
        self,
        legs: NDArray[np.int64],
        timestamp: NDArray[np.uint32],
        delta: NDArray[np.int64],
        position: NDArray[np.int64],
    ) -> None:
        """Move old anchors up to the present packet: the same line through time, from a nearer point."""
        old = delta > _REBASE_AT
        rest = (delta % self.down[legs])[old].astype(np.uint32)
        self.anchor_timestamp[legs[old]] = timestamp[old] - rest
        self.anchor_sample[legs[old]] = position[old]

    # ------------------------------------------------------------------------------------------ adaptation

    def review(self, legs: NDArray[np.int64]) -> NDArray[np.int64]:
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
        self._slacks[legs] = slacks * (1 - _FORGET_SHARE)

        later = np.where((least < 0) & (late > 2), -(least // _PER_TICK), np.where(median < 1, 1, 0))
        room = (self._ceiling_ms - median * _WAKE_MS) // (_WAKE_MS * _PER_TICK)
        earlier = np.maximum(least - 1, 0) // _PER_TICK
        spare = (median * _WAKE_MS + _SEEN_AFTER_MS + _MIX_AFTER_WAKE_MS - self._floor_ms) // (_WAKE_MS * _PER_TICK)
        wanted = np.minimum(later, np.maximum(room, 0)) - np.minimum(earlier, np.maximum(spare, 0)).astype(np.int64)
        is_known = (total[:, 0] >= _REVIEW_LEAST) & self.is_anchored[legs]
        spread_ms = np.maximum(median - least, 1) * _WAKE_MS + START_MARGIN_MS - _WAKE_MS
        margin_ms = np.clip(spread_ms, max(START_MARGIN_MS, self._floor_ms), self._ceiling_ms)
        self.margin_ms[legs] = np.where(is_known, margin_ms, self.margin_ms[legs])
        return np.where(is_known, wanted, 0).astype(np.int64)

    def shift(self, leg: int, samples: int) -> None:
        """Play the leg `samples` later (> 0) or earlier (< 0) from now on."""
        self.anchor_sample[leg] += samples
        bins = round(samples * _PER_TICK / int(self.frame_samples[leg]))
        moved = np.zeros(_BINS, np.float32)
        if bins >= 0:
            moved[bins:] = self._slacks[leg, : _BINS - bins]
        else:
            moved[:bins] = self._slacks[leg, -bins:]
        self._slacks[leg] = moved

    def change_phase(self, leg: int, phase: int) -> int:
        """The leg is mixed at another phase: keep its delay above 0 and below a tick more. Returns the samples it moved by."""
        slacks = self._slacks[leg]
        moved_by = 0
        if self.is_anchored[leg] and slacks.any():
            least = (
                int((slacks.cumsum() > LATE_SHARE * slacks.sum()).argmax()) - _ZERO_BIN + phase - int(self.phase[leg])
            )
            frame = int(self.frame_samples[leg])
            moved_by = -(least // _PER_TICK) * frame
            self.shift(leg, moved_by)
            self._slacks[leg] = 0
        self.phase[leg] = phase
        return moved_by
