"""What should exist: calls, rooms and what runs in them, as the requests made so far imply it.

Runs in: scripts/soak.
Owns:    every call, room and service of the run, and the list of what was found wrong.
Rules:
 1. Who changes a call or a room takes it first (`taken`); checks look only at what nobody holds.
 2. A request whose reply was lost leaves its subject unsure; it is then read, and must be as before or as wished.
 3. Every death is noted with its moment: what was under way then may have failed, nothing else.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.flows.tools.call import Call as PhoneCall
from tests.flows.tools.phone import Phone
from tests.flows.tools.room_client import RoomClient

FIRST_TONE_HZ, TONE_STEP_HZ, TONES = 400, 60, 49  # below 3,300 Hz; what is played lies at least 20 Hz beside


class Subject:
    """Something that one deed at a time may change."""

    is_taken = False
    changed_s = 0.0
    is_over = False  # or meant to be

    @contextmanager
    def taken(self) -> Iterator[None]:
        self.is_taken = True
        try:
            yield
        finally:
            self.is_taken = False
            self.changed_s = time.monotonic()

    def steady(self, seconds: float) -> bool:
        """Nobody has changed it for so long."""
        return not self.is_taken and not self.is_over and time.monotonic() - self.changed_s >= seconds


@dataclass(eq=False)
class Service:
    """A playback or an utterance of a room or a leg."""

    id: str
    is_tone: bool  # switched on and off, which is heard beside it


@dataclass(eq=False)
class Venue(Subject):
    """Where services run: a room or a leg; `path` is its place below /v1."""

    path: str
    services: list[Service] = field(default_factory=list)
    records: bool = False
    has_agent: bool = False
    noisy_s: float = 0.0  # when speech was last asked for, or a tone stopped: they hold other frequencies too

    @property
    def rings(self) -> bool:
        return any(service.is_tone for service in self.services)


@dataclass(eq=False)
class Room(Venue):
    id: str = ""
    clients: list[RoomClient] = field(default_factory=list)


@dataclass(eq=False)
class Call(Venue):
    name: str = ""
    tone_hz: float = 0.0
    phone: Phone | None = None
    call: PhoneCall | None = None
    leg_id: str = ""
    room: Room | None = None
    muted: bool = False
    deaf: bool = False
    held: bool = False
    is_up: bool = False  # answered and acknowledged, so nothing but a hang-up may end it
    unheard_since_s: float = 0.0  # 0: hears what it should


class Model:
    def __init__(self) -> None:
        self.began_s = time.monotonic()
        self.calls: list[Call] = []
        self.rooms: list[Room] = []
        self.deaths: list[tuple[float, str]] = []  # moment, title
        self.wrong: list[str] = []
        self.counts: dict[str, int] = {}
        self.started: dict[str, str] = {}  # id of a playback, utterance or recording -> where
        self.agents_started = 0
        self.lost_starts: dict[str, int] = {}  # replies lost, by what was to start
        self._names = 0

    def fault(self, text: str) -> None:
        line = f"{time.monotonic() - self.began_s:7.2f} s: {text}"
        if len(self.wrong) < 100 and text not in (known.partition(": ")[2] for known in self.wrong):
            self.wrong.append(line)

    def count(self, deed: str) -> None:
        self.counts[deed] = self.counts.get(deed, 0) + 1

    def name(self, prefix: str) -> str:
        self._names += 1
        return f"{prefix}-{self._names}"

    def free_tone_hz(self) -> float | None:
        used = {call.tone_hz for call in self.calls}
        tones = (float(FIRST_TONE_HZ + TONE_STEP_HZ * number) for number in range(TONES))
        return next((tone for tone in tones if tone not in used), None)

    def died_since(self, moment_s: float, *kinds: str) -> bool:
        """Whether something died then or later, of these kinds if any are named."""
        return any(at_s >= moment_s and (not kinds or title.split()[1] in kinds) for at_s, title in self.deaths[-50:])

    def members(self, room: Room) -> list[Call]:
        return [call for call in self.calls if call.room is room]
