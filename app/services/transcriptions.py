"""Transcriptions: who is listened to, and what is told of it (rooms.md A15, A16; legs.md 6.5).

Runs in: control.
Owns: which rooms and legs are transcribed, and one session in a stream process for each participant.

Rules
1. A room's transcription follows its participants: whoever joins gets a session, whoever leaves loses it. A leg's own follows
   the leg from row to row.
2. A session that its provider ended is not begun anew; when none is left the transcription is over.
3. A session is known until its `TranscriptionEnded`, so that what was said last is still told.

Not here: providers -> `workers/stream/transcription/`.
"""

import asyncio
import secrets
from typing import Any

import msgspec

from app.legs.leg import Leg
from app.logs import log
from app.rooms.room import Guest, Room
from app.services.requests import (
    TRANSCRIPTION_PROVIDERS,
    Transcribe,
    check_provider,
    check_transcription,
    speech_key,
    transcription_options,
)
from app.services.venues import Venue, Venues
from app.supervisor import Worker
from shm.errors import CallerError, RoomtoneError
from shm.messages import (
    MoveTap,
    Row,
    StartTranscription,
    StopTranscription,
    Transcribed,
    TranscriptionEnded,
)

KIND = "transcription"  # in the ledger
FINALS_WAIT_S = 1.6
LOST_AFTER_S = 1.0


class SessionFacts(msgspec.Struct, omit_defaults=True):
    id: str
    participant_id: str
    app_id: str = ""
    stream_index: int = 0


class TranscriptionFacts(msgspec.Struct, omit_defaults=True, kw_only=True):
    id: str
    venue: Venue
    provider: str
    api_key: str = ""
    language: str = ""
    partial: bool = False
    options: dict[str, str | int | float | list[str]] = {}
    sessions: dict[str, SessionFacts] = {}  # by participant


