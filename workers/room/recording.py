"""One running recording: what it takes from its room, and what it knows.

Runs in: a room worker.
Owns: its first and last tick, and the channels of its participants.

Rule: channels are given in the order of first appearance and kept for ever; who leaves and returns goes on with his (media.md 6.4).

Not here: samples -> `taps.py`; commands -> `recordings.py`; files -> `workers/recording/`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import msgspec

from shm.clock import tick_now
from shm.messages import MixParticipant, RecordingFinished, StartRecording
from workers.recording.files import Note, NotedChannel, RecordingFiles, Sink, time_stamp
from workers.recording.finishing import Outcome, ending
from workers.room.jobs import Job
from workers.room.sources import TICK_MS


class Taker(Protocol):
    """What collects the recording's sound (`taps.py`)."""

    last_tick: int

    def hand_over(self) -> None: ...


@dataclass(eq=False)
class Track:
    """One participant's channel; `end_tick` 0: it is still there."""

    participant_id: str
    sink: Sink
    first_tick: int = 0
    end_tick: int = 0


class Lane(NamedTuple):
    """One file's place in the chunk: `sides` lanes from `first` on."""

    recording: "Recording"
    sink: Sink
    first: int
    sides: int


class Fitting:
    """Collects the lanes of a group and where each takes its sound from."""

    def __init__(self) -> None:
        self.lanes: list[Lane] = []
        self.mixes: list[tuple[int, int]] = []  # (lane, dense room index)
        self.voices: list[tuple[int, int]] = []  # (lane, bank row)
        self.ears: list[tuple[int, int]] = []  # (lane, position of a leg)
        self.tracks: list[Track] = []
        self._next = 0

    def add(self, recording: "Recording", sink: Sink, sides: int) -> int:
        """The file's first lane."""
        first = self._next
        self.lanes.append(Lane(recording, sink, first, sides))
        self._next += sides
        return first


class Recording:
    """A running recording, as the tick sees it."""

    def __init__(self, command: StartRecording, files: RecordingFiles, put: Callable[[Job], None]) -> None:
        self.command = command
        self.files = files
        self.since_tick = command.since_tick
        self.begun_tick = 0  # the first tick taken by this process
        self.end_tick = 0  # set when it is stopped
        self.stamp = ""
        self.paused = command.paused
        self.lost_ticks = 0
        self.is_open = False
        self.is_ending = False  # a stop or a hand-over came while the file was being opened, or later
        self.is_noted = True
        self.is_told = bool(command.since_tick)  # whether control knows its first tick
        self.taps: Taker | None = None
        self._tracks: dict[str, Track] = {}
        self._put = put

    def go_on(self, note: Note) -> None:
        """The file is open; `note` tells what a predecessor had."""
        self.is_open = True
        self.since_tick = note.since_tick or self.since_tick
        self.end_tick, self.stamp = note.end_tick, note.stamp
        for channel in note.channels:
            track = self._track(channel.participant_id)
            track.first_tick, track.end_tick = channel.first_tick, channel.end_tick

    def begin(self, tick: int) -> None:
        self.begun_tick = tick
        self.since_tick = self.since_tick or tick
        self.is_noted = False

    def fit(
        self,
        fitting: Fitting,
        participants: Mapping[str, MixParticipant],
        room_index: int,
        positions: Mapping[tuple[str, str], int],
    ) -> None:
        """Add what this recording takes from its room as it is now. `positions` of (room, leg) in the batch."""
        command = self.command
        if not command.leg_id:
            lane = fitting.add(self, self.files.mix, 1)
            if not self.paused:
                fitting.mixes.append((lane, room_index))
            if command.multi_channel:
                self._fit_tracks(fitting, participants.values())
            return
        lane = fitting.add(self, self.files.mix, 2)
        leg = participants.get(command.leg_id)
        if leg is not None and not self.paused:
            fitting.voices.append((lane, leg.row.index))
            fitting.ears.append((lane + 1, positions[command.room_id, command.leg_id]))

    def _fit_tracks(self, fitting: Fitting, participants: Iterable[MixParticipant]) -> None:
        present = {one.leg_id: one for one in participants if one.has_track}
        for participant_id, one in present.items():
            track = self._tracks.get(participant_id)
            if track is None or track.end_tick:
                track = self._track(participant_id)
                track.end_tick = 0
                self.is_noted = False
            lane = fitting.add(self, track.sink, 1)
            fitting.tracks.append(track)
            if not self.paused:
                fitting.voices.append((lane, one.row.index))
        for participant_id in self._tracks.keys() - present.keys():
            track = self._tracks[participant_id]
            if not track.end_tick:
                track.end_tick = self.next_tick()
                self.is_noted = False

    def _track(self, participant_id: str) -> Track:
        track = self._tracks.get(participant_id)
        if track is None:
            sink = self.files.add_track()
            self._put(partial(sink.open_or_fail, is_over=bool(self.end_tick)))
            track = self._tracks[participant_id] = Track(participant_id, sink)
        return track

    def next_tick(self) -> int:
        """The first tick not taken."""
        if self.taps is not None and self.taps.last_tick >= self.begun_tick > 0:
            return self.taps.last_tick + 1
        return max(tick_now(), self.since_tick)

    def stop(self) -> None:
        """No tick after this one."""
        if self.taps is not None:
            self.taps.hand_over()
        if not self.end_tick:
            self.end_tick = self.next_tick()
        self.stamp = self.stamp or time_stamp()

    @property
    def participants(self) -> tuple[str, ...]:
        return tuple(self._tracks)

    def going_on(self) -> StartRecording:
        """The command that goes on with it elsewhere."""
        return msgspec.structs.replace(self.command, command_id=0, paused=self.paused, since_tick=self.since_tick)

    def note(self) -> Note:
        return Note(
            recording_id=self.command.recording_id,
            since_tick=self.since_tick,
            channels=[
                NotedChannel(track.participant_id, track.first_tick, track.end_tick) for track in self._tracks.values()
            ],
            end_tick=self.end_tick,
            stamp=self.stamp,
        )

    def ending(self, outcome: Outcome) -> RecordingFinished:
        lost_ms = self.lost_ticks * TICK_MS
        return ending(
            self.note(),
            outcome,
            room_id=self.command.room_id,
            recording_id=self.command.recording_id,
            errors=[f"{lost_ms} ms could not be written in time and are silent"] if lost_ms else [],
        )
