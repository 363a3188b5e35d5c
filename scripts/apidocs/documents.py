"""What etc/openapi.yaml and etc/asyncapi.yaml say: made from the same tables that the server runs on.

Owns: the wording around the tables, and the schemas of replies, which handlers build as plain dicts.
Not here: operations -> `app/api/operations.py` and its tables; events -> `app/events/catalogue.py`.
"""

from typing import Any

import msgspec

from apidocs.yaml import to_yaml
from app.api.legs import leg_operations
from app.api.operations import Operation, overlay
from app.api.room_socket import RoomSocket
from app.api.rooms import room_operations
from app.api.services import service_operations
from app.api.unbuilt import CONTRACT
from app.events.catalogue import CATALOGUE, COUNT, TEXT, TEXT_MAP

Json = dict[str, Any]
VERSION = "1.0.0"
OPENAPI_METHODS = ("GET", "PUT", "POST", "DELETE", "PATCH")
BOOLEAN = {"type": "boolean"}
INSTANCE = {"instance_id": TEXT}
HEADER = "# Made by scripts/generate-api-docs; do not edit.\n"

LEG: Json = {
    "type": "object",
    "required": ["id", "type", "state", "muted", "deaf", "held", "accept_dtmf"],
    "properties": {
        **INSTANCE,
        "id": {"type": "string", "format": "uuid"},
        "type": TEXT,
        "state": {"type": "string", "enum": ["ringing", "early_media", "connected", "held", "hung_up"]},
        "room_id": TEXT,
        "muted": BOOLEAN,
        "deaf": BOOLEAN,
        "held": BOOLEAN,
        "accept_dtmf": BOOLEAN,
        "role": TEXT,
        "app_id": TEXT,
        "headers": TEXT_MAP,
        "sip_headers": {**TEXT_MAP, "deprecated": True},
    },
}
ROOM: Json = {
    "type": "object",
    "required": ["id", "sample_rate", "participants"],
    "properties": {
        **INSTANCE,
        "id": TEXT,
        "sample_rate": {"type": "integer", "enum": [8000, 16000, 48000]},
        "participants": {"type": "array", "items": {"$ref": "#/components/schemas/Leg"}},
        "app_id": TEXT,
    },
}
STATUS: Json = {
    "type": "object",
    "required": ["instance_id", "status"],
    "properties": {**INSTANCE, "status": TEXT},
    "additionalProperties": TEXT,
}
RECORDED: Json = {
    "type": "object",
    "required": ["instance_id", "status", "file"],
    "properties": {
        **INSTANCE,
        "status": TEXT,
        "file": TEXT,
        "multi_channel_file": TEXT,
        "channels": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["channel", "start_ms", "end_ms"],
                "properties": {"channel": COUNT, "start_ms": COUNT, "end_ms": COUNT, "file": TEXT},
            },
        },
        "omitted_legs": {"type": "array", "items": TEXT},
    },
}
TRANSCRIBED: Json = {
    "type": "object",
    "required": ["instance_id", "status", "room_id", "leg_ids"],
    "properties": {**INSTANCE, "status": TEXT, "room_id": TEXT, "leg_ids": {"type": "array", "items": TEXT}},
}
ERROR: Json = {
    "type": "object",
    "required": ["instance_id", "error"],
    "properties": {**INSTANCE, "error": TEXT},
    "additionalProperties": False,
}
REPLIES = {  # by command; all others are a Status
    "list_rooms": ("Room", True),
    "get_room": ("Room", False),
    "create_room": ("Room", False),
    "list_legs": ("Leg", True),
    "get_leg": ("Leg", False),
    "create_leg": ("Leg", False),
    "room_record_stop": ("Recorded", False),
    "leg_record_stop": ("Recorded", False),
    "room_stt_start": ("Transcribed", False),
}


class _NoInstance:
    """Stands in for the running server: the tables are wanted, not what they are bound to."""

    def __getattr__(self, _name: str) -> None:
        return None


def documents() -> dict[str, str]:
    """File name -> text."""
    nobody: Any = _NoInstance()
    operations = overlay(CONTRACT, [*room_operations(nobody), *leg_operations(nobody), *service_operations(nobody)])
    return {
        "openapi.yaml": HEADER + to_yaml(openapi(operations)),
        "asyncapi.yaml": HEADER + to_yaml(asyncapi(operations)),
    }