class Session:
    def __init__(self, facts: SessionFacts, venue: Venue) -> None:
        self.facts = facts
        self.venue = venue
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Transcriptions:
    def __init__(self, venues: Venues) -> None:
        self._venues = venues
        self._running: dict[Venue, TranscriptionFacts] = {}
        self._sessions: dict[str, Session] = {}

    # ---------------------------------------------------------------------------------------- requests

    async def start(self, *, request: Transcribe, room_id: str = "", leg_id: str = "") -> dict[str, Any]:
        venue = Venue(room_id=room_id, leg_id=leg_id)
        venues = self._venues
        check_provider(request.provider, TRANSCRIPTION_PROVIDERS)
        key = speech_key(venues.config, request.provider, request.api_key)
        check_transcription(request)
        venues.app_id(venue)
        if leg_id:
            venues.check_connected(venues.legs.get(leg_id))
        else:
            venues.check_audible(venue)
        if venue in self._running:
            raise CallerError("transcription is already running", 409)
        facts = self._running[venue] = TranscriptionFacts(
            id=secrets.token_hex(8),
            venue=venue,
            provider=request.provider,
            api_key=key,
            language=request.language,
            partial=request.partial,
            options=transcription_options(request),
            sessions={},
        )
        if leg_id:
            self._listen_to_leg(facts, venues.legs.get(leg_id))
            return {"status": "stt_started", "leg_id": leg_id}
        room = venues.rooms.existing(room_id)
        for leg in room.legs.values():
            self._listen_to_leg(facts, leg)
        for guest in room.guests.values():
            if guest.is_client:
                self._listen(facts, guest.id, guest.row, room.facts.phase, room.facts.app_id)
        return {"status": "stt_started", "room_id": room_id, "leg_ids": list(facts.sessions)}

    async def stop(self, *, room_id: str = "", leg_id: str = "") -> dict[str, Any]:
        ended = self.stop_on(Venue(room_id=room_id, leg_id=leg_id))
        if ended is None:
            raise CallerError("transcription is not running", 404)
        if ended:
            await asyncio.wait(ended, timeout=FINALS_WAIT_S)
        return {"status": "stt_stopped"}

    def stop_on(self, venue: Venue) -> "set[asyncio.Future[None]] | None":
        """At once; what is returned is done when the last words are told. None: it does not run."""
        facts = self._running.pop(venue, None)
        if facts is None:
            return None
        self._venues.ledger.drop(KIND, facts.id)
        return {self._hang_up(one) for one in facts.sessions.values() if one.id in self._sessions}

    # ---------------------------------------------------------------------------------------- sessions

    def _listen_to_leg(self, facts: TranscriptionFacts, leg: Leg) -> None:
        if leg.facts.path is not None:
            self._listen(facts, leg.facts.id, leg.facts.path.row, leg.reading_phase, leg.facts.app_id)

    def _listen(self, facts: TranscriptionFacts, participant_id: str, row: Row, phase: int, app_id: str) -> None:
        session = SessionFacts(
            secrets.token_hex(8), participant_id, app_id, secrets.randbelow(len(self._venues.supervisor.stream))
        )
        facts.sessions[participant_id] = session
        self._sessions[session.id] = Session(session, facts.venue)
        self._venues.ledger.put(KIND, facts.id, facts)
        command = StartTranscription(
            session_id=session.id,
            row=row,
            phase=phase,
            provider=facts.provider,
            api_key=facts.api_key,
            language=facts.language,
            partial=facts.partial,
            options=facts.options,
        )
        self._venues.spawn(self._begin(session, command))

    async def _begin(self, session: SessionFacts, command: StartTranscription) -> None:
        try:
            await self._worker(session).call(command)
        except RoomtoneError as error:
            self.ended(TranscriptionEnded(session_id=session.id, error=str(error)))

    async def _move(self, session: SessionFacts, command: MoveTap) -> None:
        """A task like `_begin`, so that it cannot overtake it: a session on a row that is not its leg's hears somebody else."""
        self._worker(session).tell(command)

    def _worker(self, session: SessionFacts) -> Worker:
        return self._venues.supervisor.stream[session.stream_index]

    def _hang_up(self, session: SessionFacts) -> "asyncio.Future[None]":
        self._worker(session).tell(StopTranscription(session_id=session.id))
        return self._sessions[session.id].ended

    # ---------------------------------------------------------------------------------------- comings and goings

    def leg_moved(self, leg: Leg, old: Room | None, new: Room | None) -> None:
        leg_id = leg.facts.id
        for room in (old, new):
            facts = self._running.get(Venue(room_id=room.facts.id)) if room is not None else None
            if facts is None:
                continue
            if room is new:
                self._listen_to_leg(facts, leg)
            else:
                self._forget_participant(facts, leg_id)
        own = self._running.get(Venue(leg_id=leg_id))
        if own is not None and leg_id in own.sessions and leg.facts.path is not None:
            session = own.sessions[leg_id]
            command = MoveTap(
                session_id=session.id, row=leg.facts.path.row, phase=leg.reading_phase, at_tick=leg.moved_at_tick
            )
            self._venues.spawn(self._move(session, command))

    def client_came(self, room: Room, guest: Guest) -> None:
        facts = self._running.get(Venue(room_id=room.facts.id))
        if facts is not None:
            self._listen(facts, guest.id, guest.row, room.facts.phase, room.facts.app_id)

    def client_left(self, room: Room, guest: Guest) -> None:
        facts = self._running.get(Venue(room_id=room.facts.id))
        if facts is not None:
            self._forget_participant(facts, guest.id)

    def _forget_participant(self, facts: TranscriptionFacts, participant_id: str) -> None:
        session = facts.sessions.pop(participant_id, None)
        if session is not None:
            self._venues.ledger.put(KIND, facts.id, facts)
            if session.id in self._sessions:
                self._hang_up(session)

    # ---------------------------------------------------------------------------------------- what stream says

    def transcribed(self, event: Transcribed) -> None:
        session = self._sessions.get(event.session_id)
        if session is not None:
            self._publish(
                session,
                "stt.text",
                text=event.text,
                is_final=event.is_final,
                speech_final=event.speech_final,
                audio_start_ms=event.audio_start_ms,
                audio_end_ms=event.audio_end_ms,
            )

    def ended(self, event: TranscriptionEnded) -> None:
        session = self._sessions.pop(event.session_id, None)
        if session is None:
            return
        if event.error:
            log.info("transcription", session_id=event.session_id, error=event.error)
            self._publish(session, "stt.error", error=event.error)
        session.ended.set_result(None)
        facts = self._running.get(session.venue)
        participant_id = session.facts.participant_id
        if facts is None or facts.sessions.get(participant_id) is not session.facts:
            return
        del facts.sessions[participant_id]
        if facts.sessions:
            self._venues.ledger.put(KIND, facts.id, facts)
        else:
            self.stop_on(session.venue)

    def _publish(self, session: Session, event_type: str, **fields: Any) -> None:
        leg_id = session.facts.participant_id
        if leg_id.startswith("ws-") or self._venues.legs.find(leg_id) is not None:  # nothing after leg.disconnected
            venue = Venue(room_id=session.venue.room_id, leg_id=leg_id)
            self._venues.publish(venue, session.facts.app_id, event_type, **fields)

    # ---------------------------------------------------------------------------------------- other lives

    def stream_restarted(self, worker: Worker) -> None:
        for session in list(self._sessions.values()):
            if session.facts.stream_index == worker.index:
                self.ended(TranscriptionEnded(session_id=session.facts.id, error="the process was restarted"))

    def load(self) -> None:
        for facts in self._venues.ledger.load(KIND, TranscriptionFacts).values():
            self._running[facts.venue] = facts
            for session in facts.sessions.values():
                self._sessions[session.id] = Session(session, facts.venue)

    def reconcile(self, worker: Worker, alive: set[str]) -> None:
        """What of ours is not there has ended: its event comes now, or was lost."""
        lost = [
            session_id
            for session_id, session in self._sessions.items()
            if session.facts.stream_index == worker.index and session_id not in alive
        ]
        asyncio.get_running_loop().call_later(LOST_AFTER_S, self._end_lost, lost)

    def _end_lost(self, session_ids: list[str]) -> None:
        for session_id in session_ids:
            self.ended(TranscriptionEnded(session_id=session_id, error="lost in a restart"))

    def knows(self, session_id: str) -> bool:
        return session_id in self._sessions
