"""Clients: who is in a room by a WebSocket of its own (rooms.md A20).

Runs in: control.
Owns: which client is in which room, on which row, in which stream process.

Rules
1. A client is a guest of its room (`app/rooms/room.py`): it is in the mix and occupies the room, but is no leg and makes no events.
2. It is in the mix before its connection is handed over, and leaves when stream says that the connection is over; whatever
   ends sooner (its room, the stream process) takes it along.
3. It is in the ledger before anything else knows of it, so that a successor finds its row and can tell what became of it.

Not here: frames, pace, time limits -> `workers/stream/sockets.py`; the request -> `app/api/room_socket.py`.
"""

import asyncio
import secrets

import msgspec

from app.logs import log
from app.rooms.room import Guest, Room
from app.services.venues import Venues
from app.supervisor import Worker
from shm.errors import CallerError, ResourceError, RoomtoneError
from shm.messages import AcceptSocket, CloseSocket, Row, SocketClosed

KIND = "client"  # in the ledger
PREFIX = "ws-"
LOST_AFTER_S = 1.0


class ClientFacts(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    room_id: str
    row: Row
    stream_index: int = 0


class Clients:
    def __init__(self, venues: Venues) -> None:
        self._venues = venues
        self._clients: dict[str, ClientFacts] = {}

    def __len__(self) -> int:
        return len(self._clients)

    # ---------------------------------------------------------------------------------------- in

    def check(self, room_id: str) -> None:
        """Raises CallerError 404."""
        self._venues.rooms.existing(room_id)

    async def admit(self, room_id: str) -> str:
        """A new client in the mix of the room; its id. Raises CallerError 404, ResourceError."""
        venues = self._venues
        room = venues.rooms.existing(room_id)
        facts = ClientFacts(
            id=self._new_id(),
            room_id=room_id,
            row=venues.legs.paths.rows.take(room.facts.rate_hz),
            stream_index=self._emptiest_stream(),
        )
        self._clients[facts.id] = facts
        venues.ledger.put(KIND, facts.id, facts)
        try:
            await venues.membership.admit(room, _guest(facts))
        except RoomtoneError:
            self._forget(facts)
            if room.is_deleted:
                raise CallerError("room not found", 404) from None
            raise
        return facts.id

    async def hand_over(self, client_id: str, request: bytes, descriptor: int) -> None:
        """Give its connection to stream, which answers the upgrade request. Raises RoomtoneError; then the client has left."""
        facts = self._clients.get(client_id)
        room = self._venues.rooms.find(facts.room_id) if facts is not None else None
        if facts is None or room is None:
            raise ResourceError("the room or the stream process ended meanwhile")
        command = AcceptSocket(participant_id=client_id, row=facts.row, phase=room.facts.phase, head=request)
        try:
            await self._server(facts).call(command, descriptors=(descriptor,))
        except RoomtoneError as error:
            log.warning("room socket", participant_id=client_id, error=str(error))
            self._forget(facts)
            raise

    def _new_id(self) -> str:
        while (client_id := PREFIX + secrets.token_hex(4)) in self._clients:
            continue
        return client_id

    def _emptiest_stream(self) -> int:
        load = [0] * len(self._venues.supervisor.stream)
        for facts in self._clients.values():
            load[facts.stream_index] += 1
        return load.index(min(load))

    def _server(self, facts: ClientFacts) -> Worker:
        return self._venues.supervisor.stream[facts.stream_index]

    # ---------------------------------------------------------------------------------------- out

    def closed(self, event: SocketClosed) -> None:
        facts = self._clients.get(event.participant_id)
        if facts is not None:
            self._forget(facts)

    def end_in(self, room: Room) -> None:
        """The room is deleted: everybody there is sent away (1001)."""
        for facts in list(self._clients.values()):
            if facts.room_id == room.facts.id:
                self._send_away(facts)

    def end_all(self) -> None:
        for facts in list(self._clients.values()):
            self._send_away(facts)

    def _send_away(self, facts: ClientFacts) -> None:
        self._server(facts).tell(CloseSocket(participant_id=facts.id))
        self._forget(facts)

    def _forget(self, facts: ClientFacts) -> None:
        """Out of its room; the row rests longer than stream takes to hear of it. Idempotent."""
        if self._clients.pop(facts.id, None) is None:
            return
        self._venues.ledger.drop(KIND, facts.id)
        room = self._venues.rooms.find(facts.room_id)
        if room is not None:
            self._venues.membership.dismiss(room, facts.id)
        self._venues.legs.paths.rows.give_back(facts.row)

    # ---------------------------------------------------------------------------------------- other lives

    def stream_restarted(self, worker: Worker) -> None:
        self._forget_lost([facts for facts in self._clients.values() if facts.stream_index == worker.index])

    def rows(self) -> list[Row]:
        """In a new control: rows in use."""
        return [facts.row for facts in self._venues.ledger.load(KIND, ClientFacts).values()]

    def load(self) -> None:
        """After the rooms."""
        for facts in self._venues.ledger.load(KIND, ClientFacts).values():
            self._clients[facts.id] = facts
            room = self._venues.rooms.find(facts.room_id)
            if room is None:  # the predecessor died while it deleted the room
                self._forget(facts)
            else:
                room.guests[facts.id] = _guest(facts)

    def reconcile(self, worker: Worker, alive: set[str]) -> None:
        """Who is not there has left: the event of it comes now, or the predecessor died before the connection was handed over."""
        lost = [one for one in self._clients.values() if one.stream_index == worker.index and one.id not in alive]
        asyncio.get_running_loop().call_later(LOST_AFTER_S, self._forget_lost, lost)

    def _forget_lost(self, lost: list[ClientFacts]) -> None:
        for facts in lost:
            self._forget(facts)

    def knows(self, client_id: str) -> bool:
        return client_id in self._clients


def _guest(facts: ClientFacts) -> Guest:
    return Guest(facts.id, facts.row, is_client=True)
