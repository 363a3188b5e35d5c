"""The mix: who hears what in one tick, for many rooms at once.

Pure: numpy only. Used by `workers/room/loop.py`; tests compare it with a loop over legs.
Owns: mix-minus-self, saturation, and the choice of the row that holds what several listeners hear.

Rules
1. Each listener hears the sum of all other audible participants, saturated once (media.md M1, M2). Sums are float32 matrix
   products, four to ten times as fast as integer sums over rooms, and exact: 512 full-scale talkers stay below 2**24.
2. Only talkers cost anything: a frame of zeros is nobody. Whoever is not talking hears the room's total, which is the same
   for all of them and therefore written (and later encoded) once, into the row of one of them (`home`).
3. A listener whose sum is silence hears the comfort-noise frame, held once for the whole batch (media.md 2.1).
4. Who hears whom depends only on the set of talkers, which rarely changes from one tick to the next: it is worked out once
   for each new set and kept as a `Plan`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NOTHING = -1  # HEARS_NOTHING of shm/bank.py, which a pure module does not import
Indices = NDArray[np.intp]
Samples = NDArray[np.int16]


class Batch:
    """The participants of all rooms of one rate and phase in this process, sorted by room.

    rows: (legs,) bank rows; room_of: (legs,) dense room index, ascending; audible: not muted; listening: not deaf.
    """

    def __init__(
        self, rows: NDArray[np.int64], room_of: NDArray[np.int64], muted: NDArray[np.bool_], deaf: NDArray[np.bool_]
    ) -> None:
        self.rows = rows
        self.room_of = room_of
        self.rooms = int(room_of[-1]) + 1 if len(room_of) else 0
        self.audible = ~muted
        self.all_audible = bool(self.audible.all())
        self.listening = ~deaf


@dataclass(frozen=True)
class Plan:
    """What follows from one set of talkers. k talkers in t rooms; everything refers to bank rows or talker positions.

    adds: (t, k) float32, 1 where a talker belongs to a room with talkers; one talker in every such room: None
    total_rows/total_of: rows that get a room's total, and which total
    own_rows/own_talker/own_total: rows that get a total minus their own frame
    noise_row: the row that gets comfort noise, or -1
    hears: (legs,) row that each leg shall hear
    """

    adds: NDArray[np.float32] | None
    total_rows: NDArray[np.int64]
    total_of: Indices
    own_rows: NDArray[np.int64]
    own_talker: Indices
    own_total: Indices
    noise_row: int
    hears: NDArray[np.int32]


def make_plan(batch: Batch, talkers: Indices, *, comfort_noise: bool) -> Plan:
    """`talkers`: ascending positions in the batch of those who are heard this tick."""
    legs = len(batch.rows)
    talks = np.zeros(legs, np.bool_)
    talks[talkers] = True
    talker_room = batch.room_of[talkers]
    count_in_room = np.bincount(talker_room, minlength=batch.rooms)
    starts = np.flatnonzero(np.diff(talker_room, prepend=-1))
    rooms_with_talkers = talker_room[starts]
    total_of_room = np.full(batch.rooms, -1, np.intp)
    total_of_room[rooms_with_talkers] = np.arange(len(starts))

    # Silent listeners of a room with talkers share its total; it lives in the row of the first of them.
    shares_total = batch.listening & ~talks & (count_in_room[batch.room_of] > 0)
    sharers = np.flatnonzero(shares_total)
    home_of_room = np.full(batch.rooms, -1, np.int64)
    home_of_room[batch.room_of[sharers[::-1]]] = batch.rows[sharers[::-1]]  # the last store wins: the first sharer
    total_rooms = rooms_with_talkers[home_of_room[rooms_with_talkers] >= 0]

    # A talker among talkers hears everybody else; a lone talker, and a room without any, hears silence.
    subtracts = batch.listening & talks & (count_in_room[batch.room_of] > 1)
    own = np.flatnonzero(subtracts)
    hears_silence = batch.listening & ~shares_total & ~subtracts
    silent = np.flatnonzero(hears_silence)
    noise_row = int(batch.rows[silent[0]]) if comfort_noise and len(silent) else NOTHING

    hears = np.full(legs, NOTHING, np.int32)
    hears[sharers] = home_of_room[batch.room_of[sharers]]
    hears[own] = batch.rows[own]
    hears[silent] = noise_row  # NOTHING without comfort noise
    position = np.cumsum(talks) - 1
    adds = None
    if len(starts) != len(talkers):
        adds = np.zeros((len(starts), len(talkers)), np.float32)
        adds[total_of_room[talker_room], np.arange(len(talkers))] = 1
    return Plan(
        adds=adds,
        total_rows=home_of_room[total_rooms],
        total_of=total_of_room[total_rooms],
        own_rows=batch.rows[own],
        own_talker=position[own],
        own_total=total_of_room[batch.room_of[own]],
        noise_row=noise_row,
        hears=hears,
    )


def mix(frames: Samples, plan: Plan) -> tuple[Samples, Samples]:
    """(k, n) talkers' frames -> ((t, n) totals of rooms with talkers, (len(own_rows), n) what their talkers hear)."""
    if plan.adds is None:
        return frames, frames[:0]  # one talker in each room: the total is the frame
    floats = frames.astype(np.float32)
    sums = plan.adds @ floats
    return saturate(sums), saturate(sums[plan.own_total] - floats[plan.own_talker])


def saturate(sums: NDArray[np.float32]) -> Samples:
    """Whole numbers of any size -> int16, clipped."""
    return np.clip(sums, -32768, 32767).astype(np.int16)
