"""One playback: its facts, and what others wait for.

Runs in: control.
Owns: the fields of a playback.

Not here: its life -> `playbacks.py`.
"""

import asyncio

import msgspec

from app.services.venues import Venue
from shm.clock import TICK_NS, tick_now
from shm.messages import Synthesize

TICK_MS = TICK_NS // 1_000_000


class PlaybackFacts(msgspec.Struct, omit_defaults=True, kw_only=True):
    id: str
    venue: Venue
    app_id: str = ""
    tone: str = ""
    url: str = ""
    mime_type: str = ""
    speech: Synthesize | None = None
    volume: int = 0
    repeat: int = 1  # as in StartPlayback
    rate_hz: int = 0  # of its clip
    stream_index: int = 0  # who makes its clip
    mixed_in: str = ""
    first_tick: int = 0  # as if it had played without a pause since


class Playback:
    def __init__(self, facts: PlaybackFacts) -> None:
        self.facts = facts
        self.descriptor = -1
        self.is_stopping = False
        self.is_over = False
        self.is_known = True  # to the room worker, as far as a new control can tell
        self.failure = ("", "unknown")  # what stream said of its clip: (error, category)
        self.heard: asyncio.Future[int] | None = None  # on the move: milliseconds when the old room has let go
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def is_speech(self) -> bool:
        return self.facts.speech is not None

    def played_ms(self) -> int:
        first_tick = self.facts.first_tick
        return max(tick_now() - first_tick, 0) * TICK_MS if first_tick else 0
