"""What outlives a process: a worker's successor is told what it must know, a new control finds out what is.

Runs in: control.
Owns: nothing; it compares what legs and rooms wish with what workers have.

Rules
1. The ledger says what is wished, an inventory what is. Where they differ the wish is sent again; what nobody wishes is ended.
2. What ended while no control was there comes as an event of the worker's outbox, right behind its inventory. So a call that an
   inventory lacks is given SETTLE_S for that event, and a call that the ledger lacks for its arrival.
3. Sip may die together with control: the dialogs are in the ledger too, an inventory has them newer.

Not here: when workers are restarted and met -> `app/supervisor/`.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from app.legs.answering import Answering
from app.legs.legs import Legs
from app.rooms.membership import Membership
from app.rooms.room import NO_PHASE, Room
from app.rooms.rooms import Rooms
from app.supervisor import Order, Worker
from shm.errors import RoomtoneError
from shm.messages import (
    CloseLeg,
    Command,
    Dialog,
    Hangup,
    Listen,
    MixParticipant,
    PlaceLeg,
    Reject,
    RemoveParticipant,
    RestoreDialog,
    RoomInventoryPart,
    RtpInventoryPart,
    SipCall,
    SipInventoryPart,
)

SETTLE_S = 1.0
INTERNAL_ERROR = 500


class Recovery:
    def __init__(self, legs: Legs, rooms: Rooms, membership: Membership, answering: Answering) -> None:
        self._legs = legs
        self._rooms = rooms
        self._membership = membership
        self._answering = answering
        self._replays: dict[str, Callable[[Worker], Iterator[Command | Order]]] = {
            "sip": self._dialogs,
            "rtp": self._paths,
            "room": self._mixes,
            "stream": self._nothing,
        }
        self._reconciles: dict[str, Callable[[Worker, list[Any]], None]] = {
            "sip": self._reconcile_calls,
            "rtp": self._reconcile_paths,
            "room": self._reconcile_mixes,
            "stream": self._reconcile_sessions,
        }

    # ---------------------------------------------------------------------------------------- a fresh worker

    def replay(self, worker: Worker) -> Iterable[Command | Order]:
        """Everything a fresh process of that name must know."""
        return self._replays[worker.kind](worker)

    def _dialogs(self, _worker: Worker) -> Iterator[Command | Order]:
        for leg in (*self._legs, *self._legs.leaving.values()):
            if leg.dialog is not None:
                yield RestoreDialog(dialog=leg.dialog)
        yield Listen()

    def _paths(self, worker: Worker) -> Iterator[Command | Order]:
        for leg in self._legs:
            if leg.facts.path is not None and leg.facts.path.rtp_index == worker.index:
                yield self._legs.paths.reopening(leg)

    def _mixes(self, worker: Worker) -> Iterator[Command | Order]:
        for room_id in self._legs.supervisor.rooms_on(worker):
            room = self._rooms.mixed(room_id)
            if room is not None and room.facts.phase != NO_PHASE:
                self._rooms.mixing.adopt(room, worker)
                yield room.opening_command()
                yield from room.entries()
            yield from self._rooms.services.replay(room_id, room)

    @staticmethod
    def _nothing(_worker: Worker) -> Iterator[Command | Order]:
        """What hung on the connections of a dead stream process is over."""
        yield from ()

    # ---------------------------------------------------------------------------------------- a new control

    def load(self) -> None:
        """Before any worker is met."""
        services = self._rooms.services
        self._legs.load(services.rows())
        self._rooms.load()
        services.load()

    def reconcile(self, worker: Worker, inventory: list[Any]) -> None:
        """`worker` was alive before us and has told what it has."""
        self._reconciles[worker.kind](worker, inventory)

    def resume(self) -> None:
        """All workers are met or started: go on with what the predecessor had begun."""
        for room in self._rooms.all_mixed():
            if room.size and room.worker is None:
                self._legs.spawn(self._reopen(room))
        self._rooms.services.resume()
        for leg in self._legs:
            self._legs.arm(leg)
            if leg.facts.wished_room_id and leg.facts.state in ("early_media", "connected"):
                self._legs.spawn(self._membership.join_wished(leg))

    async def _reopen(self, room: Room) -> None:
        try:
            worker = await self._rooms.mixing.open(room)
        except RoomtoneError:
            if not room.is_deleted:
                self._rooms.remove(room, "mixer_panic")
            return
        for entry in room.entries():
            worker.tell(entry)
        for one in self._rooms.services.replay(room.facts.id, room):
            worker.tell(*(one if isinstance(one, Order) else Order(one)))

    def _reconcile_calls(self, worker: Worker, inventory: list[SipInventoryPart]) -> None:
        calls = {call.leg_id: call for part in inventory for call in part.calls}
        missing = {leg.facts.id: leg.dialog for leg in self._legs if leg.facts.id not in calls}
        if not all(part.listens for part in inventory):  # its control died before it had told what its predecessor knew
            for order in self._dialogs(worker):
                worker.tell(*(order if isinstance(order, Order) else Order(order)))
            missing = {leg_id: None for leg_id, dialog in missing.items() if dialog is None}
        for leg in self._legs:
            call = calls.get(leg.facts.id)
            if call is None:
                continue
            leg.dialog = call.dialog
            if call.dialog is not None and leg.facts.media is None:
                leg.facts.media = call.dialog.media
            if leg.facts.is_answered and call.state in ("incoming", "early"):
                self._answering.order(leg)
        asyncio.get_running_loop().call_later(SETTLE_S, self._end_orphans, worker, calls, missing)

    def _end_orphans(self, sip: Worker, calls: dict[str, SipCall], missing: dict[str, Dialog | None]) -> None:
        """`missing`: the legs that sip did not name, with the dialog known then; a newer one came from sip itself."""
        for leg_id, call in calls.items():
            if self._legs.find(leg_id) is None:
                is_ringing = call.state == "incoming"
                sip.tell(Reject(leg_id=leg_id, status=INTERNAL_ERROR) if is_ringing else Hangup(leg_id=leg_id))
        for leg_id, dialog in missing.items():
            leg = self._legs.find(leg_id)
            if leg is not None and leg.dialog is dialog:
                is_dialled = leg.facts.type == "sip_outbound" and not leg.facts.connected_ns
                self._legs.hang_up(leg, "invite_failed" if is_dialled else "server_error")

    def _reconcile_paths(self, worker: Worker, inventory: list[RtpInventoryPart]) -> None:
        found = {one.leg_id: one for part in inventory for one in part.legs}
        for leg in list(self._legs):
            path = leg.facts.path
            if path is None or path.rtp_index != worker.index:
                continue
            here = found.pop(leg.facts.id, None)
            if here is None:
                worker.tell(self._legs.paths.reopening(leg))
                continue
            if here.row != path.row:
                worker.tell(PlaceLeg(leg_id=leg.facts.id, row=path.row, phase=leg.phase))
            self._legs.paths.set_media(leg)
            leg.is_speaking = here.speaking
            self._legs.follow_speech(leg)
        for leg_id in found:
            worker.tell(CloseLeg(leg_id=leg_id))

    def _reconcile_sessions(self, worker: Worker, inventory: list[Any]) -> None:
        self._rooms.services.reconcile_stream(worker, inventory)

    def _reconcile_mixes(self, worker: Worker, inventory: list[RoomInventoryPart]) -> None:
        mixed: dict[str, dict[str, MixParticipant]] = {}
        for part in inventory:
            if not part.room_id:
                continue
            mixed.setdefault(part.room_id, {}).update({one.leg_id: one for one in part.participants})
            room = self._rooms.mixed(part.room_id)
            is_finishing = self._rooms.services.is_finishing(part.room_id)
            if room is None or not (room.size or is_finishing):
                if not is_finishing:
                    self._legs.supervisor.release_room(part.room_id, at_once=True)
                continue
            room.facts.phase = part.phase
            self._rooms.mixing.adopt(room, worker)
        self._rooms.services.reconcile_room(worker, inventory)
        for room_id, present in mixed.items():
            room = self._rooms.mixed(room_id)
            if room is not None and room.worker is worker:
                self._reconcile_mix(worker, room, present)

    @staticmethod
    def _reconcile_mix(worker: Worker, room: Room, present: dict[str, MixParticipant]) -> None:
        for leg_id in present.keys() - room.legs.keys() - room.guests.keys():
            worker.tell(RemoveParticipant(room_id=room.facts.id, leg_id=leg_id))
        for entry in room.entries():
            wished = MixParticipant(
                leg_id=entry.leg_id, row=entry.row, muted=entry.muted, deaf=entry.deaf, has_track=entry.has_track
            )
            if present.get(entry.leg_id) != wished:
                worker.tell(entry)
