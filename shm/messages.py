"""Every message between control and the workers, with who sends it to whom.

Runs in: every process.
Owns: the words of the house. Commands are verbs, events past tense.

Rules
1. Commands go from control to a worker and carry a `command_id`; exactly one `Done` or `Failed` answers each.
   A command is idempotent: a worker that gets the same `command_id` again answers again and does nothing twice.
2. Events go from a worker to control. Those with a `number` end or count something: the worker keeps them until
   control says `Acknowledge` (see `shm/outbox.py`); the rest is telemetry and may be dropped under pressure.
3. `Hello` asks a worker for its inventory: `InventoryPart`s, the last one with `last=True`, then every numbered
   event not yet acknowledged, again. A new control process ignores whatever comes before the inventory.
4. A message stays below 64 KiB encoded; lists travel in numbered parts.
5. `at_tick` names the first tick for which a change holds; 0 = at once. Who gets it late applies it at once.

Not here: how messages travel -> `shm/channel.py`; who hangs on whose channel -> `app/supervisor.py`.
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


# ------------------------------------------------------------------------------------------------ parts

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


# ------------------------------------------------------------------------------------------------ all workers


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


# ------------------------------------------------------------------------------------------------ zygote


class Spawn(Command, frozen=True, kw_only=True):
    """control -> zygote. The reply is `Spawned` with two descriptors: control's channel end and a pidfd."""

    name: str  # "rtp 0", "sip", "room <id>", unique among the living
    kind: Literal["rtp", "sip", "room", "stream"]
    start: bytes  # the kind's Start struct, msgpack; the zygote keeps it for the next control process


class Spawned(Wire, frozen=True, kw_only=True):
    """zygote -> control, with descriptors [channel, pidfd]."""

    command_id: int
    name: str
    kind: str
    pid: int
    start: bytes


class Adopt(Wire, frozen=True, kw_only=True):
    """control -> a new zygote, with descriptors [channel, pidfd] of one living worker."""

    name: str
    kind: str
    pid: int
    start: bytes


class ListWorkers(Command, frozen=True, kw_only=True):
    """a new control -> zygote: one `Spawned` (with descriptors) for each worker kept, then `Done`."""


class ZygoteStarted(Wire, frozen=True, kw_only=True):
    """a new zygote -> control: I keep no descriptors yet, adopt yours to me."""

    pid: int


ToZygote = Spawn | Adopt | ListWorkers
FromZygote = Spawned | Done | Failed | ZygoteStarted

# ------------------------------------------------------------------------------------------------ rtp


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

# ------------------------------------------------------------------------------------------------ room


class RoomStart(Part, frozen=True, kw_only=True):
    """A room worker starts empty; `shared` only tells its title."""

    stats_row: int
    comfort_noise: bool = True
    shared: bool = False


class OpenRoom(Command, frozen=True, kw_only=True):
    room_id: str
    rate_hz: int
    phase: int


class AddParticipant(Command, frozen=True, kw_only=True):
    """control -> room: `row` enters the mix. The same leg again replaces its earlier entry.

    `has_track` False (agents): a multi-channel recording has no channel for it (media.md 6.4).
    """

    room_id: str
    leg_id: str
    row: Row
    muted: bool = False
    deaf: bool = False
    has_track: bool = True
    at_tick: int = 0


class SetParticipant(Command, frozen=True, kw_only=True):
    room_id: str
    leg_id: str
    muted: bool
    deaf: bool
    at_tick: int = 0


class RemoveParticipant(Command, frozen=True, kw_only=True):
    room_id: str
    leg_id: str
    at_tick: int = 0


class CloseRoom(Command, frozen=True, kw_only=True):
    room_id: str


