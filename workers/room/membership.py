"""Which rooms this process mixes, and who and what is in them.

Runs in: a room worker.
Owns: the participants of its rooms and the groups made of them: all rooms of one rate and phase are mixed as one batch.

Rules
1. A group is rebuilt only when somebody in it changed; between changes a tick allocates no membership.
2. Changes with an `at_tick` wait here until that tick; one that comes late is applied at once and counted.
3. A change never overtakes an earlier one of the same participant: a leg that comes back right behind a move would be taken
   out by the move, and one that leaves would come back.

Not here: when playbacks and recordings come and go -> `playbacks.py`, `recordings.py`; they change a room and `refresh` it.
"""

import heapq
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from shm.bank import RX_SLOTS, TX_SLOTS, Bank
from shm.errors import ResourceError
from shm.messages import (
    AddParticipant,
    CloseRoom,
    MixParticipant,
    OpenRoom,
    RemoveParticipant,
    Row,
    SetParticipant,
)
from workers.audio import comfort_noise
from workers.room.mixer import NOWHERE, Batch, Indices, Plan, make_plan
from workers.room.recording import Fitting, Recording
from workers.room.small import FEW, Small
from workers.room.sources import Playback, Sources
from workers.room.taps import Backlog, Taps

Change = AddParticipant | SetParticipant | RemoveParticipant


@dataclass
class Room:
    room_id: str
    rate_hz: int
    phase: int
    participants: dict[str, MixParticipant] = field(default_factory=dict)
    playbacks: dict[str, Playback] = field(default_factory=dict)
    recordings: dict[str, Recording] = field(default_factory=dict)

    @property
    def is_occupied(self) -> bool:
        """Whether there is anything to mix, play or record."""
        return bool(self.participants or self.playbacks or self.recordings)


class Group:
    """All rooms of one rate and phase, with the plan of the last set of talkers and what follows from both.

    `sources` and `taps` are None where nothing is played or recorded: a tick then costs nothing for them.
    `rx_at`, `tx_at`: (legs,) where each row's slots begin in the bank's flat arrays; `total_at`, `own_at`: the same for the rows
    that the plan writes. `small` does the tick where legs and playbacks are few, else None.
    """

    talkers: Indices  # of the plan
    takes_all: bool  # every leg talks
    total_at: NDArray[np.int64]
    own_at: NDArray[np.int64]
    _routed_slots: int  # bit s is set once slot s says whom each leg hears by this plan

    def __init__(self, bank: Bank, rooms: list[Room], *, with_comfort_noise: bool) -> None:
        self.bank = bank
        self.noise: NDArray[np.int16] | None = comfort_noise.frames(bank.rate_hz) if with_comfort_noise else None
        self.sources: Sources | None = None
        self.taps: Taps | None = None
        everyone = [(index, one) for index, room in enumerate(rooms) for one in room.participants.values()]
        playing = [(index, one) for index, room in enumerate(rooms) for one in room.playbacks.values()]
        positions = {(rooms[index].room_id, one.leg_id): place for place, (index, one) in enumerate(everyone)}
        # A playback for a leg that is not here goes on unheard: the leg may be on its way in.
        heard = [
            (index, one, positions.get((one.command.room_id, one.command.leg_id), NOWHERE))
            for index, one in playing
            if not one.command.leg_id or (one.command.room_id, one.command.leg_id) in positions
        ]
        self.batch = Batch(
            rows=np.array([one.row.index for _, one in everyone], np.int64),
            room_of=np.array([index for index, _ in everyone], np.int64),
            muted=np.array([one.muted for _, one in everyone], np.bool_),
            deaf=np.array([one.deaf for _, one in everyone], np.bool_),
            rooms=len(rooms),
            source_room=np.array([index for index, _, _ in heard], np.int64),
            source_leg=np.array([leg for _, _, leg in heard], np.int64),
        )
        self.rx_at = self.batch.rows * RX_SLOTS
        self.tx_at = self.batch.rows * TX_SLOTS
        self.all_stamped = bytes([True]) * len(everyone)
        if playing:
            place = {id(one): len(everyone) + index for index, (_, one, _) in enumerate(heard)}
            places = np.array([place.get(id(one), NOWHERE) for _, one in playing], np.intp)
            self.sources = Sources([one for _, one in playing], places, bank.frame_samples)
        self._rooms = rooms
        self._positions = positions
        are_few = 0 < len(everyone) <= FEW and len(playing) <= FEW
        self.small = Small(bank, self.batch, self.noise, self.sources) if are_few else None
        self.follow(np.zeros(0, np.intp), b"none yet")

    def follow(self, talkers: Indices, key: bytes | int) -> None:
        """Another set of talkers, `key` for short: plan anew."""
        self.key, self.talkers = key, talkers
        self.takes_all = len(talkers) == len(self.rx_at)
        self.plan: Plan = make_plan(self.batch, talkers, comfort_noise=self.noise is not None)
        self.total_at = self.plan.total_rows * TX_SLOTS
        self.own_at = self.plan.own_rows * TX_SLOTS
        if self.small is not None:
            self.small.follow(talkers, self.plan)
        self._routed_slots = 0

    def route(self, slot: int) -> None:
        """Write whom each leg hears into the tx slots `slot`, unless it stands there already."""
        if not self._routed_slots >> slot & 1:
            self.bank.tx_sources[self.tx_at + slot] = self.plan.hears
            self._routed_slots |= 1 << slot

    @property
    def is_recorded(self) -> bool:
        return any(room.recordings for room in self._rooms)

    def fit(self, taps: Taps) -> Taps | None:
        """Let `taps` take what is to be recorded here."""
        fitting = Fitting()
        for index, room in enumerate(self._rooms):
            for recording in room.recordings.values():
                recording.fit(fitting, room.participants, index, self._positions)
                recording.taps = taps
        self.taps = taps if taps.fit(fitting) else None
        return self.taps


