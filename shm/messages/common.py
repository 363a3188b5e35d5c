"""What all conversations share: the bases, what travels inside messages, and what control says to and hears from every worker.

Rules: see `shm/messages`.
"""

from typing import Literal

import msgspec


class Wire(msgspec.Struct, frozen=True, tag=True, omit_defaults=True, kw_only=True):
    """Base of everything that is a message by itself (tagged by its class name)."""


class Part(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Base of what only travels inside a message."""


class Command(Wire, frozen=True, kw_only=True):
    command_id: int = 0


class Event(Wire, frozen=True, kw_only=True):
    number: int = 0


Direction = Literal["sendrecv", "sendonly", "recvonly", "inactive"]


class Row(Part, frozen=True, kw_only=True):
    """One row of one bank; `generation` changes each time the row gets a new owner."""

    rate_hz: int
    index: int
    generation: int


class Codec(Part, frozen=True, kw_only=True):
    """One rtpmap. `clock_hz` is the RTP clock (8000 for G722, RFC 3551 section 4.5.2); the audio rate is `rate_hz`."""

    name: str  # PCMU, PCMA, G722, L16, opus
    payload_type: int
    clock_hz: int
    rate_hz: int
    fmtp: str = ""


class LocalMedia(Part, frozen=True, kw_only=True):
    """What control lets sip offer or answer with: one audio stream on one UDP port."""

    host: str
    port: int
    codecs: tuple[str, ...]  # enabled names, in order of preference
    direction: Direction = "sendrecv"


class Media(Part, frozen=True, kw_only=True):
    """One agreed audio stream (RFC 3264), as sip found it and rtp shall speak it.

    `direction` is ours: "sendonly" = the peer does not send. `remote_port` 0 or an empty `remote_host` (c=0.0.0.0) means
    that there is nowhere to send to.
    """

    send: Codec
    receive: tuple[Codec, ...]  # every codec that may arrive, by our payload types
    remote_host: str
    remote_port: int
    direction: Direction = "sendrecv"
    rtcp_mux: bool = False
    remote_rtcp_port: int = 0  # 0 = none; equal to remote_port with rtcp-mux
    ptime_ms: int = 20  # what we send
    event_send_type: int | None = None  # telephone-event payload types (RFC 4733)
    event_receive_type: int | None = None
    event_clock_hz: int = 8000


class Credentials(Part, frozen=True, kw_only=True):
    username: str
    password: str


class Hello(Command, frozen=True, kw_only=True):
    """control -> any worker, first of all: send your inventory."""


class Acknowledge(Wire, frozen=True, kw_only=True):
    """control -> any worker: events up to `number` are safe; forget them. No reply."""

    number: int


class Leave(Wire, frozen=True, kw_only=True):
    """control -> any worker: finish and exit 0. No reply."""


class Done(Wire, frozen=True, kw_only=True):
    command_id: int
    media: Media | None = None  # Answer, Progress: what was agreed


class Failed(Wire, frozen=True, kw_only=True):
    """`blame`: caller -> 4xx, peer -> event, resource -> 503 (see shm/errors.py)."""

    command_id: int
    error: str
    blame: Literal["caller", "peer", "resource"] = "peer"


class LogLine(Wire, frozen=True, kw_only=True):
    """any worker -> control: only control writes logs. Telemetry: dropped first."""

    level: Literal["debug", "info", "warning", "error"]
    event: str
    fields: dict[str, str | int | float | bool | None] = {}
