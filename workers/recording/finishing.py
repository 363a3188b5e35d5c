"""The end of a recording: its files become complete, get their names, and are merged.

Runs in: room (a thread of its own: it syncs and copies for seconds), stream (orphans, likewise).
Owns: the order of these steps, and what is told of the end.

Rules
1. Every step can be repeated: who is killed in the middle leaves a note (`files.py`), and a successor does the rest.
2. A file appears under its final name complete and synced, by a link that never overwrites (media.md 6.1).
3. The merged file is made from the participants' files, a block at a time. Half of the time is left to others: it shares a
   core and the interpreter with a tick loop.

Not here: when a recording is stopped -> `workers/room/recordings.py`.
"""

import contextlib
import errno
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from shm.clock import TICKS_PER_SECOND
from shm.messages import RecordedChannel, RecordingFinished
from workers.recording.files import (
    Note,
    RecordingFiles,
    Sink,
    dot_path,
    names_of_channels,
    time_stamp,
)
from workers.recording.wav_file import WavFile

TICK_MS = 1000 // TICKS_PER_SECOND
_MERGE_BLOCK_SAMPLES = 1 << 18
_NAMES_TRIED = 16
_LEFTOVERS = {".json", ".merged", ".long", ".new"}


@dataclass
class Outcome:
    """Paths of what could be saved, "" for what could not; `tracks` one for each channel."""

    path: str = ""
    merged_path: str = ""
    tracks: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def finish(files: RecordingFiles, note: Note, *, multi_channel: bool) -> Outcome:
    """`note` has `end_tick` and `stamp` and is saved. Every failure ends in the outcome."""
    outcome = Outcome()
    ticks = note.end_tick - note.since_tick
    if multi_channel and files.tracks:
        merged_path, track_paths = names_of_channels(files.path, note.stamp, len(files.tracks))
        outcome.merged_path = _merged(files, merged_path, ticks, outcome.errors)
        outcome.tracks = [
            _complete(sink, path, ticks, outcome.errors) for sink, path in zip(files.tracks, track_paths, strict=True)
        ]
    outcome.path = _complete(files.mix, files.path, ticks, outcome.errors)  # last: its lock guards all the others
    _sync_directory(files.path.parent)
    return outcome