def openapi(operations: list[Operation]) -> Json:
    requests = list({operation.request: None for operation in operations if operation.request})
    _, schemas = msgspec.json.schema_components(requests, ref_template="#/components/schemas/{name}")
    paths: dict[str, Json] = {}
    for operation in operations:
        if operation.method in OPENAPI_METHODS:
            paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    metrics = {"200": {"description": "Prometheus text format 0.0.4", "content": {"text/plain": {"schema": TEXT}}}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Roomtone",
            "version": VERSION,
            "description": "Phone calls, browsers and AI agents meet in rooms. What answers 501 is not built yet.",
        },
        "servers": [{"url": "http://localhost:8080"}],
        "paths": {
            **paths,
            RoomSocket.path: {"get": _room_socket()},
            "/v1/vsi": {"get": _event_socket()},
            "/metrics": {"get": {"operationId": "metrics", "responses": metrics}},
        },
        "components": {
            "schemas": {
                "Room": ROOM,
                "Leg": LEG,
                "Status": STATUS,
                "Recorded": RECORDED,
                "Transcribed": TRANSCRIBED,
                "Error": ERROR,
                **schemas,
            },
            "responses": {"Error": _reply("What was wrong, in one sentence", {"$ref": "#/components/schemas/Error"})},
        },
    }


def _operation(operation: Operation) -> Json:
    name = operation.command or operation.method.lower() + operation.path.replace("/", "_").translate(
        {ord(character): None for character in "{}"}
    )
    described: Json = {"operationId": name}
    if operation.summary:
        described["summary"] = operation.summary
    if operation.parameters:
        described["parameters"] = [
            {"name": parameter, "in": "path", "required": True, "schema": TEXT} for parameter in operation.parameters
        ]
    if operation.handler is None:
        described["responses"] = {"501": {"$ref": "#/components/responses/Error"}}
        return described
    if operation.request:
        reference = {"$ref": f"#/components/schemas/{operation.request.__name__}"}
        described["requestBody"] = {"content": {"application/json": {"schema": reference}}}
    kind, is_list = REPLIES.get(operation.command or "", ("Status", False))
    schema: Json = {"$ref": f"#/components/schemas/{kind}"}
    success = _reply("Done", {"type": "array", "items": schema} if is_list else schema)
    described["responses"] = {str(operation.status): success, "default": {"$ref": "#/components/responses/Error"}}
    return described


def _room_socket() -> Json:
    return {
        "operationId": "room_socket",
        "summary": "Take part in a room by WebSocket; its frames are in asyncapi.yaml",
        "parameters": [{"name": "room_id", "in": "path", "required": True, "schema": TEXT}],
        "responses": {"101": {"description": "Upgraded"}, "default": {"$ref": "#/components/responses/Error"}},
    }


def _event_socket() -> Json:
    return {
        "operationId": "vsi",
        "summary": "The event WebSocket; its frames are in asyncapi.yaml",
        "parameters": [
            {
                "name": "app_id",
                "in": "query",
                "description": "RE2 expression searched in each event's app_id",
                "schema": TEXT,
            }
        ],
        "responses": {"101": {"description": "Upgraded"}, "default": {"$ref": "#/components/responses/Error"}},
    }


def _reply(description: str, schema: Json) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def asyncapi(operations: list[Operation]) -> Json:
    events = {name: _event(name) for name in CATALOGUE}
    commands = {operation.command: _command(operation) for operation in operations if operation.command}
    built = {name: message for name, message in commands.items() if message}
    frames = _frames()
    heard, said = _audio_frames()
    references = [{"$ref": f"#/components/messages/{name}/payload"} for name in events]
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Roomtone events", "version": VERSION},
        "servers": {"server": {"host": "localhost:8080", "protocol": "ws"}},
        "channels": {
            "vsi": {
                "address": "/v1/vsi",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in [*events, *built, *frames]},
            },
            "room": {
                "address": RoomSocket.path,
                "description": "Take part in a room: 20 ms of what is heard in each frame, any length in what is said",
                "parameters": {"room_id": {"description": "The room's id"}},
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in [*heard, *said]},
            },
            "webhook": {
                "address": "the URL given by WEBHOOK_URL, a leg or a room",
                "description": "POST, one event each, signed by X-Signature-256 where there is a secret",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in events},
            },
        },
        "operations": {
            "events": {
                "action": "send",
                "channel": {"$ref": "#/channels/vsi"},
                "messages": [{"$ref": f"#/channels/vsi/messages/{name}"} for name in events],
            },
            "commands": {
                "action": "receive",
                "channel": {"$ref": "#/channels/vsi"},
                "messages": [{"$ref": f"#/channels/vsi/messages/{name}"} for name in built],
            },
            "hear": {
                "action": "send",
                "channel": {"$ref": "#/channels/room"},
                "messages": [{"$ref": f"#/channels/room/messages/{name}"} for name in heard],
            },
            "say": {
                "action": "receive",
                "channel": {"$ref": "#/channels/room"},
                "messages": [{"$ref": f"#/channels/room/messages/{name}"} for name in said],
            },
        },
        "components": {
            "messages": {**events, **built, **frames, **heard, **said},
            "schemas": {"Event": {"oneOf": references}},
        },
    }


