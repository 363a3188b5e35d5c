"""One recording: its facts, what others wait for, and what is said of its files.

Runs in: control.
Owns: the fields of a recording and the words of reply and event (contract rooms.md A13).

Not here: its steps -> `recordings.py`.
"""

import asyncio
import secrets
import time
from typing import Any, Literal

import msgspec

from app.services.storage import Bucket
from app.services.venues import Venue
from app.supervisor import Worker
from shm.messages import RecordedChannel, RecordingFinished


class RecordingFacts(msgspec.Struct, omit_defaults=True, kw_only=True):
    id: str
    venue: Venue
    path: str
    app_id: str = ""
    multi_channel: bool = False
    bucket: Bucket | None = None
    step: Literal["running", "stopping", "storing"] = "running"
    paused: bool = False
    mixed_in: str = ""
    rate_hz: int = 0
    phase: int = 0
    since_tick: int = 0
    result: RecordingFinished | None = None  # from "storing" on
    stream_index: int = 0


class Recording:
    def __init__(self, facts: RecordingFacts) -> None:
        loop = asyncio.get_running_loop()
        self.facts = facts
        self.is_known = True
        self.worker: Worker | None = None  # who writes the files, or is told to
        self.is_begun = False  # its worker has confirmed the file
        self.is_moving = False  # with its leg: one worker lets go of the files before the next takes them
        self.is_lost = False  # to room workers: stream finishes it, asked once
        self.finished: asyncio.Future[None] = loop.create_future()  # its worker has told
        self.stored: asyncio.Future[dict[str, Any]] = loop.create_future()  # the reply to who stopped it
        self.told: asyncio.Future[None] = loop.create_future()  # `recording.finished` is out
        self.lock = asyncio.Lock()  # pauses one after the other

    @property
    def needs_its_worker(self) -> bool:
        """Also when nobody is in the mix any more."""
        return (self.is_moving or self.facts.step == "stopping") and not self.finished.done()


def new_name() -> str:
    return f"{time.strftime('%Y%m%d_%H%M%S')}_{secrets.token_hex(4)}.wav"


def paths_of(result: RecordingFinished) -> tuple[str, ...]:
    """All files there are, the mix first."""
    return tuple(filter(None, (result.path, result.multi_channel_path, *(one.path for one in result.channels))))


def places_of(result: RecordingFinished, locations: dict[str, str]) -> dict[str, Any]:
    """What reply and event say; a file that is nowhere else is given by its path."""
    places: dict[str, Any] = {"file": locations.get(result.path, result.path)}
    if result.multi_channel_path or result.channels:
        places["multi_channel_file"] = locations.get(result.multi_channel_path, result.multi_channel_path)
        places["channels"] = {one.participant_id: _channel(one, locations) for one in result.channels}
    if result.omitted:
        places["omitted_legs"] = list(result.omitted)
    return places


def _channel(one: RecordedChannel, locations: dict[str, str]) -> dict[str, Any]:
    shown: dict[str, Any] = {"channel": one.channel, "start_ms": one.start_ms, "end_ms": one.end_ms}
    if one.path:
        shown["file"] = locations.get(one.path, one.path)
    return shown
