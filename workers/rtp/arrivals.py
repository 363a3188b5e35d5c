"""What arrived in one wake-up, sorted out: RTCP, strangers, digits, audio.

Runs in: rtp, in the loop.
Owns: the order of the checks, and the counts of what was heard and refused.

Rules
1. A leg appears once in each round: the columns of all stages are indexed by leg. A burst of n packets takes n rounds.
2. Nothing is believed before the door (doors.py) knows the source, RTCP included.
3. Unknown payload types and empty payloads are ignored; headers that contradict themselves and strangers are refused and counted.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from shm.clock import PHASE_NS
from workers.rtp import packet
from workers.rtp.codecs import IGNORED, LAST_AUDIO, TELEPHONE_EVENT, WIRES
from workers.rtp.media import set_clock
from workers.rtp.packet import Headers
from workers.rtp.stages import Stages
from workers.rtp.transport import Arrivals

_CLOCK_HZ = np.array([wire.clock_hz for wire in WIRES] + [0, 0], np.int64)
_WAKES_PER_SECOND = 1_000_000_000 // PHASE_NS


class Heard(NamedTuple):
    """Packets (k,) of one round, each of another leg."""

    legs: NDArray[np.int64]
    codec: NDArray[np.uint8]
    data: NDArray[np.uint8]
    source: NDArray[np.uint8]
    headers: Headers

    def only(self, chosen: NDArray[np.bool_]) -> "Heard":
        """The chosen rows."""
        return Heard(
            self.legs[chosen], self.codec[chosen], self.data[chosen], self.source[chosen], self.headers.only(chosen)
        )


class Intake:
    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._marks = np.zeros(stages.legs.limit, np.int64)
        self.received = 0
        self.late = 0
        self.refused = 0

    def take(self, arrivals: Arrivals, wake: int) -> None:
        """Everything of one wake-up, seen at `wake`."""
        position = np.arange(len(arrivals.leg))
        self._marks[arrivals.leg] = position
        if (self._marks[arrivals.leg] == position).all():
            self._take_round(arrivals, wake)
            return
        order = np.argsort(arrivals.leg, kind="stable")
        leg = arrivals.leg[order]
        starts = np.nonzero(np.concatenate(([True], leg[1:] != leg[:-1])))[0]
        turn = position - np.repeat(starts, np.diff(np.append(starts, len(leg))))
        for number in range(int(turn.max()) + 1):
            chosen = order[turn == number]
            self._take_round(arrivals.only(chosen), wake)

    def _take_round(self, arrivals: Arrivals, wake: int) -> None:
        is_rtcp = packet.is_rtcp(arrivals.data)
        if is_rtcp.any():
            self._take_rtcp(arrivals.only(is_rtcp), wake)
            arrivals = arrivals.only(~is_rtcp)
        legs = arrivals.leg
        headers = packet.parse(arrivals.data, arrivals.length_bytes)
        heard = Heard(
            legs, self._stages.legs.codec_of[legs, headers.payload_type], arrivals.data, arrivals.source, headers
        )
        meant = (
            headers.is_valid
            & (heard.codec != IGNORED)
            & (headers.payload_bytes > 0)
            & self._stages.legs.is_receiving[legs]
        )
        if not meant.all():
            self.refused += int(np.count_nonzero(~headers.is_valid))
            heard = heard.only(meant)
        if not len(heard.legs):
            return
        admitted = self._stages.doors.admit(heard.legs, heard.headers, heard.source)
        if not admitted.all():
            self.refused += int(np.count_nonzero(~admitted))
            heard = heard.only(admitted)
        if len(heard.legs):
            self.received += len(heard.legs)
            self._hear(heard, wake)

    def _hear(self, heard: Heard, wake: int) -> None:
        stages = self._stages
        is_new = stages.reception.update(heard.legs, heard.headers.ssrc, heard.headers.sequence, wake)
        if is_new.any():
            stages.listening.restart_stream(heard.legs[is_new])
            for index in heard.legs[is_new].tolist():
                stages.legs[index].digits_in.forget()
        is_audio = heard.codec <= LAST_AUDIO
        if not is_audio.all():
            self._take_signals(heard.only(~is_audio))
            heard, is_new = heard.only(is_audio), is_new[is_audio]
            if not len(heard.legs):
                return
        legs, headers = heard.legs, heard.headers
        clock_hz = _CLOCK_HZ[heard.codec]
        if (clock_hz != stages.legs.clock_hz[legs]).any():
            for index, hz in zip(legs.tolist(), clock_hz.tolist(), strict=True):
                if stages.legs.clock_hz[index] != hz:
                    set_clock(stages, index, hz)
        stages.reception.measure_jitter(legs, headers.timestamp, wake * clock_hz // _WAKES_PER_SECOND, is_new)
        late = stages.listening.hear(legs, heard.codec, headers, heard.data, wake)
        if len(late):
            stages.reception.late[late] += 1
            self.late += len(late)

    def _take_signals(self, heard: Heard) -> None:
        for index in heard.legs.tolist():
            self._stages.listening.fall_silent(index)
        events = heard.only(heard.codec == TELEPHONE_EVENT)
        self._stages.digits.read(events.legs, events.headers, events.data)

    def _take_rtcp(self, arrivals: Arrivals, wake: int) -> None:
        legs = self._stages.legs
        for index, length, data, source in zip(*arrivals, strict=True):
            leg = legs[int(index)]
            if legs.is_latched[index] and source.tobytes() == leg.peer and leg.media is not None and leg.media.rtcp_mux:
                self._stages.reporting.read(leg, data[:length].tobytes(), wake)
            else:
                self.refused += 1
