"""What sip and the peer agreed on, applied to a leg.

Runs in: rtp, in the loop.
Owns: what a renegotiation touches, and what it leaves alone.

Rules
1. The same address, codecs and direction again disturb nothing.
2. Another address, or hearing again after a hold: the door opens and the playout anchors anew.
3. Other codecs: the stream is decoded from its beginning.
"""

import numpy as np

from shm.clock import PHASES
from shm.messages import Media
from workers.rtp import address
from workers.rtp.codecs import COMFORT_NOISE, IGNORED, STATIC_COMFORT_NOISE_TYPE, TELEPHONE_EVENT, WIRES, codec_id
from workers.rtp.legs import Leg
from workers.rtp.stages import Stages


def agree(stages: Stages, leg: Leg, media: Media, wake: int) -> None:
    old, leg.media = leg.media, media
    if media == old:
        return
    index, legs = leg.index, stages.legs
    was_receiving = bool(legs.is_receiving[index])
    is_receiving = media.direction in ("sendrecv", "recvonly")
    legs.is_receiving[index] = is_receiving
    _set_codecs(stages, leg, media, is_receiving=is_receiving)

    is_elsewhere = old is None or (old.remote_host, old.remote_port) != (media.remote_host, media.remote_port)
    is_heard_again = is_receiving and not was_receiving
    leg.agreed = address.destination(media.remote_host, media.remote_port, leg.own)
    is_latched_there = leg.peer is not None and leg.peer == leg.agreed and bool(legs.is_latched[index])
    if is_heard_again or (is_elsewhere and not is_latched_there):
        stages.doors.open(leg, forget_peer=is_elsewhere)
    if is_heard_again or is_elsewhere or (old is not None and old.receive != media.receive):
        stages.listening.restart_stream(np.array([index], np.int64))
    if is_heard_again:
        stages.reception.last_wake[index] = wake
        leg.is_timed_out = False

    send = codec_id(media.send)
    can_send = media.direction in ("sendrecv", "sendonly") and leg.agreed is not None and send != IGNORED
    if send != IGNORED:
        stages.sending.speak(index, send, media.send.payload_type, media.ptime_ms, wake // PHASES)
    if can_send != bool(stages.sending.is_sending[index]):
        stages.sending.is_sending[index] = can_send
        stages.sending.settle(index)
    else:
        stages.sending.refresh(index)
    stages.reporting.set_port(leg)


def _set_codecs(stages: Stages, leg: Leg, media: Media, *, is_receiving: bool) -> None:
    """The table of payload types that may arrive, and the clock to expect."""
    table = stages.legs.codec_of[leg.index]
    table[:] = IGNORED
    if not is_receiving:
        return  # held: whatever still arrives is of no known type
    table[STATIC_COMFORT_NOISE_TYPE] = COMFORT_NOISE
    known = [(codec, codec_id(codec)) for codec in media.receive if codec_id(codec) != IGNORED]
    for codec, number in known:
        table[codec.payload_type & 0x7F] = number
    if media.event_receive_type is not None:
        table[media.event_receive_type & 0x7F] = TELEPHONE_EVENT
    if known:
        set_clock(stages, leg.index, WIRES[known[0][1]].clock_hz)


def set_clock(stages: Stages, index: int, clock_hz: int) -> None:
    """The leg's packets count in another clock."""
    if stages.legs.clock_hz[index] != clock_hz:
        stages.playout.forget(index)
    stages.legs.clock_hz[index] = clock_hz
    bank = stages.legs.banks[int(stages.legs.bank[index])]
    stages.playout.set_pace(index, bank.rate_hz, clock_hz)