class StartPlayback(Command, frozen=True, kw_only=True):
    """control -> room. With a clip (shm/clip.py) its descriptor travels along; with a `tone` none does.

    `leg_id`: heard by that leg alone, added to what it hears (media.md M5); "" = a source in the mix.
    `played_ticks`: where to go on in another or restarted worker; above 0 no `PlaybackStarted` follows, the first worker sent
    it. `repeat`: 1 = once, 0 = endless. `clip_rate_hz`: 0 = the room's. Failed(caller): unknown tone;
    Failed(resource): a descriptor that is no clip.
    """

    room_id: str
    playback_id: str
    tone: str = ""
    volume: int = 0
    repeat: int = 1
    leg_id: str = ""
    played_ticks: int = 0
    clip_rate_hz: int = 0


class SetVolume(Command, frozen=True, kw_only=True):
    """control -> room: ramped over the next frame, so that nothing clicks."""

    room_id: str
    playback_id: str
    volume: int


class StopPlayback(Command, frozen=True, kw_only=True):
    """control -> room. `PlaybackFinished` with reason "stopped" follows, also for one that never began; nothing follows for one
    that is not here (any more)."""

    room_id: str
    playback_id: str


class PlaybackStarted(Event, frozen=True, kw_only=True):
    room_id: str
    playback_id: str
    tick: int = 0  # of its first frame


class PlaybackFinished(Event, frozen=True, kw_only=True):
    """room -> control. reason "failed": the clip was given up by its writer before its end."""

    room_id: str
    playback_id: str
    reason: Literal["completed", "stopped", "failed"]
    played_ms: int


class StartRecording(Command, frozen=True, kw_only=True):
    """control -> room. `path` is a dot-file's final name; the worker writes beside it (media.md 6.1) and links it at the end.

    Done once the file is there; Failed(resource) when it cannot be made or its name is taken.
    `leg_id`: stereo, left what that leg says, right what it hears; "" = the room's mix, mono.
    `since_tick`: 0 = now; else go on in the files of a worker that died or handed over: the timeline counts from that tick, and
    no `RecordingStarted` follows. Where the files say how the recording ended, it is only finished.
    """

    room_id: str
    recording_id: str
    path: str
    leg_id: str = ""
    multi_channel: bool = False
    paused: bool = False
    since_tick: int = 0


class PauseRecording(Command, frozen=True, kw_only=True):
    room_id: str
    recording_id: str
    paused: bool


class StopRecording(Command, frozen=True, kw_only=True):
    """control -> room. `RecordingFinished` follows once all files are complete under their final names.

    `hand_over`: leave the files as they are for another worker to go on with; Done once they are let go, and no event.
    """

    room_id: str
    recording_id: str
    hand_over: bool = False


class RecordedChannel(Part, frozen=True, kw_only=True):
    participant_id: str
    channel: int
    start_ms: int
    end_ms: int
    path: str = ""  # the participant's mono file


class RecordingStarted(Event, frozen=True, kw_only=True):
    room_id: str
    recording_id: str
    tick: int  # of its first frame


class RecordingFinished(Event, frozen=True, kw_only=True):
    """room -> control. `path` "" when nothing could be saved (also when stopped before the first frame).

    `omitted`: participants whose track failed. `error`: what went wrong, also when most of it could be saved.
    """

    room_id: str
    recording_id: str
    path: str
    multi_channel_path: str = ""
    channels: tuple[RecordedChannel, ...] = ()
    omitted: tuple[str, ...] = ()
    error: str = ""


class MixParticipant(Part, frozen=True, kw_only=True):
    leg_id: str
    row: Row
    muted: bool = False
    deaf: bool = False
    has_track: bool = True


class RoomInventoryPart(Wire, frozen=True, kw_only=True):
    """One part holds participants of one room, or one playback, or one recording; a big room takes several parts.

    Playbacks and recordings are told as the commands that would go on with them elsewhere; a clip's descriptor travels along.
    `channels`: the participants of a multi-channel recording, in the order of its channels. `is_stopping`: its end is on the way.
    """

    room_id: str = ""
    rate_hz: int = 0
    phase: int = 0
    participants: tuple[MixParticipant, ...] = ()
    playback: StartPlayback | None = None
    recording: StartRecording | None = None
    channels: tuple[str, ...] = ()
    is_stopping: bool = False
    last: bool = False


