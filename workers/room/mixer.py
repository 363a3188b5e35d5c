"""The mix: who hears what in one tick, for many rooms at once.

Pure: numpy only. Used by `workers/room/loop.py`; tests compare it with a loop over legs.
Owns: mix-minus-self, saturation, and the choice of the row that holds what several listeners hear.

Rules
1. Each listener hears the sum of all other audible participants, saturated once (media.md M1, M2). Sums are float32 matrix
   products, four to ten times as fast as integer sums over rooms, and exact: 512 full-scale talkers stay below 2**24.
2. Only talkers cost anything: a frame of zeros is nobody. Whoever is not talking hears the room's total, which is the same
   for all of them and therefore written (and later encoded) once, into the row of one of them (`home`).
3. A listener whose sum is silence hears the comfort-noise frame, held once for the whole batch (media.md 2.1).
4. A source has no row: a talker that does not listen (M6). One that is meant for a single leg is added to what that leg hears
   and to nothing else (M5); the leg then has its own row to itself and is nobody's home.
5. Who hears whom depends only on the set of talkers, which rarely changes from one tick to the next: it is worked out once
   for each new set and kept as a `Plan`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NOTHING = -1  # HEARS_NOTHING of shm/bank.py, which a pure module does not import
Indices = NDArray[np.intp]
Samples = NDArray[np.int16]

LOUDEST = 32767
NOWHERE = -1  # in `source_leg`: heard by the whole room; in `total_of_room`: nobody talks there
NO_SOURCES = np.empty(0, np.int64)


class Batch:
    """The participants of all rooms of one rate and phase in this process, sorted by room, and behind them the sources.

    rows: (legs,) bank rows; audible: (legs,) not muted; listening: (legs,) not deaf
    room_of: (legs + sources,) dense room index, ascending among the legs
    source_leg: (sources,) position of the only leg that hears it, or NOWHERE
    A talker is named by its position: legs first, then sources.
    """

    def __init__(
        self,
        rows: NDArray[np.int64],
        room_of: NDArray[np.int64],
        muted: NDArray[np.bool_],
        deaf: NDArray[np.bool_],
        *,
        rooms: int,
        source_room: NDArray[np.int64] = NO_SOURCES,
        source_leg: NDArray[np.int64] = NO_SOURCES,
    ) -> None:
        self.rows = rows
        self.room_of = np.concatenate([room_of, source_room])
        self.source_leg = source_leg
        self.rooms = rooms
        self.audible = ~muted
        self.all_audible = bool(self.audible.all())
        self.listening = ~deaf


@dataclass(frozen=True)
class Plan:
    """What follows from one set of k talkers in t rooms; everything refers to bank rows or to positions among the talkers.

    adds: (t, k) float32, 1 where a talker belongs to a room's total; None when the talkers' frames are the totals
    total_of_room: (rooms,) which total is the room's full mix, or NOWHERE
    total_rows/total_of: rows that get a room's total, and which total
    own_rows: rows with a sum of their own: first a total minus the own frame (own_total/own_talker), then those of `alone`
    alone: (a, k) float32, what each leg with sound of its own hears; None when there is none
    noise_row: the row that gets comfort noise, or -1
    hears: (legs,) row that each leg shall hear
    """

    adds: NDArray[np.float32] | None
    total_of_room: Indices
    total_rows: NDArray[np.int64]
    total_of: Indices
    own_rows: NDArray[np.int64]
    own_talker: Indices
    own_total: Indices
    alone: NDArray[np.float32] | None
    noise_row: int
    hears: NDArray[np.int32]


def make_plan(batch: Batch, talkers: Indices, *, comfort_noise: bool) -> Plan:
    """`talkers`: positions of those who are heard this tick, ascending."""
    legs = len(batch.rows)
    room_of = batch.room_of[:legs]
    talks = np.zeros(legs, np.bool_)
    talks[talkers[talkers < legs]] = True
    for_leg = np.full(len(talkers), NOWHERE, np.int64)  # the leg that alone hears this talker
    is_source = talkers >= legs
    for_leg[is_source] = batch.source_leg[talkers[is_source] - legs]
    in_mix = np.flatnonzero(for_leg == NOWHERE)
    has_sound = np.zeros(legs, np.bool_)
    has_sound[for_leg[for_leg != NOWHERE]] = True
    has_sound &= batch.listening

    mixed_room = batch.room_of[talkers[in_mix]]
    count_in_room = np.bincount(mixed_room, minlength=batch.rooms)
    rooms_with_talkers = np.flatnonzero(count_in_room)
    total_of_room = np.full(batch.rooms, NOWHERE, np.intp)
    if len(talkers) == len(rooms_with_talkers):  # one talker in each room, nothing else: its frame is the total
        adds = None
        total_of_room[mixed_room] = np.arange(len(talkers))
    else:
        adds = np.zeros((len(rooms_with_talkers), len(talkers)), np.float32)
        total_of_room[rooms_with_talkers] = np.arange(len(rooms_with_talkers))
        adds[total_of_room[mixed_room], in_mix] = 1

    # Silent listeners of a room with talkers share its total; it lives in the row of the first of them.
    shares_total = batch.listening & ~talks & ~has_sound & (count_in_room[room_of] > 0)
    sharers = np.flatnonzero(shares_total)
    home_of_room = np.full(batch.rooms, -1, np.int64)
    home_of_room[room_of[sharers[::-1]]] = batch.rows[sharers[::-1]]  # the last store wins: the first sharer
    total_rooms = rooms_with_talkers[home_of_room[rooms_with_talkers] >= 0]

    # A talker among talkers hears everybody else; a lone talker, and a room without any, hears silence.
    subtracts = batch.listening & talks & ~has_sound & (count_in_room[room_of] > 1)
    own = np.flatnonzero(subtracts)
    alone = np.flatnonzero(has_sound)
    silent = np.flatnonzero(batch.listening & ~shares_total & ~subtracts & ~has_sound)
    noise_row = int(batch.rows[silent[0]]) if comfort_noise and len(silent) else NOTHING

    hears = np.full(legs, NOTHING, np.int32)
    hears[sharers] = home_of_room[room_of[sharers]]
    hears[own] = batch.rows[own]
    hears[alone] = batch.rows[alone]
    hears[silent] = noise_row  # NOTHING without comfort noise
    alone_hears = None
    if len(alone):
        is_other = (for_leg == NOWHERE) & (batch.room_of[talkers] == room_of[alone, None]) & (talkers != alone[:, None])
        alone_hears = (is_other | (for_leg == alone[:, None])).astype(np.float32)
    return Plan(
        adds=adds,
        total_of_room=total_of_room,
        total_rows=home_of_room[total_rooms],
        total_of=total_of_room[total_rooms],
        own_rows=batch.rows[np.concatenate([own, alone])],
        own_talker=(np.cumsum(talks) - 1)[own],
        own_total=total_of_room[room_of[own]],
        alone=alone_hears,
        noise_row=noise_row,
        hears=hears,
    )


def mix(frames: Samples, plan: Plan) -> tuple[Samples, Samples]:
    """(k, n) talkers' frames -> ((t, n) totals of rooms with talkers, (len(own_rows), n) what their owners hear)."""
    if plan.adds is None:
        return frames, frames[:0]
    floats = frames.astype(np.float32)
    sums = plan.adds @ floats
    own = sums[plan.own_total] - floats[plan.own_talker]
    if plan.alone is not None:
        own = np.concatenate([own, plan.alone @ floats])
    return saturate(sums), saturate(own)


def is_loud(frames: Samples) -> NDArray[np.bool_]:
    """(k, n) -> (k,): the frames that are not all zeros."""
    loud: NDArray[np.bool_] = np.bitwise_or.reduce(frames.view(np.int64), axis=1) != 0
    return loud


def saturate(sums: NDArray[np.float32]) -> Samples:
    """Whole numbers of any size -> int16, clipped."""
    return np.clip(sums, -LOUDEST - 1, LOUDEST).astype(np.int16)
