"""The legs of this process: who they are, and the columns that more than one stage reads.

Runs in: rtp.
Owns: which index belongs to which leg, its row, its phase, what its payload types mean.

Rules
1. Columns are for what is read per packet or per tick; what changes rarely stands in the `Leg` object.
2. An index is given out again last: completions and packets of the leg before are long gone.
3. Columns of one stage only (playout, reception, sending) stand there.
"""

import socket
from collections import deque
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shm.bank import RATES_HZ, Bank
from shm.messages import Media, OpenLeg, Row
from workers.rtp.dtmf import DigitReader, DigitSender
from workers.rtp.latch import Latch

NO_ROOM = -1


@dataclass
class Leg:
    leg_id: str
    index: int
    row: Row
    host: str
    port: int
    sock: socket.socket
    own: bytes  # packed address that the socket is bound to
    media: Media | None = None
    agreed: bytes | None = None  # packed address of SDP; None: nowhere to send to
    peer: bytes | None = None  # packed address latched, kept while listening anew
    latch: Latch = field(default_factory=Latch)
    digits_in: DigitReader = field(default_factory=DigitReader)
    digits_out: DigitSender = field(default_factory=DigitSender)
    is_timed_out: bool = False
    control_sock: socket.socket | None = None  # RTCP on port + 1


class Legs:
    def __init__(self, limit: int, banks: dict[int, Bank]) -> None:
        self.limit = limit
        self.banks = [banks[rate_hz] for rate_hz in RATES_HZ]
        self.by_id: dict[str, Leg] = {}
        self._by_index: dict[int, Leg] = {}
        self._free = deque(range(limit))
        self.active = np.zeros(0, np.int64)  # indexes in use, ascending
        self.only_bank: int | None = None  # the bank that all rows are in, if it is one
        self.bank = np.zeros(limit, np.int64)  # index into `banks`
        self.row = np.zeros(limit, np.int64)
        self.phase = np.full(limit, NO_ROOM, np.int64)
        self.codec_of = np.zeros((limit, 128), np.uint8)  # payload type → id of codecs.py
        self.clock_hz = np.full(limit, 8000, np.int64)  # RTP clock of what arrives
        self.is_receiving = np.zeros(limit, np.bool_)
        self.is_latched = np.zeros(limit, np.bool_)

    def __getitem__(self, index: int) -> Leg:
        return self._by_index[index]

    @property
    def is_full(self) -> bool:
        return not self._free

    def open(self, command: OpenLeg, sock: socket.socket, own: bytes) -> Leg:
        """A new leg on the socket bound to the packed address `own`. Ask `is_full` first."""
        leg = Leg(command.leg_id, self._free.popleft(), command.row, command.host, command.port, sock, own)
        self.by_id[leg.leg_id] = self._by_index[leg.index] = leg
        self.codec_of[leg.index] = 0
        self.is_receiving[leg.index] = self.is_latched[leg.index] = False
        self.phase[leg.index] = NO_ROOM
        self.move(leg, command.row)
        return leg

    def close(self, leg: Leg) -> None:
        del self.by_id[leg.leg_id], self._by_index[leg.index]
        self._free.append(leg.index)
        self._list()

    def move(self, leg: Leg, row: Row) -> None:
        leg.row = row
        self.bank[leg.index] = RATES_HZ.index(row.rate_hz)
        self.row[leg.index] = row.index
        self._list()

    def bank_of(self, leg: Leg) -> Bank:
        return self.banks[int(self.bank[leg.index])]

    def owns_row(self, leg: Leg) -> bool:
        """False once control has given the row to somebody else."""
        return int(self.bank_of(leg).leg["generation"][leg.row.index]) == leg.row.generation

    def by_bank(self, indexes: NDArray[np.int64]) -> list[tuple[Bank, NDArray[np.int64]]]:
        """Indexes, split by the bank that their rows are in."""
        if not len(indexes):
            return []
        bank = self.bank[indexes]
        if (bank == bank[0]).all():
            return [(self.banks[int(bank[0])], indexes)]
        return [(each, indexes[bank == number]) for number, each in enumerate(self.banks) if (bank == number).any()]

    def _list(self) -> None:
        self.active = np.array(sorted(self._by_index), np.int64)
        banks = np.unique(self.bank[self.active])
        self.only_bank = int(banks[0]) if len(banks) == 1 else None
