"""Control and an rtp process: legs, their media, rows and digits. The rules are in `shm/messages`."""

from typing import Literal

from shm.messages.common import Acknowledge, Command, Done, Event, Failed, Hello, Leave, LogLine, Media, Part, Row, Wire


class RtpStart(Part, frozen=True, kw_only=True):
    index: int
    stats_row: int
    io: Literal["auto", "uring", "epoll"] = "auto"
    playout_floor_ms: int = 0  # SIP_JITTER_BUFFER_MS
    playout_ceiling_ms: int = 300  # SIP_JITTER_BUFFER_MAX_MS
    rtp_timeout_s: int = 30


class OpenLeg(Command, frozen=True, kw_only=True):
    """control -> rtp: bind `host:port` (UDP) and serve this leg on `row`; also replays a leg to a restarted process.

    `phase` None: in no room, send silence. `resume`: take sequence, timestamp, SSRC, latch and anchor from `bank.leg[row]`.
    """

    leg_id: str
    row: Row
    host: str
    port: int
    media: Media | None = None
    phase: int | None = None
    detect_speech: bool = False
    resume: bool = False


class SetMedia(Command, frozen=True, kw_only=True):
    """control -> rtp: negotiated or renegotiated. Re-latches and re-anchors when address, codec or direction ask for it."""

    leg_id: str
    media: Media


class PlaceLeg(Command, frozen=True, kw_only=True):
    """control -> rtp: from `at_tick` on the leg lives on `row` (same or another bank) and is mixed at `phase`."""

    leg_id: str
    row: Row
    phase: int | None
    at_tick: int = 0


class SendDigits(Command, frozen=True, kw_only=True):
    """control -> rtp: queue RFC 4733 digits. Done when queued; Failed(caller) without telephone-event or beyond 256 queued."""

    leg_id: str
    digits: str


class DetectSpeech(Command, frozen=True, kw_only=True):
    leg_id: str
    enabled: bool


class CloseLeg(Command, frozen=True, kw_only=True):
    """control -> rtp: RTCP BYE, close the socket, stop writing the row. Final counters stay in `bank.leg[row]`."""

    leg_id: str


class DigitReceived(Event, frozen=True, kw_only=True):
    leg_id: str
    digit: str


class MediaTimedOut(Event, frozen=True, kw_only=True):
    """rtp -> control: nothing received for `rtp_timeout_s` while media should come."""

    leg_id: str


class SpeechChanged(Event, frozen=True, kw_only=True):
    """rtp -> control (telemetry, no number)."""

    leg_id: str
    speaking: bool


class RtpLeg(Part, frozen=True, kw_only=True):
    leg_id: str
    row: Row
    port: int
    speaking: bool = False


class RtpInventoryPart(Wire, frozen=True, kw_only=True):
    legs: tuple[RtpLeg, ...] = ()
    last: bool = False


ToRtp = Hello | Acknowledge | Leave | OpenLeg | SetMedia | PlaceLeg | SendDigits | DetectSpeech | CloseLeg
FromRtp = Done | Failed | LogLine | RtpInventoryPart | DigitReceived | MediaTimedOut | SpeechChanged