def _event(event_type: str) -> Json:
    kind = CATALOGUE[event_type]
    required = ["type", "timestamp", "event_id", "instance_id"]
    properties: Json = {
        "type": {"const": event_type},
        "timestamp": {"type": "string", "format": "date-time"},
        "event_id": {"type": "string", "format": "uuid"},
        "instance_id": TEXT,
    }
    for word in ("leg", "room"):
        if word in kind.scope:
            properties[f"{word}_id"] = TEXT
    properties |= {"app_id": TEXT, **kind.fields}
    required += sorted(kind.always)
    payload: Json = {"type": "object", "required": required, "properties": properties}
    if kind.scope == "leg or room":
        payload["oneOf"] = [{"required": ["leg_id"]}, {"required": ["room_id"]}]
    else:
        required += [word + "_id" for word in kind.scope.partition(",")[0].split(" and ")]
    return {"name": event_type, "summary": kind.fired, "payload": payload}


def _command(operation: Operation) -> Json | None:
    if operation.handler is None:
        return None
    ids = [operation.payload_id, *operation.parameters[1:]] if operation.parameters else []
    properties: Json = dict.fromkeys(ids, TEXT)
    required = list(ids)
    if operation.request:
        for field in msgspec.structs.fields(operation.request):
            properties[field.encode_name] = msgspec.json.schema(field.type) if _is_plain(field.type) else {}
            if field.required:
                required.append(field.encode_name)
    payload: Json = {"type": "object", "properties": properties}
    if required:
        payload["required"] = required
    return {
        "name": operation.command,
        "summary": operation.summary or f"As {operation.method} {operation.path}",
        "payload": {
            "type": "object",
            "required": ["type"],
            "properties": {"type": {"const": operation.command}, "request_id": TEXT, "payload": payload},
        },
    }


def _is_plain(kind: Any) -> bool:
    return kind in (str, int, float, bool)


def _frames() -> dict[str, Json]:
    code_and_message = {"type": "object", "properties": {"code": COUNT, "message": TEXT}}
    shapes: dict[str, tuple[str, Json]] = {
        "connected": ("The first frame", {}),
        "ping": ("Every 30 s; answer with pong", {"event_id": COUNT, "seq": COUNT}),
        "pong": ("The client's sign of life", {}),
        "stop": ("The client wants the server to close", {}),
        "events_dropped": ("The buffer was full", {"count": COUNT, "timestamp": TEXT}),
        "error": ("A command failed", {"request_id": TEXT, "data": code_and_message}),
    }
    return {
        name: {
            "name": name,
            "summary": summary,
            "payload": {"type": "object", "required": ["type"], "properties": {"type": {"const": name}, **fields}},
        }
        for name, (summary, fields) in shapes.items()
    }


def _audio_frames() -> tuple[dict[str, Json], dict[str, Json]]:
    """Of the room WebSocket: what the server sends, what it takes. Named apart from those of the event WebSocket."""
    audio = {"type": "string", "contentEncoding": "base64", "description": "s16le, mono, at sample_rate"}

    def frame(summary: str, kind: str, fields: Json, *required: str) -> Json:
        properties = {"type": {"const": kind}, **fields} if kind else fields
        names = [*(["type"] if kind else []), *required]
        return {"summary": summary, "payload": {"type": "object", "required": names, "properties": properties}}

    greeting = {"participant_id": TEXT, "sample_rate": COUNT, "format": {"const": "pcm_s16le"}}
    heard = {
        "room_connected": frame("The first frame", "connected", greeting, *greeting),
        "room_heard": frame("20 ms of everybody else", "", {"audio": audio}, "audio"),
        "room_ping": frame("Every 30 s, and from the client at any time", "ping", {"event_id": COUNT}),
        "room_pong": frame("The answer to a ping, with its event_id", "pong", {"event_id": COUNT}),
    }
    said = {
        "room_said": frame("Any length, played at its pace; type audio may be given", "", {"audio": audio}, "audio"),
        "room_stop": frame("The server closes with 1000; hangup means the same", "stop", {}),
        "room_client_ping": frame("Answered with pong", "ping", {"event_id": COUNT}),
        "room_client_pong": frame("The client's sign of life", "pong", {"event_id": COUNT}),
    }
    return heard, said
