"""Whom each leg's socket listens and sends to: latching, connecting, and opening up again.

Runs in: rtp, in the loop. Loops over legs: only those that are not latched are ever looked at packet by packet.
Owns: `Leg.peer`, `Leg.latch`, the connection of the socket, where the transport aims.

Rules
1. Latched: connect(), so that the kernel drops everybody else and sending is cheapest. What strangers left in the queue is
   still told by its source.
2. Not latched: sends go to the address latched last, else to SDP's; to nobody where there is neither.
3. After QUIET_WAKES without a packet, or when told, the door opens: AF_UNSPEC, then the latch decides anew.

Not here: who is plausible → latch.py; which addresses are never sent to → address.py.
"""

import numpy as np
from numpy.typing import NDArray

from workers.rtp import address
from workers.rtp.latch import Latch
from workers.rtp.legs import Leg, Legs
from workers.rtp.sending import Sending
from workers.rtp.transport import Transport

QUIET_WAKES = 200  # 1 s


class Doors:
    def __init__(self, legs: Legs, transport: Transport, sending: Sending) -> None:
        self._legs = legs
        self._transport = transport
        self._sending = sending
        self._peers = np.zeros((legs.limit, address.SOCKADDR_BYTES), np.uint8)
        self.is_settled = np.zeros(
            legs.limit, np.bool_
        )  # latched so long ago that nothing of others can be left in the queue

    def admit(self, legs: NDArray[np.int64], headers: NDArray[np.void], source: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Packets of agreed payload types, each leg at most once → which of them come from the leg's own peer."""
        is_settled = self.is_settled[legs]
        if is_settled.all():
            return is_settled
        admitted = is_settled
        doubtful = np.nonzero(~is_settled)[0]
        is_latched = self._legs.is_latched[legs[doubtful]]
        latched = doubtful[is_latched]
        admitted[latched] = (source[latched] == self._peers[legs[latched]]).all(axis=1)
        for number in doubtful[~is_latched].tolist():
            leg, raw = self._legs[int(legs[number])], source[number].tobytes()
            if leg.latch.accepts(raw, int(headers["ssrc"][number]), int(headers["sequence"][number])):
                admitted[number] = self.lock(leg, raw)
        return admitted

    def lock(self, leg: Leg, peer: bytes) -> bool:
        """Latch onto `peer`. False where the kernel cannot reach it: then the door stays open."""
        if peer[2:] == leg.own[2:]:
            return False
        try:
            address.connect(leg.sock, peer)
        except OSError:
            return False
        leg.peer = peer
        self._peers[leg.index] = np.frombuffer(peer, np.uint8)
        self._legs.is_latched[leg.index] = True
        self._transport.aim(leg.index, None)
        self._sending.refresh(leg.index)
        record = self._legs.bank_of(leg).leg
        raw = peer[4:8] + bytes(12) if address.is_v4(peer) else peer[8:24]
        record["latched_address"][leg.row.index] = np.frombuffer(raw, np.uint8)
        record["address_family"][leg.row.index] = 4 if address.is_v4(peer) else 6
        record["latched_port"][leg.row.index] = int.from_bytes(peer[2:4], "big")
        return True

    def open(self, leg: Leg, *, forget_peer: bool = False) -> None:
        """Hear everybody and let the latch decide anew; `forget_peer`: sends go to SDP's address, not to the one latched."""
        if self._legs.is_latched[leg.index]:
            address.disconnect(leg.sock)
        self._legs.is_latched[leg.index] = self.is_settled[leg.index] = False
        if forget_peer:
            leg.peer = None
        leg.latch = Latch(leg.agreed, leg.peer)
        self._transport.aim(leg.index, leg.peer or leg.agreed)
        self._sending.refresh(leg.index)

    def has_destination(self, leg: Leg) -> bool:
        return (leg.peer or leg.agreed) is not None

    def review(self, legs: NDArray[np.int64], last_wake: NDArray[np.int64], wake: int) -> None:
        """Once a second per leg: settle those latched before, open those that have gone quiet."""
        is_latched = self._legs.is_latched[legs]
        self.is_settled[legs] = is_latched
        quiet = is_latched & (last_wake < wake - QUIET_WAKES) & self._legs.is_receiving[legs]
        for index in legs[quiet].tolist():
            self.open(self._legs[index])
