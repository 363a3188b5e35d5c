"""Control and sip: calls and their dialogs. The rules are in `shm/messages`."""

from typing import Literal

import msgspec

from shm.messages.common import (
    Acknowledge,
    Command,
    Credentials,
    Done,
    Event,
    Failed,
    Hello,
    Leave,
    LocalMedia,
    LogLine,
    Media,
    Part,
    Wire,
)


class SipStart(Part, frozen=True, kw_only=True):
    """Settings of config.md section 5 that signalling needs; listening sockets are inherited (shm/instance.py)."""

    stats_row: int
    bind_ip: str
    bind_ipv6: str = ""
    port: int = 5060
    tls_port: int = 0
    external_ip: str = ""
    domain: str = ""
    product: str = "voiceblender"  # SIP_HOST: Server, User-Agent, default From
    tls_cert: str = ""
    tls_key: str = ""
    tls_ca_file: str = ""
    tls_insecure: bool = False
    codecs: tuple[str, ...] = ("PCMU", "PCMA", "G722")  # built and enabled, in order
    outbound_proxy: str = ""
    auto_ringing: bool = False
    use_source_socket: bool = False
    strict_mline_answer: bool = True
    debug: bool = False
    ringing_limit: int = 1024  # MAX_LEGS / 4; beyond it 503
    untrusted_ringing_limit: int = 20
    trusted_networks: tuple[str, ...] = ()


class Dial(Command, frozen=True, kw_only=True):
    """control -> sip: INVITE. Done once it is on its way; everything later is events."""

    leg_id: str
    target: str  # SIP URI, checked by control for shape only
    media: LocalMedia
    from_uri: str = ""  # "" = SIP_HOST identity; else user part or full SIP URI (contract legs.md section 4)
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    privacy: str = ""
    auth: Credentials | None = None
    outbound_proxy: str = ""


class Ring(Command, frozen=True, kw_only=True):
    """control -> sip: 180."""

    leg_id: str


class Progress(Command, frozen=True, kw_only=True):
    """control -> sip: 183 with SDP. Done carries the media agreed (None for an INVITE without offer: Failed)."""

    leg_id: str
    media: LocalMedia
    codec: str = ""


class Answer(Command, frozen=True, kw_only=True):
    """control -> sip: 200 with SDP. Done carries the media agreed (None: our 200 carries the offer, media comes with the ACK)."""

    leg_id: str
    media: LocalMedia
    codec: str = ""


class Reject(Command, frozen=True, kw_only=True):
    """control -> sip: final response to an unanswered inbound INVITE. The call is gone for sip; no CallEnded follows."""

    leg_id: str
    status: int
    reason: str = ""
    retry_after_s: int = 0


class Hangup(Command, frozen=True, kw_only=True):
    """control -> sip: BYE, or CANCEL where unanswered. Done at once; no CallEnded follows. Unknown legs are Done too."""

    leg_id: str


class Hold(Command, frozen=True, kw_only=True):
    """control -> sip: re-INVITE sendonly / sendrecv. Done after the 2xx (MediaChanged came before it); Failed when refused."""

    leg_id: str
    held: bool


class Dialog(Part, frozen=True, kw_only=True):
    """All a successor needs to go on with a confirmed dialog (design.md section 5)."""

    leg_id: str
    call_id: str
    local_tag: str
    remote_tag: str
    local_uri: str  # From/To header values without tag, ours and theirs
    remote_uri: str
    remote_target: str
    route_set: tuple[str, ...] = ()
    local_cseq: int = 0
    remote_cseq: int = -1
    invite_cseq: int = 0  # of the INVITE that made the dialog
    is_caller: bool = False
    transport: str = "UDP"
    destination: str = ""  # host:port that packets of this flow go to
    local_sdp: str = ""
    sdp_version: int = 0
    local_media: LocalMedia | None = None
    media: Media | None = None
    session_expires_s: int = 0  # 0 = no session timer
    refreshes: bool = False
    refreshed_at_ns: int = 0  # CLOCK_MONOTONIC
    acknowledged: bool = True  # False: our 2xx still waits for its ACK
    answer: bytes = b""  # the 2xx to repeat until then
    held_locally: bool = False
    auth: Credentials | None = None


class RestoreDialog(Command, frozen=True, kw_only=True):
    """control -> a new sip: go on with this dialog (+100 on CSeq and o= version)."""

    dialog: Dialog


class Listen(Command, frozen=True, kw_only=True):
    """control -> a new sip: all dialogs are restored, read what waits at the sockets.

    Before that a request inside one of them would be refused with 481, and its sender would end the call."""


class OfferedCodec(Part, frozen=True, kw_only=True):
    name: str
    payload_type: int
    clock_rate: int
    priority: int


class CallReceived(Event, frozen=True, kw_only=True):
    """sip -> control: an INVITE that wants a leg (100 is sent). `leg_id` is a new UUIDv4 chosen by sip.

    `headers` are its X-* headers as received (X-Webhook-Secret too: control decides what is shown).
    """

    leg_id: str
    from_user: str
    to_user: str
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    offered_codecs: tuple[OfferedCodec, ...] = ()
    has_offer: bool = True
    source_address: str = ""  # host:port
    trusted: bool = False  # source in SIP_TRUSTED_IPS
    local_host: str = ""  # our address of the family the offer uses


class EarlyMediaReceived(Event, frozen=True, kw_only=True):
    """sip -> control: 183 with SDP on a dialled leg; again when a later 18x changes it."""

    leg_id: str
    media: Media


class CallAnswered(Event, frozen=True, kw_only=True):
    """sip -> control: 2xx to our INVITE, ACK is sent."""

    leg_id: str
    media: Media


class CallConfirmed(Event, frozen=True, kw_only=True):
    """sip -> control: the ACK to our 200 is in. `media` where it came with the ACK."""

    leg_id: str
    media: Media | None = None


class MediaChanged(Event, frozen=True, kw_only=True):
    """sip -> control: re-INVITE or UPDATE of either side changed the media. `by_peer`: who asked.

    `held` is true when the peer holds us or we hold the peer.
    """

    leg_id: str
    media: Media
    held: bool = False
    by_peer: bool = True


class CallEnded(Event, frozen=True, kw_only=True):
    """sip -> control: the call is over, not by control's own command. `reason` is a word of legs.md section 3.1."""

    leg_id: str
    reason: str


class DialogSaved(Event, frozen=True, kw_only=True):
    """sip -> control: the dialog as it is now; control keeps the latest for `RestoreDialog`. Dropped never, no number:
    the inventory repeats it."""

    dialog: Dialog


class SipCall(Part, frozen=True, kw_only=True):
    leg_id: str
    state: Literal["incoming", "outgoing", "early", "answered", "confirmed"]
    dialog: Dialog | None = None


class SipInventoryPart(Wire, frozen=True, kw_only=True):
    calls: tuple[SipCall, ...] = ()
    listens: bool = True  # False: whoever started it died before `Listen`
    last: bool = False


ToSip = Hello | Acknowledge | Leave | Dial | Ring | Progress | Answer | Reject | Hangup | Hold | RestoreDialog | Listen
FromSip = (
    Done
    | Failed
    | LogLine
    | SipInventoryPart
    | CallReceived
    | EarlyMediaReceived
    | CallAnswered
    | CallConfirmed
    | MediaChanged
    | CallEnded
    | DialogSaved
)
