"""Playbacks: files, tones and speech, from the request to their one last event.

Runs in: control.
Owns: what plays or is about to, where, and each clip's descriptor.

Rules
1. A playback ends by one event: when its room worker says so, when its clip fails, or when control ends it (leg or room gone,
   room unoccupied); whoever is first, `_end` is the only way out.
2. Where it takes place is `mixed_in`, set once that worker has confirmed; what another room says of it is of the past.
3. A playback of a leg follows it: stopped there, and once it is known how much was heard, started here at that place.
4. Its clip is made by a stream process under the playback's id. A clip whose maker has died while it grew is given up.
5. In the ledger from the reply to the end. A new control finds a clip in the inventory of the room worker that plays it; one
   that nobody plays yet is made again.

Not here: what one playback is -> `playback.py`; checks of speech -> `speech.py`; the sound -> `workers/room/`, `workers/stream/`.
"""

import asyncio
import os
import secrets
from collections.abc import Iterator, Sequence
from typing import Any
from zlib import crc32

import msgspec

from app.legs.leg import Leg
from app.rooms.room import Room
from app.services.playback import TICK_MS, Playback, PlaybackFacts
from app.services.requests import Play, Volume, check_play, check_volume
from app.services.venues import Venue, Venues
from app.supervisor import Order, Worker
from shm.clip import abandon
from shm.clock import tick_now
from shm.errors import CallerError, RoomtoneError
from shm.messages import (
    CancelClip,
    ClipFailed,
    ClipReady,
    FetchClip,
    PlaybackFinished,
    PlaybackStarted,
    SetVolume,
    StartPlayback,
    StopPlayback,
    Synthesize,
)

KIND = "playback"  # in the ledger
STOP_WAIT_S = 2.0  # for the worker's word, before a stop is answered
LOST_AFTER_S = 1.0  # in a new control: what ended meanwhile is told right behind the inventory


