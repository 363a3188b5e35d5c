"""Recordings whose room worker cannot go on with them: of a server that was killed as a whole, and of a room that was given up.

Runs in: threads of stream.
Owns: when they are finished, and what is said of it.

Rules
1. At the start, those that are older than this server. Nothing waits for it: it syncs and merges, for minutes where there is much.
   Killed in between, the next start does the rest. The log names the files, and whose channel is whose: nobody else is left to ask.
2. A single one by order of control, which knows whom to tell.

Not here: which files are orphans, and their names -> `workers/recording/finishing.py`; unfinished uploads -> `upload.py`.
"""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from shm.messages import FinishRecording, RecordingFinished
from workers.recording.files import Note
from workers.recording.finishing import Outcome, ending, finish_orphan, finish_orphans

Log = Callable[..., None]


def finish_in_background(directory: Path, before_s: float, log: Log) -> None:
    """`before_s`: the server's start. To be called in the loop, where `log` is called too."""
    loop = asyncio.get_running_loop()
    # A thread that the end of the process does not wait for.
    threading.Thread(target=_finish, args=(directory, before_s, loop, log), name="orphans", daemon=True).start()


def _finish(directory: Path, before_s: float, loop: asyncio.AbstractEventLoop, log: Log) -> None:
    try:
        for outcome, note in finish_orphans(directory, before_s):
            loop.call_soon_threadsafe(_tell, log, outcome, note)
    except OSError as error:
        loop.call_soon_threadsafe(partial(log, "warning", "recordings left behind", error=str(error)))
    except RuntimeError:
        return  # the loop is closed: the process ends


def _tell(log: Log, outcome: Outcome, note: Note) -> None:
    facts = {"file": outcome.path, "multi_channel_file": outcome.merged_path, "error": "; ".join(outcome.errors)}
    channels = zip(note.channels, outcome.tracks, strict=False)
    facts["channels"] = ", ".join(f"{one.participant_id}: {Path(path).name}" for one, path in channels)
    level = "warning" if outcome.errors else "info"
    log(level, "a recording left behind is finished", **{name: text for name, text in facts.items() if text})


def finish_one(command: FinishRecording) -> RecordingFinished:
    """Takes as long as syncing and merging take. Raises OSError; BlockingIOError while a living process holds the files."""
    path = Path(command.path)
    found = finish_orphan(path)
    outcome, note = found or (Outcome(path=str(path) if path.exists() else ""), Note(command.recording_id))
    return ending(note, outcome, room_id=command.room_id, recording_id=command.recording_id)
