"""Agents: conversational AIs attached to rooms and legs (rooms.md A17 to A19, legs.md 6.6, media.md 11).

Runs in: control.
Owns: which room or leg has which agent, and the row that each agent speaks on.

Rules
1. An agent is a guest of a room (`app/rooms/room.py`): its row is in the mix. One of a leg hears that leg alone and is heard by
   everybody in the leg's room, or by the leg in a hidden one; it follows the leg.
2. `agent.disconnected` comes once for each agent started, whatever ends it, also when there never was a connection. What was
   not asked for is logged with its reason. A connection that is lost is not made anew: that is the caller's to decide.
3. An agent may wait in an empty room; it ends when the room ceases to be occupied (`Services.vacated`).

Not here: vendors -> `workers/stream/agents/`.
"""

import asyncio
import secrets
from typing import Any

import msgspec

from app.legs.leg import Leg
from app.logs import log
from app.rooms.room import Guest, Room
from app.services.requests import (
    AgentMessage,
    DeepgramAgent,
    ElevenLabsAgent,
    PipecatAgent,
    VapiAgent,
    check_bot,
    key_of,
)
from app.services.venues import Venue, Venues
from app.supervisor import Worker
from shm.errors import CallerError, PeerError, ResourceError, RoomtoneError
from shm.messages import (
    AgentConnected,
    AgentEnded,
    AgentSaid,
    MoveTap,
    Row,
    SendAgentMessage,
    StartAgent,
    StopAgent,
)

KIND = "agent"  # in the ledger
LOST_AFTER_S = 1.0
WITHOUT_MESSAGES = ("elevenlabs",)

AgentRequest = ElevenLabsAgent | VapiAgent | PipecatAgent | DeepgramAgent


class AgentFacts(msgspec.Struct, omit_defaults=True, kw_only=True):
    """In the ledger; without the key, which nobody needs once the vendor is dialled."""

    id: str  # of the guest
    session_id: str
    venue: Venue
    provider: str
    app_id: str = ""
    stream_index: int = 0
    mixed_in: str = ""
    row: Row | None = None
    is_connected: bool = False


