"""Every event type that exists so far, with its fields (contract events.md, section 2).

Runs in: control; `scripts/generate-api-docs` makes etc/asyncapi.yaml from it.
Owns: the names. An event that is not here cannot be published.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

Schema = dict[str, Any]  # JSON schema of one field

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer"}
SECONDS: Schema = {"type": "number"}
TEXT_MAP: Schema = {"type": "object", "additionalProperties": TEXT}
CODECS: Schema = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"name": TEXT, "payload_type": COUNT, "clock_rate": COUNT, "priority": COUNT},
    },
}
CDR: Schema = {
    "type": "object",
    "properties": {"reason": TEXT, "duration_total": SECONDS, "duration_answered": SECONDS},
    "required": ["reason", "duration_total", "duration_answered"],
}
YES_OR_NO: Schema = {"type": "boolean"}
CHANNELS: Schema = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "properties": {"channel": COUNT, "start_ms": COUNT, "end_ms": COUNT, "file": TEXT},
    },
}
QUALITY: Schema = {
    "type": "object",
    "properties": {
        "mos_score": SECONDS,
        "rtp_packets_received": COUNT,
        "rtp_packets_lost": COUNT,
        "rtp_jitter_ms": SECONDS,
    },
}


Scope = Literal[
    "leg", "room", "leg and room", "leg, and room when in one", "leg, and room when a room's", "leg or room"
]


@dataclass(frozen=True, slots=True)
class EventType:
    """`always`: fields that are sent even when empty; the others are left out then."""

    scope: Scope
    fired: str
    fields: dict[str, Schema] = field(default_factory=dict)
    always: frozenset[str] = frozenset()


_LEG_TYPE = {"leg_type": TEXT}
_OF_LEG_OR_ROOM: Scope = "leg or room"
_FILE = {"file": TEXT}
_HEARD = {"reason": TEXT, "played_ms": COUNT}  # reason: completed, stopped

CATALOGUE: dict[str, EventType] = {
    "room.created": EventType("room", "a room was created, explicitly or by a leg that joins it"),
    "room.deleted": EventType("room", "a room was deleted"),
    "leg.joined_room": EventType("leg and room", "a leg is in the mix"),
    "leg.left_room": EventType("leg and room", "a leg was removed, moved away, or ended while in the room"),
    "leg.ringing": EventType(
        "leg",
        "an inbound call arrived, or an outbound leg was created",
        {
            **_LEG_TYPE,
            "from": TEXT,
            "to": TEXT,
            "uri": TEXT,
            "sip_headers": TEXT_MAP,
            "offered_codecs": CODECS,
            "trunk_id": TEXT,
            "source_address": TEXT,
            "authenticated": {"type": "boolean"},
            "auth_username": TEXT,
        },
    ),
    "leg.early_media": EventType("leg", "183 with SDP was received or sent", _LEG_TYPE),
    "leg.connected": EventType("leg", "the leg was answered", _LEG_TYPE),
    "leg.disconnected": EventType(
        "leg", "the leg ended; exactly once", {"cdr": CDR, "quality": QUALITY}, frozenset({"cdr"})
    ),
    "leg.muted": EventType("leg", "mute was called"),
    "leg.unmuted": EventType("leg", "unmute was called"),
    "leg.deaf": EventType("leg", "deaf was called"),
    "leg.undeaf": EventType("leg", "undeaf was called"),
    "leg.hold": EventType("leg", "the call is held, by either side", _LEG_TYPE),
    "leg.unhold": EventType("leg", "the call is held no more", _LEG_TYPE),
    "leg.command_failed": EventType(
        "leg", "an asynchronous command failed after its 2xx", {"command": TEXT, "error": TEXT}
    ),
    "dtmf.received": EventType("leg", "one digit was completed", {"digit": TEXT, "seq": COUNT}),
    "speaking.started": EventType("leg, and room when in one", "voice activity began"),
    "speaking.stopped": EventType("leg, and room when in one", "voice activity ended"),
    "playback.started": EventType(_OF_LEG_OR_ROOM, "the first frame is about to play", {"playback_id": TEXT}),
    "playback.finished": EventType(
        _OF_LEG_OR_ROOM, "it ended or was stopped", {"playback_id": TEXT, **_HEARD}, frozenset(_HEARD)
    ),
    "playback.error": EventType(
        _OF_LEG_OR_ROOM, "fetching, decoding or playing failed; it is over", {"playback_id": TEXT, "error": TEXT}
    ),
    "tts.started": EventType(_OF_LEG_OR_ROOM, "the first frame of speech is about to play", {"tts_id": TEXT}),
    "tts.finished": EventType(
        _OF_LEG_OR_ROOM, "it ended or was stopped", {"tts_id": TEXT, **_HEARD}, frozenset(_HEARD)
    ),
    "tts.error": EventType(
        _OF_LEG_OR_ROOM,
        "synthesis or playing failed",
        {"tts_id": TEXT, "error": TEXT, "category": TEXT},
        frozenset({"category"}),
    ),
    "recording.started": EventType(_OF_LEG_OR_ROOM, "recording has begun", _FILE),
    "recording.finished": EventType(
        _OF_LEG_OR_ROOM,
        "the file is final and stored",
        {**_FILE, "multi_channel_file": TEXT, "channels": CHANNELS, "omitted_legs": {"type": "array", "items": TEXT}},
        frozenset(_FILE),
    ),
    "recording.paused": EventType(_OF_LEG_OR_ROOM, "silence is recorded from now on", _FILE),
    "recording.resumed": EventType(_OF_LEG_OR_ROOM, "recording goes on", _FILE),
    "stt.text": EventType(
        "leg, and room when a room's",
        "words were recognised; without a room where only the leg is transcribed",
        {
            "text": TEXT,
            "is_final": YES_OR_NO,
            "speech_final": YES_OR_NO,
            "audio_start_ms": COUNT,
            "audio_end_ms": COUNT,
        },
        frozenset({"text", "is_final", "speech_final"}),
    ),
    "stt.error": EventType("leg, and room when a room's", "a provider's session failed", {"error": TEXT}),
    "agent.connected": EventType(_OF_LEG_OR_ROOM, "the provider's session is up", {"conversation_id": TEXT}),
    "agent.disconnected": EventType(_OF_LEG_OR_ROOM, "the session is over; once for each agent started"),
    "agent.user_transcript": EventType(_OF_LEG_OR_ROOM, "what the agent understood", {"text": TEXT}),
    "agent.agent_response": EventType(_OF_LEG_OR_ROOM, "what the agent answered", {"text": TEXT}),
}
