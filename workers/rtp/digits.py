"""The digits of all legs: reported as events, sent in place of audio.

Runs in: rtp, in the loop. Loops over legs: digits are rare.
Owns: which legs send digits now.

Rules
1. A digit travels at its leg's own wake-up, one packet a tick, whatever the packet length of the audio.

Not here: the event payload and its timing → dtmf.py.
"""

from shm.clock import PHASES
from shm.messages import DigitReceived
from shm.outbox import Outbox
from workers.rtp import packet
from workers.rtp.legs import Leg, Legs
from workers.rtp.sending import Sending
from workers.rtp.transport import Transport


class Digits:
    def __init__(self, legs: Legs, sending: Sending, transport: Transport, outbox: Outbox) -> None:
        self._legs = legs
        self._sending = sending
        self._transport = transport
        self._outbox = outbox
        self._senders: dict[int, Leg] = {}

    def read(self, index: int, timestamp: int, payload: bytes) -> None:
        """One telephone-event packet."""
        leg = self._legs[index]
        for digit in leg.digits_in.read(timestamp, payload):
            record = self._legs.bank_of(leg).leg
            record["digits_received"][leg.row.index] += 1
            record["event_timestamp"][leg.row.index] = leg.digits_in.reported or 0
            self._outbox.post(DigitReceived(leg_id=leg.leg_id, digit=digit))

    def queue(self, leg: Leg, digits: str) -> str:
        """Why not, or "" when they are on their way."""
        if leg.media is None or leg.media.event_send_type is None:
            return "telephone-event is not agreed"
        if not leg.digits_out.queue(digits):
            return "too many digits are waiting, or not a digit"
        if digits:
            self._senders[leg.index] = leg
        return ""

    def forget(self, leg: Leg) -> None:
        if self._senders.pop(leg.index, None) is not None:
            self._sending.suspend(leg.index, suspended=False)

    def send(self, wake: int) -> None:
        """Before the audio of this wake-up: one packet for each leg amid a digit."""
        for leg in list(self._senders.values()):
            if self._sending.wake[leg.index] == wake % PHASES:
                self._send_one(leg, self._sending.tick_of(leg.index, wake))

    def _send_one(self, leg: Leg, tick: int) -> None:
        index, sending = leg.index, self._sending
        if leg.digits_out.is_idle or leg.media is None or leg.media.event_send_type is None:
            self.forget(leg)
            return
        if not sending.is_sending[index]:
            return
        event = leg.digits_out.next(sending.timestamp(index, tick), leg.media.event_clock_hz // 50)
        sending.suspend(index, suspended=event is not None)
        if event is None:
            return
        timestamp, payload, marker = event
        sequence = int(sending.sequence[index])
        sending.sequence[index] += 1
        self._transport.send_one(
            index,
            packet.build(
                leg.media.event_send_type,
                sequence & 0xFFFF,
                timestamp,
                int(sending.ssrc[index]),
                payload,
                marker=marker,
            ),
        )