class Agents:
    def __init__(self, venues: Venues) -> None:
        self._venues = venues
        self._agents: dict[Venue, AgentFacts] = {}
        self._by_session: dict[str, AgentFacts] = {}

    def runs_on(self, venue: Venue) -> bool:
        return venue in self._agents

    # ---------------------------------------------------------------------------------------- requests

    async def start_elevenlabs(
        self, *, request: ElevenLabsAgent, room_id: str = "", leg_id: str = ""
    ) -> dict[str, Any]:
        return self._start("elevenlabs", request, request.api_key, Venue(room_id=room_id, leg_id=leg_id))

    async def start_vapi(self, *, request: VapiAgent, room_id: str = "", leg_id: str = "") -> dict[str, Any]:
        return self._start("vapi", request, request.api_key, Venue(room_id=room_id, leg_id=leg_id))

    async def start_pipecat(self, *, request: PipecatAgent, room_id: str = "", leg_id: str = "") -> dict[str, Any]:
        check_bot(request)
        return self._start("pipecat", request, "", Venue(room_id=room_id, leg_id=leg_id))

    async def start_deepgram(self, *, request: DeepgramAgent, room_id: str = "", leg_id: str = "") -> dict[str, Any]:
        return self._start("deepgram", request, request.api_key, Venue(room_id=room_id, leg_id=leg_id))

    def _start(self, provider: str, request: AgentRequest, own_key: str, venue: Venue) -> dict[str, Any]:
        venues = self._venues
        fields = {name: value for name, value in msgspec.structs.asdict(request).items() if name != "api_key"}
        settings = msgspec.json.encode(fields)
        key = key_of(venues.config, provider, own_key)
        app_id = venues.app_id(venue)
        if venue.leg_id:
            venues.check_connected(venues.legs.get(venue.leg_id))
        if venue in self._agents:
            raise CallerError("an agent is already attached", 409)
        facts = AgentFacts(
            id=f"agent-{secrets.token_hex(4)}",
            session_id=secrets.token_hex(8),
            venue=venue,
            provider=provider,
            app_id=app_id,
            stream_index=secrets.randbelow(len(venues.supervisor.stream)),
        )
        self._agents[venue] = self._by_session[facts.session_id] = facts
        self._save(facts)
        self._log(facts, "info", "agent started")
        venues.spawn(self._begin(facts, key, settings))
        where = {"leg_id": venue.leg_id} if venue.leg_id else {"room_id": venue.room_id}
        return {"status": "agent_started", **where}

    async def send_message(self, *, request: AgentMessage, room_id: str = "", leg_id: str = "") -> dict[str, Any]:
        facts = self._get(Venue(room_id=room_id, leg_id=leg_id))
        if not facts.is_connected:
            raise CallerError("the agent is not connected", 409)
        if facts.provider in WITHOUT_MESSAGES:
            raise CallerError(f"{facts.provider} agents take no messages", 501)
        try:
            await self._maker(facts).call(SendAgentMessage(session_id=facts.session_id, text=request.message))
        except CallerError as error:
            raise CallerError(str(error), 409) from None
        except (PeerError, ResourceError) as error:
            raise CallerError(str(error), 500) from None
        return {"status": "message_sent"}

    async def stop(self, *, room_id: str = "", leg_id: str = "") -> dict[str, Any]:
        self._end(self._get(Venue(room_id=room_id, leg_id=leg_id)))
        return {"status": "agent_stopped"}

    def _get(self, venue: Venue) -> AgentFacts:
        facts = self._agents.get(venue)
        if facts is None:
            raise CallerError("no agent is attached", 404)
        return facts

    # ---------------------------------------------------------------------------------------- begin

    async def _begin(self, facts: AgentFacts, key: str, settings: bytes) -> None:
        venues = self._venues
        try:
            if facts.venue.leg_id:
                async with venues.entered(facts.venue) as (room, _worker):
                    await self._attach(facts, key, settings, room, venues.legs.get(facts.venue.leg_id))
            else:
                await self._attach(facts, key, settings, venues.rooms.existing(facts.venue.room_id), None)
        except RoomtoneError as error:
            self._fail(facts, str(error))

    async def _attach(self, facts: AgentFacts, key: str, settings: bytes, room: Room, leg: Leg | None) -> None:
        """Into the room and onto the vendor's line. Does nothing once it is over."""
        if self._is_over(facts) or not await self._admit(facts, room):
            return
        assert facts.row is not None
        hears = leg.facts.path.row if leg is not None and leg.facts.path is not None else None
        await self._maker(facts).call(
            StartAgent(
                session_id=facts.session_id,
                row=facts.row,
                phase=room.facts.phase,
                provider=facts.provider,
                api_key=key,
                settings=settings,
                hears=hears,
            )
        )

    async def _admit(self, facts: AgentFacts, room: Room) -> bool:
        """Into the mix; False when it ended meanwhile, and then it is out again."""
        rows = self._venues.legs.paths.rows
        if facts.row is None or facts.row.rate_hz != room.facts.rate_hz:
            fresh = rows.take(room.facts.rate_hz)
            if facts.row is not None:
                rows.give_back(facts.row)
            facts.row = fresh
        facts.mixed_in = room.facts.id
        self._save(facts)
        await self._venues.membership.admit(room, self._guest(facts))
        if self._is_over(facts):
            self._let_go(facts)
            return False
        return True

    @staticmethod
    def _guest(facts: AgentFacts) -> Guest:
        assert facts.row is not None
        return Guest(facts.id, facts.row, is_deaf=bool(facts.venue.leg_id))

    def _is_over(self, facts: AgentFacts) -> bool:
        return self._agents.get(facts.venue) is not facts

    def _maker(self, facts: AgentFacts) -> Worker:
        return self._venues.supervisor.stream[facts.stream_index]

    # ---------------------------------------------------------------------------------------- what stream says

    def connected(self, event: AgentConnected) -> None:
        facts = self._by_session.get(event.session_id)
        if facts is not None and not facts.is_connected:
            facts.is_connected = True
            self._save(facts)
            self._publish(facts, "agent.connected", conversation_id=event.conversation_id)

    def said(self, event: AgentSaid) -> None:
        facts = self._by_session.get(event.session_id)
        if facts is not None:
            self._publish(facts, "agent.user_transcript" if event.by_user else "agent.agent_response", text=event.text)

    def ended(self, event: AgentEnded) -> None:
        facts = self._by_session.get(event.session_id)
        if facts is not None:
            self._fail(facts, event.error or "the vendor hung up")

    # ---------------------------------------------------------------------------------------- the end

    def end_on(self, venue: Venue) -> None:
        """At once."""
        facts = self._agents.get(venue)
        if facts is not None:
            self._end(facts)

    def _fail(self, facts: AgentFacts, why: str) -> None:
        if not self._is_over(facts):
            self._log(facts, "warning", "agent ended", error=why)
            self._end(facts)

    @staticmethod
    def _log(facts: AgentFacts, level: str, event: str, **fields: str) -> None:
        """What stream logs of it meanwhile has the same `session_id`."""
        where = {name: value for name, value in msgspec.structs.asdict(facts.venue).items() if value}
        getattr(log, level)(event, **where, provider=facts.provider, session_id=facts.session_id, **fields)

    def _end(self, facts: AgentFacts) -> None:
        if self._is_over(facts):
            return
        del self._agents[facts.venue], self._by_session[facts.session_id]
        self._venues.ledger.drop(KIND, facts.id)
        self._maker(facts).tell(StopAgent(session_id=facts.session_id))
        self._let_go(facts)
        self._publish(facts, "agent.disconnected")
        self._venues.settle(facts.venue)

    def _let_go(self, facts: AgentFacts) -> None:
        """Out of its room; the row rests longer than stream takes to hear of it."""
        room = self._venues.rooms.mixed(facts.mixed_in) if facts.mixed_in else None
        if room is not None:
            self._venues.membership.dismiss(room, facts.id)
        if facts.row is not None:
            self._venues.legs.paths.rows.give_back(facts.row)
            facts.row = None

    def _publish(self, facts: AgentFacts, event_type: str, **fields: Any) -> None:
        self._venues.publish(facts.venue, facts.app_id, event_type, **fields)

    def _save(self, facts: AgentFacts) -> None:
        self._venues.ledger.put(KIND, facts.id, facts)

    # ---------------------------------------------------------------------------------------- moves

    def leg_moved(self, leg: Leg) -> None:
        facts = self._agents.get(Venue(leg_id=leg.facts.id))
        if facts is not None and facts.mixed_in:
            self._venues.spawn(self._follow(facts, leg))

    async def _follow(self, facts: AgentFacts, leg: Leg) -> None:
        async with leg.lock:
            room = self._venues.rooms.of(leg)
            path = leg.facts.path
            if self._is_over(facts) or room is None or path is None:
                return
            if room.facts.id != facts.mixed_in and not await self._change(facts, room):
                return
            self._maker(facts).tell(
                MoveTap(
                    session_id=facts.session_id,
                    row=path.row,
                    phase=room.facts.phase,
                    at_tick=leg.moved_at_tick,
                    speaks=facts.row,
                )
            )

    async def _change(self, facts: AgentFacts, room: Room) -> bool:
        """From the mix of one room into another's; False when that was its end."""
        old = self._venues.rooms.mixed(facts.mixed_in)
        if old is not None:
            self._venues.membership.dismiss(old, facts.id)
        try:
            return await self._admit(facts, room)
        except RoomtoneError as error:
            self._fail(facts, str(error))
            return False

    # ---------------------------------------------------------------------------------------- other lives

    def stream_restarted(self, worker: Worker) -> None:
        for facts in list(self._agents.values()):
            if facts.stream_index == worker.index:
                self._fail(facts, f"{worker.name} was restarted")

    def rows(self) -> list[Row]:
        """In a new control: rows in use."""
        known = self._venues.ledger.load(KIND, AgentFacts).values()
        return [facts.row for facts in known if facts.row is not None]

    def load(self) -> None:
        """After the rooms."""
        for facts in self._venues.ledger.load(KIND, AgentFacts).values():
            self._agents[facts.venue] = self._by_session[facts.session_id] = facts
            room = self._venues.rooms.mixed(facts.mixed_in) if facts.mixed_in else None
            if room is not None and facts.row is not None:
                room.guests[facts.id] = self._guest(facts)

    def reconcile(self, worker: Worker, alive: set[str]) -> None:
        """What is not there has ended: its event comes now, or was lost, or the predecessor died before it began."""
        lost = [
            one for one in self._agents.values() if one.stream_index == worker.index and one.session_id not in alive
        ]
        asyncio.get_running_loop().call_later(LOST_AFTER_S, self._end_lost, lost)

    def resume(self) -> None:
        """In a new control: what its predecessor may have left undone when a leg had just moved."""
        for facts in self._agents.values():
            leg = self._venues.legs.find(facts.venue.leg_id) if facts.mixed_in else None
            if leg is not None:
                self._venues.spawn(self._follow(facts, leg))

    def _end_lost(self, lost: list[AgentFacts]) -> None:
        for facts in lost:
            self._fail(facts, "lost with the control process that began it")

    def knows(self, session_id: str) -> bool:
        return session_id in self._by_session
