"""All services together, as rooms, workers and the API see them.

Runs in: control.
Owns: the order in which services end (rooms.md A5), and rule L4: what a room that is no longer occupied loses.

Rule: nothing here waits; whoever has to wait for a recording gets a future.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from app.legs.leg import Leg
from app.rooms.conference import Conference
from app.rooms.room import Guest, Room
from app.services.agents import Agents
from app.services.clients import Clients
from app.services.playbacks import Playbacks
from app.services.recordings import Recordings
from app.services.speech import Speech
from app.services.transcriptions import Transcriptions
from app.services.venues import Venue, Venues
from app.supervisor import Order, Worker
from shm import messages
from shm.messages import Row

END_LIMIT_S = 2.5


class Services:
    """Implements `app.rooms.services.Services`."""

    def __init__(self, conference: Conference) -> None:
        self.venues = Venues(conference)
        self.playbacks = Playbacks(self.venues)
        self.speech = Speech(self.venues, self.playbacks)
        self.recordings = Recordings(self.venues)
        self.transcriptions = Transcriptions(self.venues)
        self.agents = Agents(self.venues)
        self.clients = Clients(self.venues)
        self._reactions: dict[type, Callable[[Any], None]] = {
            messages.PlaybackStarted: self.playbacks.started,
            messages.PlaybackFinished: self.playbacks.finished,
            messages.RecordingStarted: self.recordings.started,
            messages.RecordingFinished: self.recordings.finished,
            messages.ClipFailed: self.playbacks.clip_failed,
            messages.Uploaded: self.recordings.uploaded,
            messages.Transcribed: self.transcriptions.transcribed,
            messages.TranscriptionEnded: self.transcriptions.ended,
            messages.AgentConnected: self.agents.connected,
            messages.AgentSaid: self.agents.said,
            messages.AgentEnded: self.agents.ended,
            messages.SocketClosed: self.clients.closed,
        }
        conference.rooms.services = self

    # ---------------------------------------------------------------------------------------- what rooms ask

    def needs_mix(self, leg: Leg) -> bool:
        venue = Venue(leg_id=leg.facts.id)
        return bool(self.playbacks.on(venue) or self.recordings.runs_on(venue) or self.agents.runs_on(venue))

    def is_finishing(self, room_id: str) -> bool:
        return self.recordings.is_finishing(room_id)

    def moved(self, leg: Leg, old: Room | None, new: Room | None) -> None:
        self.transcriptions.leg_moved(leg, old, new)
        if new is not None:
            self.playbacks.leg_moved(leg)
            self.recordings.leg_moved(leg)
            self.agents.leg_moved(leg)
        if old is not None and not old.is_hidden and not old.is_deleted:
            self.vacated(old)

    def guest_came(self, room: Room, guest: Guest) -> None:
        if guest.is_client:
            self.transcriptions.client_came(room, guest)

    def guest_left(self, room: Room, guest: Guest) -> None:
        if guest.is_client:
            self.transcriptions.client_left(room, guest)
            self.vacated(room)

    def vacated(self, room: Room) -> None:
        """Somebody left: rooms.md L4, if nobody is left."""
        if not room.is_occupied:
            self._end(Venue(room_id=room.facts.id))

    def leg_ends(self, leg: Leg) -> Awaitable[object] | None:
        return self._end(Venue(leg_id=leg.facts.id))

    def room_ends(self, room: Room) -> Awaitable[object] | None:
        ending = self._end(Venue(room_id=room.facts.id))
        self.clients.end_in(room)
        return ending

    def _end(self, venue: Venue) -> Awaitable[object] | None:
        self.agents.end_on(venue)
        self.playbacks.end_all_on(venue)
        self.transcriptions.stop_on(venue)
        return self.recordings.stop_on(venue)

    async def end_all(self) -> None:
        await self.recordings.end_all(END_LIMIT_S)
        self.clients.end_all()

    # ---------------------------------------------------------------------------------------- what workers say

    def take(self, _worker: Worker, event: Any, descriptors: Sequence[int]) -> None:
        if isinstance(event, messages.ClipReady):
            self.playbacks.clip_ready(event, descriptors)
        elif (react := self._reactions.get(type(event))) is not None:
            react(event)

    def stream_restarted(self, worker: Worker) -> None:
        self.playbacks.stream_restarted(worker)
        self.transcriptions.stream_restarted(worker)
        self.agents.stream_restarted(worker)
        self.clients.stream_restarted(worker)

    def replay(self, room_id: str, room: Room | None) -> Iterator[Order]:
        if room is not None:
            yield from self.playbacks.replay(room_id)
        yield from self.recordings.replay(room_id, room)

    # ---------------------------------------------------------------------------------------- a new control

    def rows(self) -> list[Row]:
        return [*self.agents.rows(), *self.clients.rows()]

    def load(self) -> None:
        self.playbacks.load()
        self.recordings.load()
        self.transcriptions.load()
        self.agents.load()
        self.clients.load()

    def reconcile_room(self, worker: Worker, inventory: list[Any]) -> None:
        lent, worker.lent = worker.lent, {}
        for place, part in enumerate(inventory):
            if part.playback is not None:
                self.playbacks.reconcile(worker, part.playback, lent.get(place, ()))
            if part.recording is not None:
                self.recordings.reconcile(worker, part.recording, is_stopping=part.is_stopping)

    def reconcile_stream(self, worker: Worker, inventory: list[Any]) -> None:
        alive = {session_id for part in inventory for session_id in part.session_ids}
        self.transcriptions.reconcile(worker, alive)
        self.agents.reconcile(worker, alive)
        self.clients.reconcile(worker, alive)
        asyncio.get_running_loop().call_later(END_LIMIT_S, self._end_strangers, worker, alive)

    def _end_strangers(self, worker: Worker, alive: set[str]) -> None:
        """Sessions that our predecessor had ended for the world, but not yet for stream. Unknown ids mean nothing there."""
        kinds = (self.transcriptions, self.agents, self.playbacks, self.clients)
        for session_id in alive:
            if not any(kind.knows(session_id) for kind in kinds):
                worker.tell(messages.CloseSocket(participant_id=session_id))
                worker.tell(messages.StopTranscription(session_id=session_id))
                worker.tell(messages.StopAgent(session_id=session_id))
                worker.tell(messages.CancelClip(clip_id=session_id))

    def resume(self) -> None:
        self.playbacks.resume()
        self.recordings.resume_all()
        self.agents.resume()