class Playbacks:
    def __init__(self, venues: Venues) -> None:
        self._venues = venues
        self._playbacks: dict[str, Playback] = {}

    def on(self, venue: Venue) -> list[Playback]:
        return [one for one in self._playbacks.values() if one.facts.venue == venue]

    def knows(self, playback_id: str) -> bool:
        return playback_id in self._playbacks

    # ---------------------------------------------------------------------------------------- requests

    async def play(self, *, request: Play, room_id: str = "", leg_id: str = "") -> dict[str, Any]:
        venue = Venue(room_id=room_id, leg_id=leg_id)
        app_id = self._venues.app_id(venue)
        tone = check_play(request)
        self._venues.check_audible(venue)
        repeat = 0 if request.repeat < 0 else max(request.repeat, 1)
        facts = PlaybackFacts(
            id=f"pb-{secrets.token_hex(4)}",
            venue=venue,
            app_id=app_id,
            tone=tone,
            url=request.url,
            mime_type=request.mime_type,
            volume=request.volume,
            repeat=repeat,
        )
        self.begin(facts)
        return {"playback_id": facts.id, "status": "playing"}

    async def set_volume(
        self, *, playback_id: str, request: Volume, room_id: str = "", leg_id: str = ""
    ) -> dict[str, Any]:
        check_volume(request.volume)
        playback = self._get(playback_id, Venue(room_id=room_id, leg_id=leg_id))
        facts = playback.facts
        facts.volume = request.volume
        self._save(playback)
        worker = self._venues.worker_of(facts.mixed_in) if facts.mixed_in else None
        if worker is not None:
            command = SetVolume(room_id=facts.mixed_in, playback_id=facts.id, volume=facts.volume)
            try:
                await worker.call(command)
            except CallerError:
                if playback.is_over:
                    raise CallerError("no such playback is running", 404) from None
        return {"status": "ok"}

    async def stop(self, *, playback_id: str, room_id: str = "", leg_id: str = "") -> dict[str, Any]:
        playback = self._get(playback_id, Venue(room_id=room_id, leg_id=leg_id))
        facts = playback.facts
        playback.is_stopping = True
        worker = self._venues.worker_of(facts.mixed_in) if facts.mixed_in else None
        if worker is None:
            self._end(playback, "stopped", 0)
        else:
            self._cancel_clip(playback)
            worker.tell(StopPlayback(room_id=facts.mixed_in, playback_id=facts.id))
            await asyncio.wait({playback.ended}, timeout=STOP_WAIT_S)
            self._end(playback, "stopped", playback.played_ms())
        return {"status": "stopped"}

    def _get(self, playback_id: str, venue: Venue) -> Playback:
        playback = self._playbacks.get(playback_id)
        if playback is None or playback.facts.venue != venue or playback.is_stopping:
            raise CallerError("no such playback is running", 404)
        return playback

    # ---------------------------------------------------------------------------------------- begin

    def begin(self, facts: PlaybackFacts) -> None:
        """It exists from now on; `facts` lack only what is found out here."""
        playback = self._playbacks[facts.id] = Playback(facts)
        facts.rate_hz = self._venues.rate_hz(facts.venue)
        facts.stream_index = self._maker_index(facts)
        self._save(playback)
        self._venues.spawn(self._prepare(playback))

    def _maker_index(self, facts: PlaybackFacts) -> int:
        """Equal texts go to the same process, so that they are synthesised once (media.md 9.7); fetches go anywhere."""
        count = len(self._venues.supervisor.stream)
        return crc32(facts.speech.text.encode()) % count if facts.speech is not None else secrets.randbelow(count)

    async def _prepare(self, playback: Playback) -> None:
        facts = playback.facts
        if facts.tone:
            await self._start(playback)
            return
        command: FetchClip | Synthesize = facts.speech or FetchClip(
            clip_id=facts.id, url=facts.url, mime_type=facts.mime_type, rate_hz=facts.rate_hz
        )
        if isinstance(command, Synthesize):
            command = msgspec.structs.replace(command, rate_hz=facts.rate_hz)
        try:
            await self._maker(facts).call(command)
        except RoomtoneError as error:
            self._fail(playback, str(error), "service_unavailable")

    def _maker(self, facts: PlaybackFacts) -> Worker:
        return self._venues.supervisor.stream[facts.stream_index]

    async def _start(self, playback: Playback) -> None:
        """Everything is there: let it play. Does nothing once it is over."""
        facts = playback.facts
        try:
            async with self._venues.entered(facts.venue) as (room, worker):
                await self._start_in(playback, room, worker, played_ticks=0)
        except RoomtoneError as error:
            self._fail(playback, str(error), "canceled")

    async def _start_in(self, playback: Playback, room: Room, worker: Worker, *, played_ticks: int) -> None:
        if playback.is_over:
            return
        command = self._command(playback, room.facts.id, played_ticks)
        playback.facts.mixed_in = room.facts.id  # before the answer: events may come first, and a stop must find it
        self._save(playback)
        await worker.call(command, descriptors=self._descriptors(playback))
        if playback.is_over or room.is_deleted:
            worker.tell(StopPlayback(room_id=room.facts.id, playback_id=playback.facts.id))
            return
        if playback.facts.volume != command.volume:
            worker.tell(SetVolume(room_id=room.facts.id, playback_id=playback.facts.id, volume=playback.facts.volume))

    @staticmethod
    def _command(playback: Playback, room_id: str, played_ticks: int) -> StartPlayback:
        facts = playback.facts
        return StartPlayback(
            room_id=room_id,
            playback_id=facts.id,
            tone=facts.tone,
            volume=facts.volume,
            repeat=facts.repeat,
            leg_id=facts.venue.leg_id,
            played_ticks=played_ticks,
            clip_rate_hz=0 if facts.tone else facts.rate_hz,
        )

    @staticmethod
    def _descriptors(playback: Playback) -> tuple[int, ...]:
        return (playback.descriptor,) if playback.descriptor >= 0 else ()

    # ---------------------------------------------------------------------------------------- what workers say

    def clip_ready(self, event: ClipReady, descriptors: Sequence[int]) -> None:
        playback = self._playbacks.get(event.clip_id)
        if playback is None or playback.descriptor >= 0 or len(descriptors) != 1:
            for descriptor in descriptors:
                os.close(descriptor)
            return
        playback.descriptor = descriptors[0]
        self._venues.spawn(self._start(playback))

    def clip_failed(self, event: ClipFailed) -> None:
        playback = self._playbacks.get(event.clip_id)
        if playback is None:
            return
        if playback.descriptor < 0:
            self._fail(playback, event.error, event.category)
        else:  # it plays what there is
            playback.failure = (event.error, event.category)

    def started(self, event: PlaybackStarted) -> None:
        playback = self._current(event.playback_id, event.room_id)
        if playback is not None and not playback.facts.first_tick:
            playback.facts.first_tick = event.tick or tick_now()
            self._save(playback)
            self._publish(playback, "started")

    def finished(self, event: PlaybackFinished) -> None:
        playback = self._current(event.playback_id, event.room_id)
        if playback is None:
            return
        if playback.heard is not None and event.reason == "stopped" and not playback.is_stopping:
            if not playback.heard.done():
                playback.heard.set_result(event.played_ms)
            return
        if event.reason == "failed":
            self._fail(playback, playback.failure[0] or "the audio broke off", playback.failure[1])
        else:
            self._end(playback, event.reason, event.played_ms)

    def _current(self, playback_id: str, room_id: str) -> Playback | None:
        playback = self._playbacks.get(playback_id)
        return playback if playback is not None and playback.facts.mixed_in == room_id else None

    def stream_restarted(self, worker: Worker) -> None:
        for playback in list(self._playbacks.values()):
            facts = playback.facts
            if facts.tone or facts.stream_index != worker.index:
                continue
            failure = ("the process that fetched it was restarted", "service_unavailable")
            if playback.descriptor < 0:
                self._fail(playback, *failure)
            elif abandon(playback.descriptor):
                playback.failure = failure

    # ---------------------------------------------------------------------------------------- the end

    def _fail(self, playback: Playback, error: str, category: str) -> None:
        if playback.is_stopping:
            self._end(playback, "stopped", playback.played_ms())
            return
        fields: dict[str, Any] = {"error": error}
        if playback.is_speech:
            fields["category"] = category
        self._close(playback, "error", **fields)

    def _end(self, playback: Playback, reason: str, played_ms: int) -> None:
        self._close(playback, "finished", reason=reason, played_ms=played_ms)

    def _close(self, playback: Playback, how: str, **fields: Any) -> None:
        if playback.is_over:
            return
        facts = playback.facts
        playback.is_over = True
        del self._playbacks[facts.id]
        self._cancel_clip(playback)
        if playback.descriptor >= 0:
            os.close(playback.descriptor)
            playback.descriptor = -1
        if playback.heard is not None and not playback.heard.done():
            playback.heard.cancel()
        self._publish(playback, how, **fields)
        self._venues.ledger.drop(KIND, facts.id)
        playback.ended.set_result(None)
        self._venues.settle(facts.venue)

    def _cancel_clip(self, playback: Playback) -> None:
        if not playback.facts.tone:
            self._maker(playback.facts).tell(CancelClip(clip_id=playback.facts.id))

    def end_all_on(self, venue: Venue) -> None:
        """At once: leg or room end, or nobody is there any more."""
        for playback in self.on(venue):
            facts = playback.facts
            worker = self._venues.worker_of(facts.mixed_in) if facts.mixed_in else None
            if worker is not None:
                worker.tell(StopPlayback(room_id=facts.mixed_in, playback_id=facts.id))
            self._end(playback, "stopped", playback.played_ms())

    def _publish(self, playback: Playback, what: str, **fields: Any) -> None:
        facts = playback.facts
        kind = "tts" if playback.is_speech else "playback"
        self._venues.publish(facts.venue, facts.app_id, f"{kind}.{what}", **{f"{kind}_id": facts.id}, **fields)

    def _save(self, playback: Playback) -> None:
        if not playback.is_over:
            self._venues.ledger.put(KIND, playback.facts.id, playback.facts)

    # ---------------------------------------------------------------------------------------- moves

    def leg_moved(self, leg: Leg) -> None:
        """The leg is mixed elsewhere now: take along what plays to it."""
        for playback in self.on(Venue(leg_id=leg.facts.id)):
            if playback.facts.mixed_in and playback.heard is None:
                playback.heard = asyncio.get_running_loop().create_future()
                self._venues.spawn(self._follow(playback, leg))

    async def _follow(self, playback: Playback, leg: Leg) -> None:
        facts = playback.facts
        async with leg.lock:
            room = self._venues.rooms.of(leg)
            if playback.is_over or room is None or room.worker is None or room.facts.id == facts.mixed_in:
                playback.heard = None
                return
            assert playback.heard is not None
            old = self._venues.worker_of(facts.mixed_in)
            played_ms = playback.played_ms()
            if old is not None:
                old.tell(StopPlayback(room_id=facts.mixed_in, playback_id=facts.id))
                await asyncio.wait({playback.heard}, timeout=STOP_WAIT_S)
                if playback.is_over:
                    return
                played_ms = playback.heard.result() if playback.heard.done() else played_ms
            playback.heard = None
            played_ticks = played_ms // TICK_MS
            facts.first_tick = tick_now() - played_ticks if facts.first_tick else 0
            try:
                await self._start_in(playback, room, room.worker, played_ticks=played_ticks)
            except RoomtoneError as error:
                self._fail(playback, str(error), "playback")

    # ---------------------------------------------------------------------------------------- other lives

    def replay(self, room_id: str) -> Iterator[Order]:
        """For a fresh worker that mixes this room."""
        for playback in list(self._playbacks.values()):
            facts = playback.facts
            if facts.mixed_in != room_id:
                continue
            if not facts.tone and playback.descriptor < 0:
                self._fail(playback, "the room's process and control died together", "playback")
                continue
            playback.is_known = True
            played_ticks = max(tick_now() - facts.first_tick, 1) if facts.first_tick else 0
            yield Order(self._command(playback, room_id, played_ticks), self._descriptors(playback))

    def load(self) -> None:
        for facts in self._venues.ledger.load(KIND, PlaybackFacts).values():
            playback = self._playbacks[facts.id] = Playback(facts)
            playback.is_known = False

    def reconcile(self, worker: Worker, command: StartPlayback, descriptors: Sequence[int]) -> None:
        """The inventory of `worker` has this."""
        playback = self._current(command.playback_id, command.room_id)
        if playback is None:
            for descriptor in descriptors:
                os.close(descriptor)
            worker.tell(StopPlayback(room_id=command.room_id, playback_id=command.playback_id))
            return
        playback.is_known = True
        playback.descriptor = descriptors[0] if descriptors else -1
        if command.volume != playback.facts.volume:
            worker.tell(
                SetVolume(room_id=command.room_id, playback_id=command.playback_id, volume=playback.facts.volume)
            )

    def resume(self) -> None:
        """All workers are met: what has not begun to play is made again, what nobody knows has ended or will."""
        for playback in self._playbacks.values():
            if not playback.facts.mixed_in:
                playback.is_known = True  # whatever becomes of it from here on
                self._cancel_clip(playback)
                self._venues.spawn(self._prepare(playback))
        asyncio.get_running_loop().call_later(LOST_AFTER_S, self._end_lost)

    def _end_lost(self) -> None:
        for playback in list(self._playbacks.values()):
            if playback.facts.mixed_in and not playback.is_known:
                self._fail(playback, "lost in a restart", "playback")
