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
QUALITY: Schema = {
    "type": "object",
    "properties": {
        "mos_score": SECONDS,
        "rtp_packets_received": COUNT,
        "rtp_packets_lost": COUNT,
        "rtp_jitter_ms": SECONDS,
    },
}


@dataclass(frozen=True, slots=True)
class EventType:
    """`always`: fields that are sent even when empty; the others are left out then."""

    scope: Literal["leg", "room", "leg and room", "leg, and room when in one"]
    fired: str
    fields: dict[str, Schema] = field(default_factory=dict)
    always: frozenset[str] = frozenset()


_LEG_TYPE = {"leg_type": TEXT}

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
}