class Membership:
    def __init__(self, banks: dict[int, Bank], *, with_comfort_noise: bool) -> None:
        self._banks = banks
        self._with_comfort_noise = with_comfort_noise
        self.rooms: dict[str, Room] = {}
        self.groups: dict[int, list[Group]] = {}  # phase -> one group per rate
        self._scheduled: list[tuple[int, int, Change]] = []
        self._order = 0
        self._applied_tick = 0
        self._stale_phases: set[int] = set()
        self._taps: dict[tuple[int, int], Taps] = {}  # (phase, rate), where something is recorded
        self.backlog: Backlog | None = None  # of the recordings, once there are any

    def room(self, room_id: str) -> Room:
        """Raises ResourceError for a room that is not here."""
        try:
            return self.rooms[room_id]
        except KeyError:
            raise ResourceError(f"room {room_id} is not mixed here") from None

    def refresh(self, room: Room) -> None:
        """Something in `room` has changed: it counts from the next tick on."""
        self._stale_phases.add(room.phase)

    def open(self, command: OpenRoom) -> None:
        if command.room_id not in self.rooms:
            self.rooms[command.room_id] = Room(command.room_id, command.rate_hz, command.phase)
            self._stale_phases.add(command.phase)

    def close(self, command: CloseRoom) -> None:
        room = self.rooms.pop(command.room_id, None)
        if room is not None:
            self._stale_phases.add(room.phase)

    def schedule(self, change: Change) -> bool:
        """Apply now or at its tick; False when it came late. Raises ResourceError for a room that is not here."""
        self.room(change.room_id)
        same = (earlier for earlier in self._scheduled if _concern_the_same(earlier[2], change))
        at_tick = max(change.at_tick, *(earlier[0] for earlier in same), 0)
        if at_tick > self._applied_tick:
            self._order += 1
            heapq.heappush(self._scheduled, (at_tick, self._order, change))
            return True
        self._apply(change)
        return change.at_tick == 0

    @property
    def is_waiting(self) -> bool:
        """Whether a change waits for its tick."""
        return bool(self._scheduled)

    @property
    def phases(self) -> AbstractSet[int]:
        """In which there may be something to mix."""
        return self.groups.keys() | self._stale_phases if self._stale_phases else self.groups.keys()

    def apply_due(self, tick: int) -> None:
        """Before anything mixes `tick`."""
        self._applied_tick = tick
        while self._scheduled and self._scheduled[0][0] <= tick:
            self._apply(heapq.heappop(self._scheduled)[2])
        if self._stale_phases:
            self._rebuild()

    def _apply(self, change: Change) -> None:
        room = self.rooms.get(change.room_id)
        if room is None:
            return  # closed while the change waited
        match change:
            case AddParticipant():
                room.participants[change.leg_id] = MixParticipant(
                    leg_id=change.leg_id,
                    row=change.row,
                    muted=change.muted,
                    deaf=change.deaf,
                    has_track=change.has_track,
                )
            case SetParticipant():
                if (known := room.participants.get(change.leg_id)) is not None:
                    room.participants[change.leg_id] = msgspec.structs.replace(
                        known, muted=change.muted, deaf=change.deaf
                    )
            case RemoveParticipant():
                room.participants.pop(change.leg_id, None)
        self._stale_phases.add(room.phase)

    def _rebuild(self) -> None:
        for phase in self._stale_phases:
            by_rate: dict[int, list[Room]] = {}
            for room in self.rooms.values():
                if room.phase == phase and room.is_occupied:
                    by_rate.setdefault(room.rate_hz, []).append(room)
            groups = [
                Group(self._banks[rate_hz], rooms, with_comfort_noise=self._with_comfort_noise)
                for rate_hz, rooms in by_rate.items()
            ]
            self._fit_taps(phase, groups)
            if groups:
                self.groups[phase] = groups
            else:
                self.groups.pop(phase, None)
        self._stale_phases.clear()

    def _fit_taps(self, phase: int, groups: list[Group]) -> None:
        before = {key: taps for key, taps in self._taps.items() if key[0] == phase}
        for key, taps in before.items():
            del self._taps[key]
            if key[1] not in {group.bank.rate_hz for group in groups}:
                taps.hand_over()
        for group in groups:
            key = (phase, group.bank.rate_hz)
            if key in before or group.is_recorded:
                assert self.backlog is not None
                taps = before.get(key) or Taps(group.bank, self.backlog, group.noise)
                if group.fit(taps):
                    self._taps[key] = taps


def _concern_the_same(one: Change, other: Change) -> bool:
    return (one.room_id, one.leg_id) == (other.room_id, other.leg_id)


def example_membership(banks: dict[int, Bank], rate_hz: int) -> Membership:
    """A room of three on the first rows, for warming up before the first fork."""
    membership = Membership(banks, with_comfort_noise=True)
    membership.open(OpenRoom(room_id="warm", rate_hz=rate_hz, phase=0))
    for index in range(3):
        row = Row(rate_hz=rate_hz, index=index, generation=0)
        membership.schedule(AddParticipant(room_id="warm", leg_id=str(index), row=row))
    membership.apply_due(1)
    return membership
