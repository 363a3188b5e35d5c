"""What arrived in one wake-up, sorted out: RTCP, strangers, digits, audio.

Runs in: rtp, in the loop.
Owns: the order of the checks, and the counts of what was heard and refused.

Rules
1. A leg appears once in each round: the columns of all stages are indexed by leg. A burst of n packets takes n rounds.
2. Packets that are all alike and from settled legs, as nearly all are, go one short way; the rest is sorted into such groups.
3. Nothing is believed before the door (doors.py) knows the source, RTCP included.
4. Unknown payload types and empty payloads are ignored; headers that contradict themselves and strangers are refused and counted.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workers.rtp import packet
from workers.rtp.codecs import FIRST_AUDIO, IGNORED, LAST_AUDIO, TELEPHONE_EVENT, WIRES
from workers.rtp.listening import Batch
from workers.rtp.media import set_clock
from workers.rtp.stages import Stages
from workers.rtp.transport import Arrivals

GAP_WAKES = 12  # 60 ms, the longest packet: a marker bit after more than this begins a talk spurt


class Heard(NamedTuple):
    """Packets (k,) of agreed types from the right peers, each of another leg."""

    legs: NDArray[np.int64]
    codec: NDArray[np.uint8]
    data: NDArray[np.uint8]
    at: NDArray[np.int64]  # where the payload begins
    size_bytes: NDArray[np.int64]

    def only(self, chosen: NDArray[np.bool_]) -> "Heard":
        """The chosen rows."""
        return Heard(self.legs[chosen], self.codec[chosen], self.data[chosen], self.at[chosen], self.size_bytes[chosen])


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
            self._take_round(arrivals.only(order[turn == number]), wake)

    def _take_round(self, arrivals: Arrivals, wake: int) -> None:
        stages = self._stages
        legs, length_bytes, data, _source = arrivals
        codec = stages.legs.codec_of[legs, data[:, 1] & 0x7F]
        number, length = int(codec[0]), int(length_bytes[0])
        if (
            FIRST_AUDIO <= number <= LAST_AUDIO
            and length > packet.HEADER_BYTES
            and stages.legs.only_bank is not None
            and (codec == number).all()
            and (length_bytes == length).all()
            and (data[:, 0] == packet.PLAIN).all()
            and stages.doors.is_settled[legs].all()
        ):
            self._hear(legs, number, stages.legs.only_bank, data, data[:, packet.HEADER_BYTES : length], wake)
        else:
            self._sort_out(arrivals, codec, wake)

    def _sort_out(self, arrivals: Arrivals, codec: NDArray[np.uint8], wake: int) -> None:
        """The same where not all packets are alike and beyond doubt: check each, then hear them group by group."""
        legs, length_bytes, data, _source = arrivals
        at, size_bytes = packet.payloads(data, length_bytes)
        is_rtcp = packet.is_rtcp(data[:, 1])
        if is_rtcp.any():
            self._take_rtcp(arrivals.only(is_rtcp), wake)
            codec = np.where(is_rtcp, np.uint8(IGNORED), codec)
        self.refused += int(np.count_nonzero(~is_rtcp & (size_bytes < 0)))
        meant = (codec != IGNORED) & (size_bytes > 0)
        heard = Heard(legs, codec, data, at, size_bytes).only(meant)
        if not len(heard.legs):
            return
        admitted = self._stages.doors.admit(heard.legs, packet.headers(heard.data), arrivals.source[meant])
        if not admitted.all():
            self.refused += int(np.count_nonzero(~admitted))
            heard = heard.only(admitted)
        key = (heard.codec.astype(np.int64) << 32 | heard.at << 16 | heard.size_bytes) << 2 | self._stages.legs.bank[
            heard.legs
        ]
        for each in np.unique(key).tolist():
            alike = heard.only(key == each)
            start, size = int(alike.at[0]), int(alike.size_bytes[0])
            number = int(alike.codec[0])
            payload = alike.data[:, start : start + size]
            if number <= LAST_AUDIO:
                self._hear(alike.legs, number, each & 3, alike.data, payload, wake)
            else:
                self._take_signals(alike.legs, number, alike.data, payload, wake)

    def _hear(  # noqa: PLR0917 - a batch is its columns
        self,
        legs: NDArray[np.int64],
        codec: int,
        bank: int,
        data: NDArray[np.uint8],
        payload: NDArray[np.uint8],
        wake: int,
    ) -> None:
        """Audio packets of one codec, one length and one bank."""
        stages = self._stages
        header = packet.headers(data)
        timestamp = header["timestamp"].astype(np.uint32)
        after_gap = None
        marker = header["second"] >= packet.MARKER
        if marker.any():
            after_gap = marker & (stages.reception.last_wake[legs] < wake - GAP_WAKES)
        self._account(legs, header, wake)
        wire = WIRES[codec]
        if (stages.legs.clock_hz[legs] != wire.clock_hz).any():
            for index in legs[stages.legs.clock_hz[legs] != wire.clock_hz].tolist():
                set_clock(stages, index, wire.clock_hz)
        late = stages.listening.hear(Batch(legs, codec, stages.legs.banks[bank], timestamp, payload, after_gap), wake)
        if len(late):
            stages.reception.late[late] += 1
            self.late += len(late)

    def _account(self, legs: NDArray[np.int64], header: NDArray[np.void], wake: int) -> None:
        stages = self._stages
        self.received += len(legs)
        begun = stages.reception.update(
            legs, header["ssrc"].astype(np.int64), header["sequence"].astype(np.uint16), wake
        )
        if len(begun):
            stages.listening.restart_stream(begun)
            for index in begun.tolist():
                stages.legs[index].digits_in.forget()

    def _take_signals(
        self, legs: NDArray[np.int64], codec: int, data: NDArray[np.uint8], payload: NDArray[np.uint8], wake: int
    ) -> None:
        header = packet.headers(data)
        self._account(legs, header, wake)
        for number, index in enumerate(legs.tolist()):
            self._stages.listening.fall_silent(index)
            if codec == TELEPHONE_EVENT:
                self._stages.digits.read(index, int(header["timestamp"][number]), payload[number].tobytes())

    def _take_rtcp(self, arrivals: Arrivals, wake: int) -> None:
        legs = self._stages.legs
        for index, length, data, source in zip(*arrivals, strict=True):
            leg = legs[int(index)]
            if legs.is_latched[index] and source.tobytes() == leg.peer and leg.media is not None and leg.media.rtcp_mux:
                self._stages.reporting.read(leg, data[:length].tobytes(), wake)
            else:
                self.refused += 1
