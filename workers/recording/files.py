"""The files of one recording: what they are called, where each tick belongs, and what a successor must know.

Runs in: room (a thread beside the tick loop), stream (orphans).
Owns: names and places in the recording directory, and the note that outlives a worker.

    name.wav                 only when complete (linked, never overwriting)      media.md 6.1
    .name.wav.rec            the same while it is being recorded: a valid WAV
    .name.wav.track_NN.rec   channel NN of a multi-channel recording
    .name.wav.merged         the multi-channel file while it is being made
    .name.wav.json           the `Note`

Rules
1. Time is position: tick t lies at (t - since_tick) frames of 20 ms. What was not written in time stays silent, in its place.
2. A file whose write failed is left as it is; the others go on.

Not here: what is to be recorded -> `workers/room/taps.py`; the end -> `finishing.py`.
"""

import contextlib
import hashlib
import re
import time
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from shm.clock import TICKS_PER_SECOND
from workers.audio.resample import resampler
from workers.recording.wav_file import WavFile


class NotedChannel(msgspec.Struct):
    participant_id: str
    first_tick: int
    end_tick: int = 0  # 0 = still there


class Note(msgspec.Struct):
    """What must survive the worker. `end_tick` and `stamp` are set when the recording is stopped."""

    recording_id: str
    since_tick: int = 0
    channels: list[NotedChannel] = []
    end_tick: int = 0
    stamp: str = ""  # date and time in the names of the multi-channel files


class Sink:
    """One file being recorded, with `sides` interleaved channels. After its making it belongs to the writing thread.

    Its rate is that of the room it began in; audio of another rate is converted.
    """

    def __init__(self, path: Path, rate_hz: int, sides: int) -> None:
        self.path = path
        self.sides = sides
        self.error = ""
        self.wav: WavFile | None = None
        self._rate_hz = rate_hz
        self._history = np.zeros((sides, 0), np.int16)
        self._next_tick = 0

    def open(self, *, is_over: bool = False) -> None:
        """Go on with the file if it is there; else begin it, unless its recording is over. Raises OSError."""
        try:
            self.wav = WavFile.reopen(self.path)
        except FileNotFoundError:
            if not is_over:
                self.wav = WavFile.create(self.path, self._rate_hz, self.sides)

    def open_or_fail(self, *, is_over: bool) -> None:
        """As `open`, but a failure only ends this file."""
        try:
            self.open(is_over=is_over)
        except OSError as error:
            self.error = str(error)

    def write(self, since_tick: int, first_tick: int, block: NDArray[np.int16]) -> None:
        """block (sides, ticks, n): what these sides said from `first_tick` on."""
        if self.wav is None or self.error:
            return
        samples = block.reshape(self.sides, -1)
        if (rate_hz := block.shape[2] * TICKS_PER_SECOND) != self.wav.rate_hz:
            samples = self._convert(samples, rate_hz, is_next=first_tick == self._next_tick)
            self._next_tick = first_tick + block.shape[1]
        position = (first_tick - since_tick) * self.wav.rate_hz // TICKS_PER_SECOND
        if position < 0:
            return  # a tick before the recording's first: another clock's file
        try:
            if samples.any():
                self.wav.write(position, np.ascontiguousarray(samples.T).data.cast("B"))
            else:
                self.wav.extend(position + samples.shape[1])  # a hole costs neither time nor space
        except OSError as error:
            self.error = str(error)

    def _convert(self, samples: NDArray[np.int16], rate_hz: int, *, is_next: bool) -> NDArray[np.int16]:
        assert self.wav is not None
        convert = resampler(rate_hz, self.wav.rate_hz)
        history = self._history
        if not is_next or history.shape[1] != convert.history:
            history = np.zeros((self.sides, convert.history), np.int16)
        self._history = np.concatenate([history, samples], axis=1)[:, -convert.history :]
        return convert(history, samples)

    def close(self) -> None:
        if self.wav is not None:
            self.wav.close()
            self.wav = None

    def discard(self) -> None:
        self.close()
        self.path.unlink(missing_ok=True)


