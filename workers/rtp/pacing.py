"""Moving a leg in time without anybody hearing it: drift of its clock, and the adapted delay.

Runs in: rtp, in the loop, for the few legs that `Playout.review` wants moved.
Owns: what is wanted and since when.

Rules
1. In silence by whole ticks, and there a leg that lies across slots is put straight again.
2. More than a tick later at once: so much comes too late that it is heard anyway.
3. Speech that does not pause within PATIENCE packets is stretched or shortened by one pitch period at a time.
"""

import numpy as np
from numpy.typing import NDArray

from shm.bank import RX_SLOTS, Bank
from workers.audio.speech import rms
from workers.audio.stretch import drop_period, insert_period
from workers.rtp.legs import Legs
from workers.rtp.playout import Playout

SILENCE_RMS = 60.0
PATIENCE = 100  # packets


class Pacing:
    def __init__(self, legs: Legs, playout: Playout) -> None:
        self._legs = legs
        self._playout = playout
        self._wanted: dict[int, tuple[int, int]] = {}  # leg → ticks, packets waited

    @property
    def is_wanted(self) -> bool:
        return bool(self._wanted)

    def forget(self, leg: int) -> None:
        self._wanted.pop(leg, None)

    def review(self, legs: NDArray[np.int64], wake: int) -> None:
        """Ask once a second for each leg."""
        ticks = self._playout.review(legs, wake)
        is_bent = self._playout.anchor_sample[legs] % self._playout.frame_samples[legs] != 0
        for leg, wanted, bent in zip(legs.tolist(), ticks.tolist(), is_bent.tolist(), strict=True):
            if wanted > 1:
                self._playout.shift(leg, wanted * int(self._playout.frame_samples[leg]))
                self._wanted.pop(leg, None)
            elif wanted or bent:
                self._wanted[leg] = wanted, self._wanted.get(leg, (0, 0))[1]
            else:
                self._wanted.pop(leg, None)

    def apply(
        self, bank: Bank, legs: NDArray[np.int64], position: NDArray[np.int64], samples: NDArray[np.int16]
    ) -> list[tuple[int, NDArray[np.int16]]]:
        """For a batch about to be placed: moves `position` where a leg is silent; returns (index, other samples) where it is not
        and has waited long enough."""
        stretched = []
        for index in np.nonzero(np.isin(legs, list(self._wanted)))[0].tolist():
            leg = int(legs[index])
            ticks, waited = self._wanted[leg]
            frame = bank.frame_samples
            if rms(samples[index : index + 1])[0] < SILENCE_RMS:
                moved_by = ticks * frame + -int(position[index]) % frame
                self._playout.shift(leg, moved_by)
                position[index] += moved_by
                del self._wanted[leg]
            elif waited < PATIENCE or not ticks or samples.shape[1] * 100 < bank.rate_hz:
                self._wanted[leg] = ticks, waited + 1
            else:
                before = _before(bank, int(self._legs.row[leg]), int(position[index]))
                change = insert_period if ticks > 0 else drop_period
                other = change(samples[index], before, bank.rate_hz)
                self._playout.shift(leg, len(other) - samples.shape[1])
                stretched.append((index, other))
                del self._wanted[leg]
        return stretched


def _before(bank: Bank, row: int, position: int) -> NDArray[np.int16]:
    """The 20 ms of a row that end where `position` begins; silence where they are gone."""
    sample = np.arange(position - bank.frame_samples, position)
    tick = sample // bank.frame_samples
    slot = tick & (RX_SLOTS - 1)
    before: NDArray[np.int16] = bank.rx[row, slot, sample % bank.frame_samples]
    before[bank.rx_tick[row, slot] != tick] = 0
    return before
