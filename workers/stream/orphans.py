"""Recordings that a server left behind when all of it was killed: finished by the next one on the same directory.

Runs in: a thread of stream, once at its start.
Owns: when it happens, and what is logged of it.

Rules
1. Nothing waits for it: it syncs and merges, for minutes where there is much. Killed in between, the next start does the rest.
2. Nobody is left to be told but the operator: the log names the files, and whose channel is whose.

Not here: which files are orphans, and their names -> `workers/recording/finishing.py`; unfinished uploads -> `upload.py`.
"""

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from workers.recording.files import Note
from workers.recording.finishing import Outcome, finish_orphans

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
