"""Control and a room worker: participants, playbacks, recordings. The rules are in `shm/messages`."""

from typing import Literal

from shm.messages.common import Acknowledge, Command, Done, Event, Failed, Hello, Leave, LogLine, Part, Row, Wire


class RoomStart(Part, frozen=True, kw_only=True):
    """A room worker starts empty; `shared` only tells its title."""

    stats_row: int
    comfort_noise: bool = True
    shared: bool = False


class OpenRoom(Command, frozen=True, kw_only=True):
    room_id: str
    rate_hz: int
    phase: int


class AddParticipant(Command, frozen=True, kw_only=True):
    """control -> room: `row` enters the mix. The same leg again replaces its earlier entry.

    `has_track` False (agents): a multi-channel recording has no channel for it (media.md 6.4).
    """

    room_id: str
    leg_id: str
    row: Row
    muted: bool = False
    deaf: bool = False
    has_track: bool = True
    at_tick: int = 0


class SetParticipant(Command, frozen=True, kw_only=True):
    room_id: str
    leg_id: str
    muted: bool
    deaf: bool
    at_tick: int = 0


class RemoveParticipant(Command, frozen=True, kw_only=True):
    room_id: str
    leg_id: str
    at_tick: int = 0


class CloseRoom(Command, frozen=True, kw_only=True):
    room_id: str


class StartPlayback(Command, frozen=True, kw_only=True):
    """control -> room. With a clip (shm/clip.py) its descriptor travels along; with a `tone` none does.

    `leg_id`: heard by that leg alone, added to what it hears (media.md M5); "" = a source in the mix.
    `played_ticks`: where to go on in another or restarted worker; above 0 no `PlaybackStarted` follows, the first worker sent
    it. `repeat`: 1 = once, 0 = endless. `clip_rate_hz`: 0 = the room's. Failed(caller): unknown tone;
    Failed(resource): a descriptor that is no clip.
    """

    room_id: str
    playback_id: str
    tone: str = ""
    volume: int = 0
    repeat: int = 1
    leg_id: str = ""
    played_ticks: int = 0
    clip_rate_hz: int = 0


class SetVolume(Command, frozen=True, kw_only=True):
    """control -> room: ramped over the next frame, so that nothing clicks."""

    room_id: str
    playback_id: str
    volume: int


class StopPlayback(Command, frozen=True, kw_only=True):
    """control -> room. `PlaybackFinished` with reason "stopped" follows, also for one that never began; nothing follows for one
    that is not here (any more)."""

    room_id: str
    playback_id: str


class PlaybackStarted(Event, frozen=True, kw_only=True):
    room_id: str
    playback_id: str
    tick: int = 0  # of its first frame


class PlaybackFinished(Event, frozen=True, kw_only=True):
    """room -> control. reason "failed": the clip was given up by its writer before its end."""

    room_id: str
    playback_id: str
    reason: Literal["completed", "stopped", "failed"]
    played_ms: int


class StartRecording(Command, frozen=True, kw_only=True):
    """control -> room. `path` is a dot-file's final name; the worker writes beside it (media.md 6.1) and links it at the end.

    Done once the file is there; Failed(resource) when it cannot be made or its name is taken.
    `leg_id`: stereo, left what that leg says, right what it hears; "" = the room's mix, mono.
    `since_tick`: 0 = now; else go on in the files of a worker that died or handed over: the timeline counts from that tick, and
    no `RecordingStarted` follows. Where the files say how the recording ended, it is only finished.
    """

    room_id: str
    recording_id: str
    path: str
    leg_id: str = ""
    multi_channel: bool = False
    paused: bool = False
    since_tick: int = 0


class PauseRecording(Command, frozen=True, kw_only=True):
    room_id: str
    recording_id: str
    paused: bool


class StopRecording(Command, frozen=True, kw_only=True):
    """control -> room. `RecordingFinished` follows once all files are complete under their final names.

    `hand_over`: leave the files as they are for another worker to go on with; Done once they are let go, and no event.
    """

    room_id: str
    recording_id: str
    hand_over: bool = False


class RecordedChannel(Part, frozen=True, kw_only=True):
    participant_id: str
    channel: int
    start_ms: int
    end_ms: int
    path: str = ""  # the participant's mono file


class RecordingStarted(Event, frozen=True, kw_only=True):
    room_id: str
    recording_id: str
    tick: int  # of its first frame


class RecordingFinished(Event, frozen=True, kw_only=True):
    """room -> control. `path` "" when nothing could be saved (also when stopped before the first frame).

    `omitted`: participants whose track failed. `error`: what went wrong, also when most of it could be saved.
    """

    room_id: str
    recording_id: str
    path: str
    multi_channel_path: str = ""
    channels: tuple[RecordedChannel, ...] = ()
    omitted: tuple[str, ...] = ()
    error: str = ""


class MixParticipant(Part, frozen=True, kw_only=True):
    leg_id: str
    row: Row
    muted: bool = False
    deaf: bool = False
    has_track: bool = True


class RoomInventoryPart(Wire, frozen=True, kw_only=True):
    """One part holds participants of one room, or one playback, or one recording; a big room takes several parts.

    Playbacks and recordings are told as the commands that would go on with them elsewhere; a clip's descriptor travels along.
    `channels`: the participants of a multi-channel recording, in the order of its channels. `is_stopping`: its end is on the way.
    """

    room_id: str = ""
    rate_hz: int = 0
    phase: int = 0
    participants: tuple[MixParticipant, ...] = ()
    playback: StartPlayback | None = None
    recording: StartRecording | None = None
    channels: tuple[str, ...] = ()
    is_stopping: bool = False
    last: bool = False


ToRoom = (
    Hello
    | Acknowledge
    | Leave
    | OpenRoom
    | AddParticipant
    | SetParticipant
    | RemoveParticipant
    | CloseRoom
    | StartPlayback
    | SetVolume
    | StopPlayback
    | StartRecording
    | PauseRecording
    | StopRecording
)
FromRoom = (
    Done
    | Failed
    | LogLine
    | RoomInventoryPart
    | PlaybackStarted
    | PlaybackFinished
    | RecordingStarted
    | RecordingFinished
)
