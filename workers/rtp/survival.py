"""What a successor must find in `bank.leg` after a `kill -9`, and how it goes on from there.

Runs in: rtp, in the loop.
Owns: the copies of this process's columns in `bank.leg` (fields written by rtp; the layout is in shm/bank.py).

Rules
1. Written as they happen: send_sequence (sending.py), the latch (doors.py), digits (digits.py). The rest twice a second and at
   the end.
2. The timestamp needs no writing: `send_timestamp` is the one of tick 0, and time goes on by itself.
"""

import socket

import numpy as np
from numpy.typing import NDArray

from shm.clock import PHASE_NS
from workers.audio.speech import rms
from workers.rtp import address
from workers.rtp.legs import Leg, Legs
from workers.rtp.listening import Listening
from workers.rtp.playout import Playout
from workers.rtp.reception import Reception
from workers.rtp.sending import Sending


class Survival:
    def __init__(
        self, legs: Legs, playout: Playout, reception: Reception, listening: Listening, sending: Sending
    ) -> None:
        self._legs = legs
        self._playout = playout
        self._reception = reception
        self._listening = listening
        self._sending = sending

    def save(self, indexes: NDArray[np.int64]) -> None:
        reception, playout = self._reception, self._playout
        for bank, members in self._legs.by_bank(indexes):
            rows = self._legs.row[members]
            record = bank.leg
            highest = reception.highest[members]
            last_wake = reception.last_wake[members]
            received = reception.received(members)
            for name, values in (
                ("packets_received", received),
                ("packets_lost", reception.lost(members)),
                ("packets_late", reception.late[members]),
                ("ticks_concealed", self._listening.concealed[members]),
                ("jitter", playout.jitter_ms[members] * playout.clock_step[members] / 20),
                ("last_received_ns", np.where(received > 0, last_wake * PHASE_NS, 0)),
                ("anchor_sample", np.maximum(playout.anchor_sample[members], 0)),
                ("anchor_timestamp", playout.anchor_timestamp[members]),
                ("margin_ms", playout.margin_ms[members]),
                ("is_anchored", playout.anchor_sample[members] >= 0),
                ("receive_ssrc", np.maximum(reception.ssrc[members], 0)),
                ("receive_sequence", highest & 0xFFFF),
                ("receive_cycles", highest >> 16),
                ("send_ssrc", self._sending.ssrc[members]),
                ("send_timestamp", self._sending.origin[members]),
                ("send_sequence", self._sending.sequence[members]),
            ):
                record[name][rows] = values
            newest = bank.rx_tick[rows].argmax(axis=1)
            record["level"][rows] = rms(bank.rx[rows, newest])

    def restore(self, leg: Leg) -> bytes | None:
        """Take over from `bank.leg`; returns the packed address that the leg was latched to."""
        record = self._legs.bank_of(leg).leg[leg.row.index]
        index = leg.index
        if int(record["packets_received"]):
            self._reception.resume(
                index,
                ssrc=int(record["receive_ssrc"]),
                highest=int(record["receive_cycles"]) << 16 | int(record["receive_sequence"]),
                received=int(record["packets_received"]),
                lost=int(record["packets_lost"]),
                late=int(record["packets_late"]),
            )
        self._listening.concealed[index] = int(record["ticks_concealed"])
        if record["is_anchored"]:
            self._playout.resume(
                index, int(record["anchor_sample"]), int(record["anchor_timestamp"]), float(record["margin_ms"])
            )
        if int(record["digits_received"]):
            leg.digits_in.reported = int(record["event_timestamp"])
        port = int(record["latched_port"])
        if not port:
            return None
        raw = record["latched_address"].tobytes()
        if int(record["address_family"]) == 6:
            return address.pack(socket.inet_ntop(socket.AF_INET6, raw), port)
        return address.pack(socket.inet_ntop(socket.AF_INET, raw[:4]), port)
