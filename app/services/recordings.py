"""Recordings of rooms and legs, from the request until the files are where they belong.

Runs in: control.
Owns: what is recorded, into which file, and which step each recording has reached.

Rules
1. Steps: running -> stopping (its worker finishes the files) -> storing (stream uploads them) -> told. Each step is in the ledger
   before it is taken, so that any successor takes it again: all commands are idempotent.
2. One recording runs per room or leg. One that is past running no longer counts there: a new one may begin.
3. `recording.finished` comes once, with the final places. A DELETE is answered after the first attempt to store.
4. A leg's recording follows the leg: handed over from worker to worker, the timeline goes on.
5. While its worker still finishes a recording, the room keeps its worker (`is_finishing`), even if it is deleted.

Not here: what one recording is -> `recording.py`; files -> `workers/recording/`; uploads -> `workers/stream/upload.py`; buckets
-> `storage.py`.
"""

import asyncio
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from app.legs.leg import Leg
from app.logs import log
from app.rooms.room import Room
from app.services.recording import Recording, RecordingFacts, new_name, paths_of, places_of
from app.services.requests import Record, file_name_of
from app.services.storage import Bucket, storage_of
from app.services.venues import Venue, Venues
from app.supervisor import Order, Worker
from shm.errors import CallerError, ResourceError, RoomtoneError
from shm.messages import (
    CloseRoom,
    FinishRecording,
    OpenRoom,
    PauseRecording,
    RecordingFinished,
    RecordingStarted,
    StartRecording,
    StopRecording,
    Uploaded,
    UploadRecording,
)

KIND = "recording"  # in the ledger
FINISH_LIMIT_S = 600.0  # merging many hours of many channels; then the request is answered with what is known
STORE_LIMIT_S = 12.0  # stream tells of its first attempt within 10 s
LOST_AFTER_S = 2.0
LEAVE_LIMIT_S = 5.0  # of a room worker