ToRoom = (
    Hello
    | Acknowledge
    | Leave
    | OpenRoom
    | AddParticipant
    | SetParticipant
    | RemoveParticipant
    | CloseRoom
    | StartPlayback
    | SetVolume
    | StopPlayback
    | StartRecording
    | PauseRecording
    | StopRecording
)
FromRoom = (
    Done
    | Failed
    | LogLine
    | RoomInventoryPart
    | PlaybackStarted
    | PlaybackFinished
    | RecordingStarted
    | RecordingFinished
)

# ------------------------------------------------------------------------------------------------ stream


class StreamStart(Part, frozen=True, kw_only=True):
    """The part of the configuration that the stream process needs; keys of vendors travel with each command."""

    stats_row: int
    fetch_allow_private: bool = True
    ca_bundle: str = ""
    tts_cache_dir: str = ""  # "" = no cache
    tts_cache_includes_key: bool = False
    tts_cache_max_bytes: int = 0
    elevenlabs_base: str = "https://api.elevenlabs.io"
    deepgram_base: str = "https://api.deepgram.com"
    deepgram_agent_base: str = "wss://agent.deepgram.com"
    vapi_base: str = "https://api.vapi.ai"
    polly_endpoint: str = ""
    polly_region: str = "us-east-1"
    google_tts_base: str = "https://texttospeech.googleapis.com"
    recording_dir: str = "/tmp/recordings"  # noqa: S108 - the contract's default
    websocket_lead_ms: int = 0  # WS_JITTER_BUFFER_MS


class FetchClip(Command, frozen=True, kw_only=True):
    """control -> stream: fetch and decode a URL to `rate_hz`. `ClipReady` (with descriptor) or `ClipFailed` follows."""

    clip_id: str
    url: str
    mime_type: str = ""
    rate_hz: int


class Synthesize(Command, frozen=True, kw_only=True):
    """control -> stream: `ClipReady` comes with the first audio, the clip goes on growing."""

    clip_id: str
    provider: str
    text: str
    voice: str
    model_id: str = ""
    language: str = ""
    prompt: str = ""
    api_key: str = ""
    rate_hz: int


class CancelClip(Command, frozen=True, kw_only=True):
    """control -> stream: stop fetching or synthesising; nothing more is said of the clip."""

    clip_id: str


class ClipReady(Event, frozen=True, kw_only=True):
    """stream -> control, with the clip's descriptor; not repeated after control's death (the clip is lost with it)."""

    clip_id: str


class ClipFailed(Event, frozen=True, kw_only=True):
    """stream -> control: once at most. After a `ClipReady`: the growing clip broke off; its memory says FAILED to its players, who
    end with "failed" by themselves."""

    clip_id: str
    error: str
    category: str = "unknown"  # media.md 9.6, for speech


class UploadRecording(Command, frozen=True, kw_only=True):
    """control -> stream: put files into object storage and remove them locally. The order is spooled in `recording_dir`
    before Done, so that any death leaves it to a successor. `Uploaded` follows for each outcome."""

    upload_id: str
    paths: tuple[str, ...]
    bucket: str
    region: str
    endpoint: str = ""
    prefix: str = ""
    access_key: str = ""
    secret_key: str = ""


class FinishRecording(Command, frozen=True, kw_only=True):
    """control -> stream: no room worker can go on with it, so give what was written its names. `RecordingFinished` follows, and
    then Done. Failed(resource) where a living process holds the files."""

    room_id: str
    recording_id: str
    path: str


class Uploaded(Event, frozen=True, kw_only=True):
    """stream -> control. `locations` as given out to callers, in the order of `paths`; a failed one keeps its local path.
    `is_final` False: the first attempt failed and background retries go on."""

    upload_id: str
    locations: tuple[str, ...]
    error: str = ""
    is_final: bool = True


