"""Control and a stream process: clips, uploads, transcription, agents, WebSocket clients. The rules are in `shm/messages`."""

import msgspec

from shm.messages.common import Acknowledge, Command, Done, Event, Failed, Hello, Leave, LogLine, Part, Row, Wire
from shm.messages.room import RecordingFinished


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
    options: dict[str, str | int | float | list[str]] = msgspec.field(default_factory=dict)


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