def _complete(sink: Sink, final_path: Path, ticks: int, errors: list[str]) -> str:
    """Full length, on disk, named: the path, or "" when there is nothing."""
    if sink.error:
        errors.append(f"{final_path.name}: {sink.error}")
    if sink.wav is None:
        return str(final_path) if not sink.error and final_path.exists() else ""
    try:
        sink.wav.extend(ticks * sink.wav.rate_hz // TICKS_PER_SECOND)
        sink.wav.sync()
        return str(publish(sink.path, final_path))
    except OSError as error:
        errors.append(f"{final_path.name}: {error}")
        return ""
    finally:
        sink.close()


def publish(path: Path, final_path: Path) -> Path:
    """Give the finished file its name, or one close to it where that is taken. Raises OSError."""
    for attempt in range(_NAMES_TRIED):
        name = final_path.with_stem(f"{final_path.stem}_{attempt}") if attempt else final_path
        try:
            name.hardlink_to(path)
        except FileExistsError:
            if not path.samefile(name):  # else: linked, then killed
                continue
        path.unlink()
        return name
    raise FileExistsError(errno.EEXIST, "the name and others close to it are taken", str(final_path))


def _merged(files: RecordingFiles, final_path: Path, ticks: int, errors: list[str]) -> str:
    tracks = [None if sink.error else sink.wav for sink in files.tracks]
    rates_hz = {wav.rate_hz for wav in tracks if wav is not None}
    if final_path.exists() or not rates_hz:
        return str(final_path) if final_path.exists() else ""
    rate_hz = max(rates_hz)
    frames = ticks * rate_hz // TICKS_PER_SECOND
    path = dot_path(files.path, ".merged")
    try:
        path.unlink(missing_ok=True)  # of an attempt that was killed
        merged = WavFile.create(path, rate_hz, len(tracks), frames_planned=frames)
        try:
            _interleave([wav if wav and wav.rate_hz == rate_hz else None for wav in tracks], merged, frames)
            merged.extend(frames)
            merged.sync()
        finally:
            merged.close()
        return str(publish(path, final_path))
    except OSError as error:
        errors.append(f"{final_path.name}: {error}")
        return ""


def _interleave(tracks: list[WavFile | None], merged: WavFile, frames: int) -> None:
    step = max(_MERGE_BLOCK_SAMPLES // len(tracks), 1)
    block = np.zeros((step, len(tracks)), np.int16)
    track = np.zeros(step, np.int16)
    for position in range(0, frames, step):
        began = time.monotonic()
        count = min(step, frames - position)
        for channel, wav in enumerate(tracks):
            if wav is None:
                continue
            track[wav.read_into(position, track[:count].data.cast("B")) :] = 0
            block[:count, channel] = track[:count]
        merged.write(position, block[:count].data.cast("B"))
        time.sleep(time.monotonic() - began)


def _sync_directory(directory: Path) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def ending(
    note: Note, outcome: Outcome, *, room_id: str, recording_id: str, errors: Sequence[str] = ()
) -> RecordingFinished:
    """What control is told of the end."""
    paths = dict(zip((one.participant_id for one in note.channels), outcome.tracks, strict=False))
    channels = tuple(
        RecordedChannel(
            participant_id=one.participant_id,
            channel=index,
            start_ms=(one.first_tick - note.since_tick) * TICK_MS,
            end_ms=((one.end_tick or note.end_tick) - note.since_tick) * TICK_MS,
            path=paths[one.participant_id],
        )
        for index, one in enumerate(note.channels)
        if paths.get(one.participant_id) and one.first_tick
    )
    whole = {one.participant_id for one in channels}
    return RecordingFinished(
        room_id=room_id,
        recording_id=recording_id,
        path=outcome.path,
        multi_channel_path=outcome.merged_path,
        channels=channels,
        omitted=tuple(one.participant_id for one in note.channels if one.participant_id not in whole),
        error="; ".join([*outcome.errors, *errors]),
    )


def finish_orphans(directory: Path, before_s: float) -> Iterator[tuple[Outcome, Note]]:
    """At a server's start: finish every recording that nobody goes on with, as long as it had become.

    Left alone: what a living process holds (another server on the same directory), and what was written after `before_s`, the
    server's own start by the wall clock: a recording of its own, whose worker may just be dead. Raises OSError only where the
    directory cannot be read.
    """
    names = {path.name.rpartition(".wav.")[0] for path in directory.iterdir()} if directory.exists() else set()
    for name in sorted(name for name in names if name.startswith(".")):
        with contextlib.suppress(OSError):  # held, or gone meanwhile: another process is at it
            found = finish_orphan(directory / f"{name[1:]}.wav", before_s)
            if found is not None:
                yield found


def finish_orphan(final_path: Path, before_s: float = math.inf) -> tuple[Outcome, Note] | None:
    """None where there is nothing to finish. Raises OSError; BlockingIOError for files that are held."""
    parts = [path for path in final_path.parent.iterdir() if path.name.rpartition(".wav.")[0] == f".{final_path.stem}"]
    written_s = max((path.stat().st_mtime for path in parts), default=math.inf)
    if written_s >= before_s:
        return None
    files = RecordingFiles("", final_path, 0, 0)
    note = files.reopen()
    sinks = [sink for sink in (files.mix, *files.tracks) if sink.wav is not None]
    ticks = max((-(-sink.wav.frames * TICKS_PER_SECOND // sink.wav.rate_hz) for sink in sinks if sink.wav), default=0)
    outcome: Outcome | None = None
    if sinks and not ticks:
        files.discard()  # an empty capture leaves no file
    elif sinks:
        note.end_tick = note.end_tick or note.since_tick + ticks
        note.stamp = note.stamp or time_stamp(written_s)
        files.save(note)  # a repetition finds the same names
        outcome = finish(files, note, multi_channel=bool(files.tracks))
        if outcome.errors:
            return outcome, note  # what is left is tried again at the next start
    for path in parts:
        if path.suffix in _LEFTOVERS:
            path.unlink(missing_ok=True)
    files.forget()
    return (outcome, note) if outcome is not None else None
