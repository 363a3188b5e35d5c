"""One leg: the facts that must survive control, and what control needs beside them while it runs.

Runs in: control.
Owns: the fields of a leg and how the API shows them (contract legs.md section 2).

Rules
1. `facts` is what the ledger keeps; whoever changes it puts it there again before anything is answered or published.
2. `lock` orders what waits for other processes. The end of a leg takes no lock: it happens at once (`is_over`), and
   whoever waited in between looks at `is_over` next and tidies up what it had begun.
3. Instants are CLOCK_MONOTONIC nanoseconds: they mean the same to the next control process; 0 = has not happened.

Not here: who changes what when -> `legs.py`, `control.py`, `signals.py`.
"""

import asyncio
from typing import Any, Literal

import msgspec

from shm.clock import PHASES
from shm.messages import Dialog, LocalMedia, Media, OfferedCodec, Row

LegType = Literal["sip_inbound", "sip_outbound"]
State = Literal["ringing", "early_media", "connected", "held", "hung_up"]
HIDDEN_HEADER = "x-webhook-secret"
LAST_PHASE = PHASES - 1


class AudioPath(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where a leg's audio runs: UDP `bind_host:port` of process `rtp <rtp_index>`, and a row of a bank."""

    row: Row
    bind_host: str
    port: int
    rtp_index: int


class LegFacts(msgspec.Struct, omit_defaults=True, kw_only=True):
    id: str
    type: LegType
    state: State = "ringing"
    room_id: str = ""
    is_mixed_alone: bool = False  # in no room, but in the mix of one hidden for its services
    joined_ns: int = 0  # orders a room's participants
    wished_room_id: str = ""  # to be joined on early media or connect, once
    muted: bool = False
    deaf: bool = False
    accept_dtmf: bool = True
    role: str = ""
    app_id: str = ""
    headers: dict[str, str] = {}
    detects_speech: bool = False
    has_spoken_up: bool = False  # `speaking.started` is out and its `stopped` is owed
    digits_received: int = 0
    offered_codecs: tuple[OfferedCodec, ...] = ()
    has_offer: bool = True
    media_host: str = ""  # what our SDP names
    codecs: tuple[str, ...] = ()
    is_answered: bool = False  # inbound: somebody asked for our 200
    created_ns: int = 0
    connected_ns: int = 0
    max_duration_s: int = 0
    deadlines_ns: dict[str, int] = {}  # disconnect reason -> instant
    farewell: dict[str, Any] | None = None  # `leg.disconnected`, which waits for a recording to be finished
    path: AudioPath | None = None
    media: Media | None = None


class Leg:
    """A living leg. `dialog` is sip's latest word on it, `phase` what rtp was last told."""

    __slots__ = (
        "dialog",
        "facts",
        "is_over",
        "is_progressing",
        "is_speaking",
        "joined",
        "lock",
        "moved_at_tick",
        "phase",
        "timer",
    )

    def __init__(self, facts: LegFacts) -> None:
        self.facts = facts
        self.lock = asyncio.Lock()
        self.dialog: Dialog | None = None
        self.phase: int | None = None
        self.moved_at_tick = 0  # its latest move between rooms holds from then on
        self.timer: asyncio.TimerHandle | None = None
        self.joined: asyncio.Future[None] | None = None  # somebody waits for `wished_room_id`
        self.is_over = False
        self.is_progressing = False
        self.is_speaking = False  # as rtp hears it

    @property
    def is_unanswered_inbound(self) -> bool:
        facts = self.facts
        return facts.type == "sip_inbound" and not facts.is_answered and facts.connected_ns == 0

    @property
    def reading_phase(self) -> int:
        """With whose mix all that the leg says in a tick is in its row: which phase a leg in no room has is known to rtp alone."""
        return LAST_PHASE if self.phase is None else self.phase

    @property
    def local_media(self) -> LocalMedia:
        assert self.facts.path is not None
        return LocalMedia(host=self.facts.media_host, port=self.facts.path.port, codecs=self.facts.codecs)

    def view(self) -> dict[str, Any]:
        """The leg object of the API."""
        facts = self.facts
        shown: dict[str, Any] = {"id": facts.id, "type": facts.type, "state": facts.state}
        if facts.room_id:
            shown["room_id"] = facts.room_id
        shown["muted"] = facts.muted
        shown["deaf"] = facts.deaf
        shown["held"] = facts.state == "held"
        shown["accept_dtmf"] = facts.accept_dtmf
        if facts.role:
            shown["role"] = facts.role
        if facts.app_id:
            shown["app_id"] = facts.app_id
        if facts.headers:
            shown["sip_headers"] = facts.headers
            shown["headers"] = facts.headers
        return shown


def shown_headers(headers: dict[str, str]) -> dict[str, str]:
    """Headers as events and the API may show them: no webhook secret, other secrets masked."""
    return {
        name: "***" if name.lower() == "authorization" or name.lower().endswith("-secret") else value
        for name, value in headers.items()
        if name.lower() != HIDDEN_HEADER
    }
