"""From rows to packets: what a room mixed leaves 3 ms later, encoded once however many hear it.

Runs in: rtp, in the loop.
Owns: sequence numbers, timestamps and packets of all legs; which of the four wake-ups of a tick a leg is sent at.

Rules
1. Legs that are sent alike (same wake-up, bank, codec, packet length, delay) are one batch, made anew only when legs change.
2. A leg's wake-up is the first after its mix that has fewer than BURST sends, and stays the same: its packets are 20 ms apart.
3. The timestamp of tick T is origin + T * step: it goes on through holds, moves and restarts by itself. Each tick is sent once.
4. A row whose `tx_tick` is another tick sends silence and counts as missing: the stream never stops.
5. Packets of 40 and 60 ms are made from the last two or three slots when their last tick is there.

Not here: digits instead of audio → digits.py; reports → reporting.py.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shm.bank import HEARS_NOTHING, TX_SLOTS, Bank
from shm.clock import PHASES
from workers.audio.resample import resampler
from workers.rtp import packet
from workers.rtp.codecs import L16_48, WIRES, Encoders
from workers.rtp.legs import NO_ROOM, Legs
from workers.rtp.transport import Transport

BURST = 256


@dataclass
class Batch:
    bank_index: int
    bank: Bank
    codec: int
    frames: int  # ticks a packet
    delay: int  # wake-ups from the last before the mix to the sending
    in_room: bool
    legs: NDArray[np.int64]
    rows: NDArray[np.int64]
    packets: NDArray[np.uint8]
    headers: NDArray[np.void]
    payloads: NDArray[np.uint8]
    prepared: Any
    positions: NDArray[np.int64]  # 0 … k - 1
    sources: NDArray[np.int64]  # rows heard at `sources_tick`
    sources_tick: int = -1
    last_tick: int = -1  # -1: nothing of this batch sent yet
    is_first: bool = False  # the packets sent last were the batch's first: their marker bits are not the next ones'


class Sending:
    def __init__(self, legs: Legs, transport: Transport) -> None:
        self._legs = legs
        self._transport = transport
        self._encoders = Encoders()
        limit = legs.limit
        self.is_sending = np.zeros(limit, np.bool_)
        self.codec = np.zeros(limit, np.int64)
        self.payload_type = np.zeros(limit, np.uint8)
        self.frames = np.ones(limit, np.int64)
        self.ssrc = np.zeros(limit, np.uint32)
        self.sequence = np.zeros(limit, np.int64)  # of the next packet; wraps on the wire only
        self.first_sequence = np.zeros(limit, np.int64)
        self.origin = np.zeros(limit, np.uint32)  # RTP timestamp of tick 0
        self.last_tick = np.zeros(limit, np.int64)
        self.wake = np.zeros(limit, np.int64)  # 0…3: the wake-up of a tick at which the leg is sent
        self.is_suspended = np.zeros(limit, np.bool_)  # a digit takes the place of the audio
        self.suspended = 0
        self._batches: list[list[Batch]] = [[] for _ in range(PHASES)]
        self._stale = [False] * PHASES
        self._copies: list[NDArray[np.uint8]] = []  # alive until submitted
        self._marks = [np.zeros(bank.rows + 1, np.int64) for bank in legs.banks]
        self.packets_sent = 0
        self.frames_missing = 0

    # ------------------------------------------------------------------------------------------ membership

    def start(self, leg: int, ssrc: int, sequence: int, origin: int) -> None:
        self.ssrc[leg], self.sequence[leg], self.origin[leg] = ssrc, sequence, origin
        self.first_sequence[leg] = sequence
        self.last_tick[leg] = -1
        self.is_sending[leg] = self.is_suspended[leg] = False

    def speak(self, leg: int, codec: int, payload_type: int, ptime_ms: int, tick: int) -> None:
        """What the leg is sent from now on. Timestamps go on where the clock changes."""
        if self.codec[leg] and WIRES[codec].clock_step != WIRES[int(self.codec[leg])].clock_step:
            before = int(self.origin[leg]) + tick * WIRES[int(self.codec[leg])].clock_step
            self.origin[leg] = (before - tick * WIRES[codec].clock_step) & 0xFFFFFFFF
        self.codec[leg], self.payload_type[leg] = codec, payload_type
        self.frames[leg] = (
            1 if codec == L16_48 else min(max(ptime_ms // 20, 1), 3)
        )  # longer L16/48000 exceeds a datagram

    def settle(self, leg: int) -> None:
        """Choose the leg's wake-up; its batch and the one it leaves are made anew."""
        self._stale[int(self.wake[leg])] = True
        phase = int(self._legs.phase[leg])
        first = phase + 1 if phase != NO_ROOM else leg
        active = self._legs.active
        others = active[self.is_sending[active] & (active != leg)]
        load = np.bincount(self.wake[others], minlength=PHASES)
        choices = [(first + lag) % PHASES for lag in range(PHASES)]
        self.wake[leg] = next(
            (wake for wake in choices if load[wake] < BURST), min(choices, key=lambda wake: load[wake])
        )
        self._stale[int(self.wake[leg])] = True

    def refresh(self, leg: int) -> None:
        """The leg's destination, codec or row has changed."""
        self._stale[int(self.wake[leg])] = True

    def suspend(self, leg: int, suspended: bool) -> None:
        self.suspended += int(suspended) - int(self.is_suspended[leg])
        self.is_suspended[leg] = suspended

    def _rebuild(self, wake: int) -> None:
        """Sort the legs of one wake-up into batches."""
        for batch in self._batches[wake]:
            if batch.last_tick >= 0:
                self.last_tick[batch.legs] = np.maximum(self.last_tick[batch.legs], batch.last_tick)
        active = self._legs.active
        members = active[(self.wake[active] == wake) & self.is_sending[active]]
        phase = self._legs.phase[members]
        in_room = phase != NO_ROOM
        delay = np.where(in_room, (wake - phase - 1) % PHASES + 1, 1)
        key = (
            ((self.codec[members] * 4 + self.frames[members]) * 4 + self._legs.bank[members]) * 16 + in_room * 8 + delay
        )
        self._batches[wake] = [self._batch(members[key == each], int(each)) for each in np.unique(key)]
        self._stale[wake] = False

    def _batch(self, legs: NDArray[np.int64], key: int) -> Batch:
        key, low = divmod(key, 16)
        key, bank = divmod(key, 4)
        codec, frames = divmod(key, 4)
        packets, headers, payloads = packet.blank(len(legs), frames * WIRES[codec].frame_bytes)
        headers["second"] = self.payload_type[legs]
        headers["ssrc"] = self.ssrc[legs]
        payloads.reshape(len(legs), frames, -1)[:] = self._encoders.silence(codec)
        return Batch(
            bank_index=bank,
            bank=self._legs.banks[bank],
            codec=codec,
            frames=frames,
            delay=low % 8,
            in_room=low >= 8,
            legs=legs,
            rows=self._legs.row[legs],
            packets=packets,
            headers=headers,
            payloads=payloads,
            prepared=self._transport.prepare(legs, packets),
            positions=np.arange(len(legs)),
            sources=np.zeros(0, np.int64),
        )

    def finish(self, leg: int, tick: int) -> None:
        """Before a leg leaves its row: send `tick` from it, where that is all that is still to come."""
        number = int(self.wake[leg])
        if self._stale[number]:
            self._rebuild(number)
        for batch in self._batches[number]:
            if batch.in_room and batch.frames == 1 and leg in batch.legs:
                self.last_tick[leg] = max(int(self.last_tick[leg]), batch.last_tick)
                if self.last_tick[leg] == tick - 1:
                    key = ((batch.codec * 4 + batch.frames) * 4 + batch.bank_index) * 16 + 8 + batch.delay
                    self._send_batch(self._batch(np.array([leg], np.int64), key), tick)
                    self.submit()
                    self.last_tick[leg] = tick

    # ------------------------------------------------------------------------------------------ ticks

    def tick_of(self, leg: int, wake: int) -> int:
        """The tick that this leg is sent at `wake`, one of its own wake-ups."""
        phase = int(self._legs.phase[leg])
        delay = (wake - phase - 1) % PHASES + 1 if phase != NO_ROOM else 1
        return (wake - delay) // PHASES

    def timestamp(self, leg: int, tick: int) -> int:
        """What an audio packet of this tick carries."""
        return (int(self.origin[leg]) + tick * WIRES[int(self.codec[leg])].clock_step) & 0xFFFFFFFF

    def send(self, wake: int) -> None:
        """Queue everything that is sent at this wake-up; the transport's `submit` lets it go."""
        number = wake % PHASES
        if self._stale[number]:
            self._rebuild(number)
        for batch in self._batches[number]:
            self._send_batch(batch, (wake - batch.delay) // PHASES)

    def submit(self) -> None:
        self._transport.submit()
        self._copies.clear()

    def _send_batch(self, batch: Batch, tick: int) -> None:
        if batch.frames > 1 and tick % batch.frames != batch.frames - 1:
            return
        wire = WIRES[batch.codec]
        first_tick = tick - batch.frames + 1
        if batch.in_room:
            for number in range(batch.frames):
                room = batch.payloads[:, number * wire.frame_bytes : (number + 1) * wire.frame_bytes]
                self._encode(batch, first_tick + number, room)
        legs, rows, headers = batch.legs, batch.rows, batch.headers
        chosen = None
        if batch.last_tick < 0:
            due = self.last_tick[legs] < tick
            chosen = None if due.all() else due
            resumed = self.last_tick[legs] != first_tick - 1
            headers["second"] = self.payload_type[legs] | packet.MARKER * resumed.astype(np.uint8)
        elif batch.is_first:
            headers["second"] = self.payload_type[legs]
        batch.is_first = batch.last_tick < 0
        if self.suspended and self.is_suspended[legs].any():
            speaking = ~self.is_suspended[legs]
            chosen = speaking if chosen is None else chosen & speaking
        sequence = self.sequence[legs]
        headers["sequence"] = sequence
        headers["timestamp"] = self.origin[legs] + np.uint32(first_tick * wire.clock_step & 0xFFFFFFFF)
        if chosen is None:
            self._transport.send(batch.prepared)
        else:
            legs, rows, sequence = legs[chosen], rows[chosen], sequence[chosen]
            copy = batch.packets[chosen]
            self._copies.append(copy)
            self._transport.send(self._transport.prepare(legs, copy))
        sequence += 1
        self.sequence[legs] = sequence
        batch.bank.leg["send_sequence"][rows] = sequence
        self.packets_sent += len(legs)
        batch.last_tick = tick

    def _encode(self, batch: Batch, tick: int, room: NDArray[np.uint8]) -> None:
        """Fill `room` (k, frame_bytes) with what each leg of the batch hears at `tick`."""
        is_next = batch.sources_tick == tick - 1
        before = batch.sources if is_next else None
        source, missing = self._sources(batch, tick)
        batch.sources, batch.sources_tick = source, tick
        self.frames_missing += missing
        if source.max() < 0:
            room[:] = self._encoders.silence(batch.codec)
            return
        wire_hz = WIRES[batch.codec].wire_hz
        if wire_hz == batch.bank.rate_hz:
            one, of_leg = self._distinct(batch, source, None)
            frames = _frames(batch.bank, source[one], tick)
        else:
            if before is None:
                before, _missing = self._sources(batch, tick - 1)
            one, of_leg = self._distinct(batch, source, before)
            convert = resampler(batch.bank.rate_hz, wire_hz)
            history = _frames(batch.bank, before[one], tick - 1, convert.history)
            frames = convert(history, _frames(batch.bank, source[one], tick))
        payloads = self._encoders.encode(batch.codec, frames, batch.bank_index, source[one], tick)
        if of_leg is batch.positions:
            room[:] = payloads
        else:
            payloads.take(of_leg, axis=0, out=room, mode="clip")

    def _sources(self, batch: Batch, tick: int) -> tuple[NDArray[np.int64], int]:
        """The rows that the legs of a batch hear at `tick` (-1: none), and how many the room has not written."""
        slot = tick % TX_SLOTS
        source: NDArray[np.int64] = batch.bank.tx_from[batch.rows, slot].astype(np.int64)
        stale = batch.bank.tx_tick[batch.rows, slot] != tick
        if not stale.any():
            return source, 0
        source[stale] = HEARS_NOTHING
        return source, int(np.count_nonzero(stale))

    def _distinct(
        self, batch: Batch, source: NDArray[np.int64], before: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Positions of legs that stand for all who hear the same (now and in the tick before), and for each leg which of them;
        `batch.positions` itself where each stands for itself."""
        marks, position = self._marks[batch.bank_index], batch.positions
        marks[source] = position  # the last leg of each source wins and stands for it; -1 is the last mark
        stands_for = marks[source]
        one = np.nonzero(stands_for == position)[0]
        if len(one) == len(source):
            return position, position
        if before is not None and (before[stands_for] != before).any():
            _pairs, one, of_leg = np.unique(before * len(marks) + source, return_index=True, return_inverse=True)
            return one, of_leg
        marks[source[one]] = position[: len(one)]
        return one, marks[source]

    def forget_unused(self, tick: int) -> None:
        self._encoders.forget_unused(tick)


def _frames(bank: Bank, rows: NDArray[np.int64], tick: int, last: int = 0) -> NDArray[np.int16]:
    """The frames (k, n) of `rows` at `tick`, or their `last` samples; silence for rows below 0."""
    slot = tick % TX_SLOTS
    frames: NDArray[np.int16] = bank.tx[rows, slot, -last:]
    if rows.min() < 0:  # HEARS_NOTHING
        frames[rows < 0] = 0
    return frames