class StartTranscription(Command, frozen=True, kw_only=True):
    """control -> stream: one session of one participant, fed from its row (also while muted). Done once it is begun."""

    session_id: str
    row: Row
    phase: int
    provider: str
    api_key: str = ""
    language: str = ""
    partial: bool = False
    options: dict[str, str | int | float | list[str]] = {}


class MoveTap(Command, frozen=True, kw_only=True):
    """control -> stream: the participant lives on another row from `at_tick` on (transcription and agents).

    For an agent of a leg `row` is the leg's, and `speaks` where the agent speaks from then on (None: where it did).
    """

    session_id: str
    row: Row
    phase: int
    at_tick: int = 0
    speaks: Row | None = None


class StopTranscription(Command, frozen=True, kw_only=True):
    """control -> stream: `TranscriptionEnded` follows, after the finals, within 1.5 s."""

    session_id: str


class Transcribed(Event, frozen=True, kw_only=True):
    session_id: str
    text: str
    is_final: bool
    speech_final: bool = False
    audio_start_ms: int | None = None
    audio_end_ms: int | None = None


class TranscriptionEnded(Event, frozen=True, kw_only=True):
    session_id: str
    error: str = ""  # "" = as asked


class StartAgent(Command, frozen=True, kw_only=True):
    """control -> stream: the agent speaks on `row` (its rx) and hears `row` (its tx), or `hears` (rx of a leg: leg agents)."""

    session_id: str
    row: Row
    phase: int
    provider: str
    api_key: str = ""
    settings: bytes = b"{}"  # the request's own fields, JSON
    hears: Row | None = None


class SendAgentMessage(Command, frozen=True, kw_only=True):
    """control -> stream. Failed(caller) where the vendor has none or is not connected yet; Failed(peer) when delivery fails."""

    session_id: str
    text: str


class StopAgent(Command, frozen=True, kw_only=True):
    session_id: str


class AgentConnected(Event, frozen=True, kw_only=True):
    session_id: str
    conversation_id: str


class AgentSaid(Event, frozen=True, kw_only=True):
    """stream -> control: text of the conversation. `by_user`: what the agent understood; else what it answered."""

    session_id: str
    text: str
    by_user: bool


class AgentEnded(Event, frozen=True, kw_only=True):
    """stream -> control, exactly once for each started agent that was not stopped."""

    session_id: str
    error: str = ""


class AcceptSocket(Command, frozen=True, kw_only=True):
    """control -> stream, with the descriptor of an HTTP connection: a room WebSocket. `head`: its upgrade request and whatever
    bytes came behind it.

    Done once the 101 is out. `SocketClosed` follows when it is over.
    """

    participant_id: str
    row: Row
    phase: int
    head: bytes


class CloseSocket(Command, frozen=True, kw_only=True):
    participant_id: str
    code: int = 1001


class SocketClosed(Event, frozen=True, kw_only=True):
    participant_id: str


class StreamInventoryPart(Wire, frozen=True, kw_only=True):
    """Session ids of every kind that is alive."""

    session_ids: tuple[str, ...] = ()
    last: bool = False


ToStream = (
    Hello
    | Acknowledge
    | Leave
    | FetchClip
    | Synthesize
    | CancelClip
    | FinishRecording
    | UploadRecording
    | StartTranscription
    | MoveTap
    | StopTranscription
    | StartAgent
    | SendAgentMessage
    | StopAgent
    | AcceptSocket
    | CloseSocket
)
FromStream = (
    Done
    | Failed
    | LogLine
    | StreamInventoryPart
    | ClipReady
    | ClipFailed
    | RecordingFinished
    | Uploaded
    | Transcribed
    | TranscriptionEnded
    | AgentConnected
    | AgentSaid
    | AgentEnded
    | SocketClosed
)

# ------------------------------------------------------------------------------------------------ sip


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
    headers: dict[str, str] = {}
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
    headers: dict[str, str] = {}
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
    last: bool = False


ToSip = Hello | Acknowledge | Leave | Dial | Ring | Progress | Answer | Reject | Hangup | Hold | RestoreDialog
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