class Recordings:
    def __init__(self, venues: Venues) -> None:
        self._venues = venues
        self._running: dict[Venue, Recording] = {}
        self._all: dict[str, Recording] = {}

    def runs_on(self, venue: Venue) -> bool:
        return venue in self._running

    def is_finishing(self, room_id: str) -> bool:
        return any(one.needs_its_worker for one in self._all.values() if one.facts.mixed_in == room_id)

    # ---------------------------------------------------------------------------------------- start

    async def start(self, *, request: Record, room_id: str = "", leg_id: str = "") -> dict[str, Any]:
        venue = Venue(room_id=room_id, leg_id=leg_id)
        venues = self._venues
        app_id = venues.app_id(venue)
        bucket = storage_of(request, venues.config)
        name = file_name_of(request.filename) if request.filename else new_name()
        venues.check_audible(venue)
        if venue in self._running:
            raise CallerError("already recording", 409)
        path = Path(venues.config.recording_dir) / name
        if request.filename and (path.exists() or any(one.facts.path == str(path) for one in self._all.values())):
            raise CallerError(f"filename {name} is taken", 409)
        facts = RecordingFacts(
            id=secrets.token_hex(8),
            venue=venue,
            path=str(path),
            app_id=app_id,
            multi_channel=request.multi_channel and not leg_id,
            bucket=bucket,
        )
        recording = self._running[venue] = self._all[facts.id] = Recording(facts)
        try:
            async with venues.entered(venue) as (room, worker):
                await self._start_in(recording, room, worker)
        except CallerError:
            self._forget(recording)
            raise
        except ResourceError as error:
            if facts.id not in self._all:
                raise CallerError("it is over before it began", 404) from None
            self._forget(recording)
            raise CallerError(f"the file cannot be created: {error}", 500) from None
        if facts.id not in self._all:
            raise CallerError("it is over before it began", 404)
        if facts.step == "running":
            self._publish(recording, "recording.started", file=facts.path)
        return {"status": "recording", "file": facts.path}

    async def _start_in(self, recording: Recording, room: Room, worker: Worker) -> None:
        facts = recording.facts
        facts.mixed_in, facts.rate_hz, facts.phase = room.facts.id, room.facts.rate_hz, room.facts.phase
        recording.worker = worker
        self._save(recording)
        await worker.call(self._command(facts))
        recording.is_begun = True

    @staticmethod
    def _command(facts: RecordingFacts) -> StartRecording:
        return StartRecording(
            room_id=facts.mixed_in,
            recording_id=facts.id,
            path=facts.path,
            leg_id=facts.venue.leg_id,
            multi_channel=facts.multi_channel,
            paused=facts.paused,
            since_tick=facts.since_tick,
        )

    def started(self, event: RecordingStarted) -> None:
        recording = self._all.get(event.recording_id)
        if recording is not None and not recording.facts.since_tick:
            recording.facts.since_tick = event.tick
            self._save(recording)

    # ---------------------------------------------------------------------------------------- pause

    async def pause(self, *, room_id: str = "", leg_id: str = "") -> dict[str, Any]:
        return await self._set_paused(Venue(room_id=room_id, leg_id=leg_id), paused=True)

    async def resume(self, *, room_id: str = "", leg_id: str = "") -> dict[str, Any]:
        return await self._set_paused(Venue(room_id=room_id, leg_id=leg_id), paused=False)

    async def _set_paused(self, venue: Venue, *, paused: bool) -> dict[str, Any]:
        recording = self._get(venue)
        facts = recording.facts
        async with recording.lock:
            if facts.step != "running":
                raise CallerError("not recording", 404)
            if facts.paused == paused:
                return {"status": "already_paused" if paused else "not_paused"}
            facts.paused = paused
            self._save(recording)
            worker = recording.worker
            if worker is not None:
                await worker.call(PauseRecording(room_id=facts.mixed_in, recording_id=facts.id, paused=paused))
            word = "paused" if paused else "resumed"
            self._publish(recording, f"recording.{word}", file=facts.path)
        return {"status": word}

    def _get(self, venue: Venue) -> Recording:
        recording = self._running.get(venue)
        if recording is None or not recording.is_begun:
            raise CallerError("not recording", 404)
        return recording

    # ---------------------------------------------------------------------------------------- stop

    async def stop(self, *, room_id: str = "", leg_id: str = "") -> dict[str, Any]:
        recording = self._get(Venue(room_id=room_id, leg_id=leg_id))
        self._stop(recording)
        await asyncio.wait({recording.stored}, timeout=FINISH_LIMIT_S)
        places = recording.stored.result() if recording.stored.done() else {"file": recording.facts.path}
        return {"status": "stopped", **places}

    def stop_on(self, venue: Venue) -> "asyncio.Future[Any] | None":
        """At once; what is returned is done when each `recording.finished` is out, also of what was stopped before. None: there is
        nothing to wait for."""
        recording = self._running.get(venue)
        if recording is not None and not recording.is_begun:  # the request that starts it finds the room or leg gone
            self._forget(recording)
            self._tell_stop(recording)
        elif recording is not None:
            self._stop(recording)
        waiting = [one.told for one in self._all.values() if one.facts.venue == venue]
        return asyncio.gather(*waiting) if waiting else None

    def _stop(self, recording: Recording) -> None:
        facts = recording.facts
        self._running.pop(facts.venue, None)
        facts.step = "stopping"
        self._save(recording)
        if not recording.is_moving and not self._tell_stop(recording):  # else `_follow` sees to it
            self._lost(recording)

    def _tell_stop(self, recording: Recording) -> bool:
        facts, worker = recording.facts, recording.worker
        if worker is None or not worker.wanted:
            return False
        worker.tell(StopRecording(room_id=facts.mixed_in, recording_id=facts.id))
        return True

    def finished(self, event: RecordingFinished) -> None:
        recording = self._all.get(event.recording_id)
        if recording is None or recording.facts.step == "storing":
            return
        facts = recording.facts
        if self._running.get(facts.venue) is recording:  # else it is past running, and another one may have begun
            del self._running[facts.venue]
        facts.step, facts.result = "storing", msgspec.structs.replace(event, number=0)
        self._save(recording)
        if event.error:
            log.warning("recording", recording_id=facts.id, error=event.error)
        recording.finished.set_result(None)
        self._release(facts.mixed_in)
        self._venues.settle(facts.venue)
        self._store(recording)

    def _release(self, room_id: str) -> None:
        """Its worker may go, if it was only kept for a recording."""
        room = self._venues.rooms.mixed(room_id)
        if room is not None:
            self._venues.rooms.mixing.release_if_idle(room)
        elif not self.is_finishing(room_id):
            self._venues.supervisor.release_room(room_id, at_once=True)

    def _lost(self, recording: Recording) -> None:
        """No room worker goes on with it."""
        if not recording.is_lost:
            recording.is_lost = True
            self._venues.spawn(self._finish(recording))

    async def _finish(self, recording: Recording) -> None:
        """By stream. What even that cannot finish gets its name at the next start."""
        facts, worker = recording.facts, recording.worker
        if worker is not None:  # it leaves, and only then lets go of the files
            with suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_LIMIT_S):
                    await worker.gone.wait()
        command = FinishRecording(room_id=facts.mixed_in, recording_id=facts.id, path=facts.path)
        try:
            await self._venues.supervisor.stream[facts.stream_index].call(command, FINISH_LIMIT_S)
        except RoomtoneError as error:
            self.finished(
                RecordingFinished(
                    room_id=facts.mixed_in, recording_id=facts.id, path=facts.path, error=f"not finished: {error}"
                )
            )

    # ---------------------------------------------------------------------------------------- storing

    def _store(self, recording: Recording) -> None:
        facts = recording.facts
        assert facts.result is not None
        paths = paths_of(facts.result)
        if facts.bucket is None or not paths:
            self._tell(recording, places_of(facts.result, {}))
        else:
            self._venues.spawn(self._upload(recording, facts.bucket, paths))

    async def _upload(self, recording: Recording, bucket: Bucket, paths: tuple[str, ...]) -> None:
        facts = recording.facts
        command = UploadRecording(
            upload_id=facts.id,
            paths=paths,
            bucket=bucket.name,
            region=bucket.region,
            endpoint=bucket.endpoint,
            prefix=bucket.prefix,
            access_key=bucket.access_key,
            secret_key=bucket.secret_key,
        )
        assert facts.result is not None
        local = places_of(facts.result, {})
        try:
            await self._venues.supervisor.stream[facts.stream_index].call(command, STORE_LIMIT_S)
        except RoomtoneError as error:
            log.warning("upload", recording_id=facts.id, error=str(error))
            self._tell(recording, local)
            return
        await asyncio.wait({recording.stored}, timeout=STORE_LIMIT_S)
        if not recording.stored.done():
            recording.stored.set_result(local)

    def uploaded(self, event: Uploaded) -> None:
        recording = self._all.get(event.upload_id)
        if recording is None or recording.facts.result is None:
            # Begun by an earlier server, which has told of the local files.
            if event.is_final:
                log.info("upload", upload_id=event.upload_id, locations=event.locations, error=event.error)
            return
        result = recording.facts.result
        places = places_of(result, dict(zip(paths_of(result), event.locations, strict=False)))
        if event.error:
            log.warning("upload", recording_id=event.upload_id, error=event.error, is_final=event.is_final)
        if event.is_final:
            self._tell(recording, places)
        elif not recording.stored.done():
            recording.stored.set_result(places)

    def _tell(self, recording: Recording, places: dict[str, Any]) -> None:
        """Once; later words change nothing."""
        if recording.told.done():
            return
        self._publish(recording, "recording.finished", **places)
        self._forget(recording)
        if not recording.stored.done():
            recording.stored.set_result(places)
        recording.told.set_result(None)

    def _forget(self, recording: Recording) -> None:
        facts = recording.facts
        if self._running.get(facts.venue) is recording:
            del self._running[facts.venue]
        self._all.pop(facts.id, None)
        self._venues.ledger.drop(KIND, facts.id)
        self._venues.settle(facts.venue)

    def _publish(self, recording: Recording, event_type: str, **fields: Any) -> None:
        self._venues.publish(recording.facts.venue, recording.facts.app_id, event_type, **fields)

    def _save(self, recording: Recording) -> None:
        self._venues.ledger.put(KIND, recording.facts.id, recording.facts)

    async def end_all(self, limit_s: float) -> None:
        """The server ends: everything into its files and buckets. What takes longer is told of as it is now; the next start goes
        on with it, with the names of files and with uploads."""
        for venue in list(self._running):
            self.stop_on(venue)
        if waiting := [one.told for one in self._all.values()]:
            await asyncio.wait(waiting, timeout=limit_s)
        for recording in list(self._all.values()):
            facts = recording.facts
            path = RecordingFinished(room_id=facts.mixed_in, recording_id=facts.id, path=facts.path)
            self._tell(recording, places_of(facts.result or path, {}))

    # ---------------------------------------------------------------------------------------- moves

    def leg_moved(self, leg: Leg) -> None:
        recording = self._running.get(Venue(leg_id=leg.facts.id))
        if recording is not None and recording.is_begun:
            recording.is_moving = True
            self._venues.spawn(self._follow(recording, leg))

    async def _follow(self, recording: Recording, leg: Leg) -> None:
        facts = recording.facts
        async with leg.lock:
            room = self._venues.rooms.of(leg)
            if facts.step == "running" and room is not None and room.facts.id != facts.mixed_in:
                await self._move(recording, room)
            recording.is_moving = False
            if facts.step == "stopping" and not self._tell_stop(recording):  # stopped meanwhile, or no worker has it
                self._lost(recording)

    async def _move(self, recording: Recording, room: Room) -> None:
        """From worker to worker; afterwards `recording.worker` is None if none has it."""
        facts, old_id, old = recording.facts, recording.facts.mixed_in, recording.worker
        recording.is_moving, recording.worker = True, None
        try:
            if old is not None:
                await old.call(StopRecording(room_id=old_id, recording_id=facts.id, hand_over=True))
        except CallerError:
            recording.worker = old  # it ends there, with the room
            return
        except RoomtoneError as error:
            log.warning("recording", recording_id=facts.id, error=str(error))
        try:
            if facts.step == "running" and room.worker is not None:
                await self._start_in(recording, room, room.worker)
        except RoomtoneError as error:
            log.warning("recording", recording_id=facts.id, error=str(error))
            recording.worker = None
        if recording.worker is None and facts.step == "running":
            facts.step = "stopping"
            self._save(recording)
        if facts.mixed_in != old_id:
            self._release(old_id)

    # ---------------------------------------------------------------------------------------- other lives

    def replay(self, room_id: str, room: Room | None) -> Iterator[Order]:
        """For a fresh worker that mixes this room; None: it is deleted and only its recordings are to be finished."""
        for recording in self._all.values():
            facts = recording.facts
            if facts.mixed_in != room_id or recording.finished.done() or not recording.is_begun:
                continue
            recording.is_known = True
            if room is not None:
                recording.worker = room.worker
            else:
                yield Order(OpenRoom(room_id=room_id, rate_hz=facts.rate_hz, phase=facts.phase))
            yield Order(self._command(facts))
            if facts.step == "stopping":
                yield Order(StopRecording(room_id=room_id, recording_id=facts.id))
            if room is None:
                yield Order(CloseRoom(room_id=room_id))

    def load(self) -> None:
        for facts in self._venues.ledger.load(KIND, RecordingFacts).values():
            recording = self._all[facts.id] = Recording(facts)
            recording.is_known, recording.is_begun = False, True
            if facts.step == "running":
                self._running[facts.venue] = recording
            elif facts.step == "storing":
                recording.finished.set_result(None)

    def reconcile(self, worker: Worker, command: StartRecording, *, is_stopping: bool) -> None:
        """The inventory of `worker` has this."""
        stop = StopRecording(room_id=command.room_id, recording_id=command.recording_id)
        recording = self._all.get(command.recording_id)
        if recording is None:
            worker.tell(stop)
            return
        facts = recording.facts
        recording.is_known, recording.worker = True, worker
        facts.since_tick = facts.since_tick or command.since_tick
        facts.mixed_in = command.room_id
        self._save(recording)
        if facts.step == "stopping" and not is_stopping:
            worker.tell(stop)
        elif command.paused != facts.paused:
            worker.tell(PauseRecording(room_id=command.room_id, recording_id=command.recording_id, paused=facts.paused))

    def resume_all(self) -> None:
        """All workers are met."""
        for recording in list(self._all.values()):
            if recording.facts.step == "storing":
                self._store(recording)
        asyncio.get_running_loop().call_later(LOST_AFTER_S, self._end_lost)

    def _end_lost(self) -> None:
        for recording in list(self._all.values()):
            if not recording.is_known and recording.facts.step != "storing":
                self._lost(recording)
