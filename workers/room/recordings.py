"""Recordings as control commands them.

Runs in: a room worker.
Owns: which recordings run, when they begin and end, and the threads that write and finish their files.

Rules
1. A file is opened by the writing thread; only then is the command answered and the first tick taken.
2. What a successor must know is noted beside the file (workers/recording/files.py) whenever it changes.
3. A recording that is stopped stays in the inventory until `RecordingFinished` is posted.

Not here: channels -> `recording.py`; samples -> `taps.py`; names, files, merging -> `workers/recording/`.
"""

import contextlib
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

from shm.errors import CallerError
from shm.messages import (
    Done,
    Event,
    Failed,
    PauseRecording,
    RecordingStarted,
    StartRecording,
    StopRecording,
)
from workers.recording.files import Note, RecordingFiles
from workers.recording.finishing import Outcome, finish
from workers.room.jobs import Job, JobThread
from workers.room.membership import Membership
from workers.room.recording import Recording
from workers.room.taps import Backlog

LEAVE_TIMEOUT_S = 1.5


class Recordings:
    """All recordings of this process."""

    def __init__(
        self, membership: Membership, answer: Callable[[Done | Failed], None], post: Callable[[Event], None]
    ) -> None:
        self._membership = membership
        self._answer = answer
        self._post = post
        self._writer = JobThread("recording")
        self._finisher = JobThread("finishing")
        self._outcomes: deque[Job] = deque()  # filled by the threads, emptied here
        self._known: dict[tuple[str, str], Recording] = {}
        membership.backlog = Backlog(self._writer.put)

    @property
    def are_known(self) -> bool:
        """Whether any is running, being opened or finished."""
        return bool(self._known)

    @property
    def is_waiting(self) -> bool:
        """Whether a file is being opened or finished."""
        return any(not one.is_open or one.is_ending for one in self._known.values())

    # ---------------------------------------------------------------------------------------- commands

    def start(self, command: StartRecording) -> None:
        """Answers the command once the file is open. Raises ResourceError for a room that is not here."""
        room = self._membership.room(command.room_id)
        key = (command.room_id, command.recording_id)
        known = self._known.get(key)
        if known is not None:
            if known.is_open:  # else the same command is about to be answered
                self._answer(Done(command_id=command.command_id))
            return
        files = RecordingFiles(command.recording_id, Path(command.path), room.rate_hz, 2 if command.leg_id else 1)
        recording = self._known[key] = Recording(command, files, self._writer.put)
        self._writer.put(partial(self._open, recording))

    def pause(self, command: PauseRecording) -> None:
        recording = self._known.get((command.room_id, command.recording_id))
        if recording is not None:
            recording.paused = command.paused
            if (room := self._membership.rooms.get(command.room_id)) is not None:
                self._membership.refresh(room)

    def stop(self, command: StopRecording) -> None:
        """Answers the command: at once, or for a hand-over once the files are let go. Raises CallerError for one that ends."""
        recording = self._known.get((command.room_id, command.recording_id))
        if recording is not None and recording.is_ending and command.hand_over:
            raise CallerError("the recording ends here")
        if recording is not None and command.hand_over:
            recording.is_ending = True
            self._take_out(recording)
            self._writer.put(partial(self._let_go, recording, recording.note(), command.command_id))
            return
        self._answer(Done(command_id=command.command_id))
        if recording is not None and not recording.is_ending:
            self._stop(recording)

    def end_room(self, room_id: str) -> None:
        """The room is closed, and with it what was recorded there."""
        for recording in list(self._known.values()):
            if recording.command.room_id == room_id and not recording.is_ending:
                self._stop(recording)

    def end(self) -> None:
        """The process ends: what has been taken reaches the files; a successor goes on with them or links them."""
        for recording in self._known.values():
            if recording.taps is not None:
                recording.taps.hand_over()
        self._writer.end(LEAVE_TIMEOUT_S)
        self._finisher.end(LEAVE_TIMEOUT_S)
        self.settle()
        self._writer.end(LEAVE_TIMEOUT_S)  # notes of what was finished just now

    def _stop(self, recording: Recording) -> None:
        recording.is_ending = True
        if not recording.is_open:
            return  # `_opened` goes on
        self._take_out(recording)
        recording.stop()
        self._writer.put(partial(self._close, recording, recording.note()))

    def _take_out(self, recording: Recording) -> None:
        if recording.taps is not None:
            recording.taps.hand_over()
        room = self._membership.rooms.get(recording.command.room_id)
        if room is not None and room.recordings.pop(recording.command.recording_id, None) is not None:
            self._membership.refresh(room)

    # ---------------------------------------------------------------------------------------- in the threads

    def _open(self, recording: Recording) -> None:
        try:
            note = recording.files.open(is_resumed=recording.is_told)
        except OSError as error:
            self._outcomes.append(partial(self._failed, recording, str(error)))
        else:
            self._outcomes.append(partial(self._opened, recording, note))

    @staticmethod
    def _save(recording: Recording, note: Note) -> None:
        with contextlib.suppress(OSError):  # the mix will meet the same error and tell it
            recording.files.save(note)

    def _let_go(self, recording: Recording, note: Note, command_id: int) -> None:
        if note.since_tick:
            self._save(recording, note)
        recording.files.release()
        self._outcomes.append(partial(self._gone, recording, command_id))

    def _close(self, recording: Recording, note: Note) -> None:
        if note.since_tick:
            self._save(recording, note)
            self._finisher.put(partial(self._finish, recording, note))
        else:
            recording.files.discard()
            self._outcomes.append(partial(self._finished, recording, Outcome()))

    def _finish(self, recording: Recording, note: Note) -> None:
        outcome = finish(recording.files, note, multi_channel=recording.command.multi_channel)
        self._outcomes.append(partial(self._finished, recording, outcome))

    # ---------------------------------------------------------------------------------------- after a tick

    def settle(self) -> None:
        """Tell what the threads have done, note what has changed. Raises WireError when a thread failed."""
        if not self._known:
            return
        while self._outcomes:
            self._outcomes.popleft()()
        for recording in self._known.values():
            if not recording.is_noted:
                recording.is_noted = True
                self._writer.put(partial(self._save, recording, recording.note()))
            if not recording.is_told and recording.since_tick:
                self._tell_begin(recording)
        self._writer.check()
        self._finisher.check()

    def _tell_begin(self, recording: Recording) -> None:
        recording.is_told = True
        command = recording.command
        self._post(
            RecordingStarted(room_id=command.room_id, recording_id=command.recording_id, tick=recording.since_tick)
        )

    def _failed(self, recording: Recording, error: str) -> None:
        command = recording.command
        del self._known[command.room_id, command.recording_id]
        self._answer(Failed(command_id=command.command_id, error=error, blame="resource"))

    def _opened(self, recording: Recording, note: Note) -> None:
        command = recording.command
        recording.go_on(note)
        self._answer(Done(command_id=command.command_id))
        room = self._membership.rooms.get(command.room_id)
        if recording.is_ending or recording.end_tick or room is None:
            self._stop(recording)
            return
        room.recordings[command.recording_id] = recording
        self._membership.refresh(room)

    def _gone(self, recording: Recording, command_id: int) -> None:
        command = recording.command
        del self._known[command.room_id, command.recording_id]
        self._answer(Done(command_id=command_id))

    def _finished(self, recording: Recording, outcome: Outcome) -> None:
        command = recording.command
        del self._known[command.room_id, command.recording_id]
        self._post(recording.ending(outcome))
        self._writer.put(recording.files.forget)  # after the event: a successor could not tell it again

    def inventory(self) -> tuple[Recording, ...]:
        return tuple(self._known.values())
