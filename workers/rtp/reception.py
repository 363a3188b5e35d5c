"""How well is a leg received? Counters of RFC 3550 appendix A as columns over legs.

Runs in: rtp. Pure.
Owns: SSRC, sequence numbers, loss, jitter and times of what arrives.

Rules
1. Loss is what the sequence numbers promise minus what came: reordering heals it, a new SSRC or a jump starts a new account.
2. Jitter is measured at wake-ups, so in steps of 5 ms; the average (RFC 3550 section 6.4.1) is right, a single value is not.
"""

import numpy as np
from numpy.typing import NDArray

_JUMP = 3000  # RFC 3550 appendix A.1: MAX_DROPOUT
_BACK = -100


class Reception:
    def __init__(self, legs: int) -> None:
        self.ssrc = np.zeros(legs, np.uint32)
        self.is_started = np.zeros(legs, np.bool_)
        self.highest = np.zeros(legs, np.int64)  # extended by wrap-arounds
        self._first = np.zeros(legs, np.int64)  # extended sequence number that the present account begins with
        self._counted = np.zeros(legs, np.int64)  # packets in the present account
        self._lost_before = np.zeros(legs, np.int64)  # of closed accounts
        self.received = np.zeros(legs, np.int64)
        self.late = np.zeros(legs, np.int64)
        self.jitter = np.zeros(legs, np.float64)  # RTP clock units
        self.last_wake = np.zeros(legs, np.int64)
        self._transit = np.zeros(legs, np.uint32)

    def start(self, leg: int, wake: int) -> None:
        for column in (
            self.is_started,
            self._lost_before,
            self.received,
            self.late,
            self.jitter,
            self._counted,
            self.highest,
        ):
            column[leg] = 0
        self._first[leg] = 0
        self.last_wake[leg] = wake

    def resume(self, leg: int, *, ssrc: int, highest: int, received: int, lost: int, late: int, jitter: float) -> None:
        """Go on with the counters of a process that died."""
        self.ssrc[leg], self.highest[leg], self.received[leg] = ssrc, highest, received
        self.late[leg], self.jitter[leg], self._lost_before[leg] = late, jitter, lost
        self._first[leg], self._counted[leg] = highest + 1, 0
        self.is_started[leg] = True

    def update(
        self,
        legs: NDArray[np.int64],
        ssrc: NDArray[np.uint32],
        sequence: NDArray[np.uint16],
        wake: int,
    ) -> NDArray[np.bool_]:
        """One packet of each of `legs` (none twice) → which of them begin a new stream (another SSRC)."""
        highest = self.highest[legs]
        ahead = (sequence - highest.astype(np.uint16)).view(np.int16).astype(np.int64)
        is_new: NDArray[np.bool_] = (ssrc != self.ssrc[legs]) | ~self.is_started[legs]
        is_account = is_new | (ahead > _JUMP) | (ahead < _BACK)
        if is_account.any():
            anew = legs[is_account]
            self._lost_before[anew] = self.lost(anew)
            self._counted[anew] = 0
            self._first[anew] = highest[is_account] = sequence[is_account]
            ahead[is_account] = 0
            self.ssrc[anew] = ssrc[is_account]
            self.is_started[anew] = True
        self.highest[legs] = highest + np.maximum(ahead, 0)
        self._counted[legs] += 1
        self.received[legs] += 1
        self.last_wake[legs] = wake
        return is_new

    def measure_jitter(
        self,
        legs: NDArray[np.int64],
        timestamp: NDArray[np.uint32],
        arrival: NDArray[np.int64],
        is_new: NDArray[np.bool_],
    ) -> None:
        """Audio packets only; `arrival` in RTP clock units."""
        transit = arrival.astype(np.uint32) - timestamp
        step = np.abs((transit - self._transit[legs]).view(np.int32)).astype(np.float64)
        step[is_new | (step > _JUMP * 16)] = 0
        self._transit[legs] = transit
        jitter = self.jitter[legs]
        self.jitter[legs] = jitter + (step - jitter) / 16

    def lost(self, legs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sequence gaps never filled, over all streams of the leg."""
        missing = self.highest[legs] - self._first[legs] + 1 - self._counted[legs]
        lost: NDArray[np.int64] = self._lost_before[legs] + np.maximum(missing, 0) * self.is_started[legs]
        return lost

    def expected(self, leg: int) -> tuple[int, int]:
        """(packets expected, packets lost) of the present stream, for RTCP report blocks."""
        expected = int(self.highest[leg] - self._first[leg]) + 1
        return expected, expected - int(self._counted[leg])
