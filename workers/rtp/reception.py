"""How well is a leg received? Counters of RFC 3550 appendix A as columns over legs.

Runs in: rtp. Pure.
Owns: SSRC, sequence numbers, loss, and when a leg was heard last.

Rules
1. Loss is what the sequence numbers promise minus what came: reordering heals it, a new SSRC or a jump starts a new account.
2. The common case, the next number of the same stream for all, is a handful of calls: this runs for every packet.

Not here: jitter → playout.py, which knows how early everybody is.
"""

import numpy as np
from numpy.typing import NDArray

_JUMP = 3000  # RFC 3550 appendix A.1: MAX_DROPOUT
_BACK = -100
_NO_STREAM = -1
_NOBODY = np.zeros(0, np.int64)


class Reception:
    def __init__(self, legs: int) -> None:
        self.ssrc = np.full(legs, _NO_STREAM, np.int64)
        self.highest = np.zeros(legs, np.int64)  # extended by wrap-arounds
        self._first = np.zeros(legs, np.int64)  # extended sequence number that the present account begins with
        self._counted = np.zeros(legs, np.int64)  # packets in the present account
        self._counted_before = np.zeros(legs, np.int64)  # in closed accounts
        self._lost_before = np.zeros(legs, np.int64)
        self.late = np.zeros(legs, np.int64)
        self.last_wake = np.zeros(legs, np.int64)

    def start(self, leg: int, wake: int) -> None:
        for column in (self.highest, self._first, self._counted, self._counted_before, self._lost_before, self.late):
            column[leg] = 0
        self.ssrc[leg] = _NO_STREAM
        self.last_wake[leg] = wake

    def resume(self, leg: int, *, ssrc: int, highest: int, received: int, lost: int, late: int) -> None:
        """Go on with the counters of a process that died."""
        self.ssrc[leg], self.highest[leg], self._first[leg] = ssrc, highest, highest + 1
        self._counted[leg], self._counted_before[leg] = 0, received
        self._lost_before[leg], self.late[leg] = lost, late

    def update(
        self, legs: NDArray[np.int64], ssrc: NDArray[np.int64], sequence: NDArray[np.uint16], wake: int
    ) -> NDArray[np.int64]:
        """One packet of each of `legs` (none twice) → those of them that begin a new stream (another SSRC)."""
        highest = self.highest[legs]
        ahead = (sequence - highest.astype(np.uint16)).view(np.int16)
        is_new = ssrc != self.ssrc[legs]
        begun = _NOBODY
        if is_new.any() or not (ahead == 1).all():
            begun = legs[is_new]
            is_account = is_new | (ahead > _JUMP) | (ahead < _BACK)
            anew = legs[is_account]
            self._lost_before[anew] = self.lost(anew)
            self._counted_before[anew] += self._counted[anew]
            self._counted[anew] = 0
            self._first[anew] = sequence[is_account]
            self.ssrc[anew] = ssrc[is_account]
            highest += np.maximum(ahead, 0)
            highest[is_account] = sequence[is_account]
        else:
            highest += 1
        self.highest[legs] = highest
        self._counted[legs] += 1
        self.last_wake[legs] = wake
        return begun

    def is_started(self, leg: int) -> bool:
        return int(self.ssrc[leg]) != _NO_STREAM

    def received(self, legs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Packets, over all streams of the leg."""
        received: NDArray[np.int64] = self._counted_before[legs] + self._counted[legs]
        return received

    def lost(self, legs: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sequence gaps never filled, over all streams of the leg."""
        missing = self.highest[legs] - self._first[legs] + 1 - self._counted[legs]
        lost: NDArray[np.int64] = self._lost_before[legs] + np.maximum(missing, 0) * (self.ssrc[legs] != _NO_STREAM)
        return lost

    def expected(self, leg: int) -> tuple[int, int]:
        """(packets expected, packets lost) of the present stream, for RTCP report blocks."""
        expected = int(self.highest[leg] - self._first[leg]) + 1
        return expected, expected - int(self._counted[leg])