class RecordingFiles:
    """All files of the recording that ends up as `path`. The writing thread's, but for `add_track`."""

    def __init__(self, recording_id: str, path: Path, rate_hz: int, sides: int) -> None:
        self.recording_id = recording_id
        self.path = path
        self.mix = Sink(dot_path(path, ".rec"), rate_hz, sides)
        self.tracks: list[Sink] = []
        self._rate_hz = rate_hz

    def open(self, *, is_resumed: bool) -> Note:
        """Create the file, or go on where a predecessor was. Raises OSError; FileExistsError for a name that is taken."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        note = read_note(self.path)
        is_ours = note is not None and note.recording_id == self.recording_id
        if note is None or not is_ours:
            note = Note(self.recording_id)
        is_known = is_ours or is_resumed
        if self.path.exists():
            if not is_known:
                raise FileExistsError(f"{self.path.name} exists")
            note.end_tick = note.end_tick or 1  # published before its end was told
            if not self.mix.path.exists():
                return note
        self.mix.open()
        assert self.mix.wav is not None
        if self.mix.wav.frames and not is_known:
            self.mix.close()
            raise FileExistsError(f"{self.path.name} is being recorded")
        return note

    def reopen(self) -> Note:
        """Of a recording that nobody goes on with: open all the files that are there; returns what is known of it.

        Raises OSError; BlockingIOError when somebody does go on with it.
        """
        note = read_note(self.path) or Note(self.recording_id)
        self.mix.open(is_over=True)  # its lock guards all the others
        form = re.compile(re.escape(f".{self.path.name}.track_") + r"(\d+)\.rec")
        there = [form.fullmatch(path.name) for path in self.path.parent.iterdir()]
        for _ in range(max([len(note.channels), *(int(found[1]) + 1 for found in there if found)])):
            self.add_track().open_or_fail(is_over=True)
        return note

    def add_track(self) -> Sink:
        """The next channel's file, not yet opened."""
        path = dot_path(self.path, f".track_{len(self.tracks):02d}.rec")
        self.tracks.append(Sink(path, self._rate_hz, 1))
        return self.tracks[-1]

    def save(self, note: Note) -> None:
        """Raises OSError."""
        path = dot_path(self.path, ".json")
        beside = path.with_name(f"{path.name}.new")
        try:
            beside.write_bytes(msgspec.json.encode(note))
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        beside.replace(path)

    def forget(self) -> None:
        """The end is told: the note has done its work."""
        with contextlib.suppress(OSError):
            dot_path(self.path, ".json").unlink()

    def release(self) -> None:
        """Leave everything to a successor."""
        for sink in (self.mix, *self.tracks):
            sink.close()

    def discard(self) -> None:
        """Nothing was recorded: no file."""
        for sink in (self.mix, *self.tracks):
            sink.discard()
        self.forget()


def read_note(path: Path) -> Note | None:
    """The note beside the recording `path`; None when there is none that can be read."""
    try:
        return msgspec.json.decode(dot_path(path, ".json").read_bytes(), type=Note)
    except (OSError, msgspec.MsgspecError):
        return None


def dot_path(path: Path, ending: str) -> Path:
    return path.with_name(f".{path.name}{ending}")


def time_stamp(seconds: float | None = None) -> str:
    """YYYYMMDD_HHMMSS in the process's local time."""
    return time.strftime("%Y%m%d_%H%M%S", time.localtime(seconds))


def names_of_channels(path: Path, stamp: str, channels: int) -> tuple[Path, list[Path]]:
    """(merged file, participants' files) of the recording `path` (media.md 6.1), with the hex digits of its own name.

    The same again for the same arguments: who is killed while finishing finds his own files.
    """
    own = re.search(r"_([0-9a-f]{8})\.wav$", path.name)
    digits = own[1] if own else hashlib.sha256(f"{path} {stamp}".encode()).hexdigest()[:8]
    return (
        path.with_name(f"{stamp}_multichannel_{digits}.wav"),
        [path.with_name(f"{stamp}_track_{digits}_{channel:02d}.wav") for channel in range(channels)],
    )
