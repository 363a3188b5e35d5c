"""The stages that a packet passes, made once and tied together.

Runs in: rtp.
Owns: nothing but the order of construction.
"""

from dataclasses import dataclass

from shm.bank import Bank
from shm.messages import RtpStart
from shm.outbox import Outbox
from workers.rtp.digits import Digits
from workers.rtp.doors import Doors
from workers.rtp.legs import Legs
from workers.rtp.listening import Listening
from workers.rtp.playout import Playout
from workers.rtp.reception import Reception
from workers.rtp.reporting import Reporting
from workers.rtp.sending import Sending
from workers.rtp.survival import Survival
from workers.rtp.transport import LEGS_LIMIT, Transport


@dataclass
class Stages:
    transport: Transport
    legs: Legs
    playout: Playout
    reception: Reception
    listening: Listening
    sending: Sending
    doors: Doors
    digits: Digits
    reporting: Reporting
    survival: Survival


def build_stages(banks: dict[int, Bank], transport: Transport, outbox: Outbox, start: RtpStart) -> Stages:
    legs = Legs(LEGS_LIMIT, banks)
    playout = Playout(legs.limit, start.playout_floor_ms, start.playout_ceiling_ms)
    reception = Reception(legs.limit)
    listening = Listening(legs, playout)
    sending = Sending(legs, transport)
    return Stages(
        transport=transport,
        legs=legs,
        playout=playout,
        reception=reception,
        listening=listening,
        sending=sending,
        doors=Doors(legs, transport, sending),
        digits=Digits(legs, sending, transport, outbox),
        reporting=Reporting(legs, reception, playout, sending, transport),
        survival=Survival(legs, playout, reception, listening, sending),
    )
