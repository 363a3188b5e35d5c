"""The contract's small print for what runs in rooms and on legs (rooms.md A8 to A19 and B6, legs.md 6, events.md 4).

Rules
1. One table of refusals, each asked twice: by REST, and as a command on the event WebSocket. Whatever it says, nothing has
   changed afterwards.
2. `{leg}` is a connected leg in room `r`, `{free}` one in no room, `{held}` one on hold, `{ringing}` one that nobody has answered.
   Room `empty` is empty.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from tests.flows.conftest import Phones
from tests.flows.test_bad_requests import filled
from tests.flows.tools.events import Vsi
from tests.flows.tools.rest import Reply, Rest
from tests.flows.tools.server import Server

pytestmark = pytest.mark.flow

ODD_ID = "ü/b c?#%2F😀..\x01" + "é" * 1000
BOT = {"websocket_url": "ws://127.0.0.1:9/"}
LOCAL = {"provider": "local", "text": "Hello.", "voice": "en"}
AGENTS = ("elevenlabs", "vapi", "pipecat", "deepgram")
COMMANDS = {  # what follows `room_` or `leg_`
    ("POST", "play"): "play_start",
    ("PATCH", "play/*"): "play_volume",
    ("DELETE", "play/*"): "play_stop",
    ("POST", "tts"): "tts",
    ("POST", "record"): "record_start",
    ("DELETE", "record"): "record_stop",
    ("POST", "record/pause"): "record_pause",
    ("POST", "record/resume"): "record_resume",
    ("POST", "stt"): "stt_start",
    ("DELETE", "stt"): "stt_stop",
    **{("POST", f"agent/{name}"): f"agent_{name}" for name in AGENTS},
    ("POST", "agent/message"): "agent_message",
    ("DELETE", "agent"): "agent_stop",
}

REFUSALS: list[tuple[int, str, str, Any]] = [
    # playback: body, room, url or tone, volume, tone, occupied; each line is wrong in everything that comes later, too
    (400, "POST", "rooms/none/play", {"url": 5, "volume": 9}),
    (400, "POST", "rooms/none/play", {"tone": "busy", "repeat": True}),
    (400, "POST", "rooms/none/play", {"tone": "busy", "repeat": 1.5}),
    (400, "POST", "rooms/none/play", {"tone": "busy", "repeat": 1e300}),
    (400, "POST", "rooms/none/play", {"tone": "busy", "repeat": 2**64}),
    (413, "POST", "rooms/none/play", {"url": "http://127.0.0.1/" + "x" * 70_000}),
    (404, "POST", "rooms/none/play", {}),
    (404, "POST", "legs/none/play", {"volume": 9}),
    (400, "POST", "rooms/empty/play", {"url": "http://127.0.0.1/", "tone": "none", "volume": 9}),
    (400, "POST", "rooms/empty/play", {"volume": 9}),
    (400, "POST", "rooms/empty/play", {"url": "", "tone": None}),
    (400, "POST", "rooms/empty/play", {"url": "file:///etc/passwd"}),
    (400, "POST", "rooms/empty/play", {"url": "ftp://127.0.0.1/a.wav"}),
    (400, "POST", "rooms/empty/play", {"tone": "busy", "volume": 9}),
    (400, "POST", "rooms/empty/play", {"tone": "busy", "volume": -9}),
    (400, "POST", "rooms/empty/play", {"tone": "xx_busy"}),
    (400, "POST", "rooms/empty/play", {"tone": "_busy"}),
    (400, "POST", "rooms/empty/play", {"tone": "us_"}),
    (409, "POST", "rooms/empty/play", {"tone": "busy"}),
    (409, "POST", "legs/{ringing}/play", {"tone": "busy"}),
    # its volume: body, range, playback
    (400, "PATCH", "rooms/none/play/pb-00000000", {"volume": "3"}),
    (400, "PATCH", "rooms/none/play/pb-00000000", {"volume": 9}),
    (404, "PATCH", "rooms/none/play/pb-00000000", {"volume": 8}),
    (404, "PATCH", "rooms/r/play/pb-00000000", {}),
    (404, "PATCH", "legs/{leg}/play/pb-00000000", {}),
    (404, "DELETE", "rooms/none/play/pb-00000000", None),
    (404, "DELETE", "rooms/r/play/tts-00000000", None),
    (404, "DELETE", "legs/none/play/pb-00000000", None),
    # speech (its order: test_speech_failures.py)
    (413, "POST", "rooms/none/tts", {**LOCAL, "text": "ä" * 35_000}),
    (404, "POST", "rooms/none/tts", {"provider": "acme"}),
    (501, "POST", "rooms/r/tts", {**LOCAL, "provider": "azure"}),
    (503, "POST", "rooms/r/tts", {"text": "", "volume": 9}),
    (400, "POST", "rooms/r/tts", {**LOCAL, "text": " \t"}),
    (400, "POST", "legs/{leg}/tts", {**LOCAL, "voice": ""}),
    (400, "POST", "legs/{leg}/tts", {**LOCAL, "volume": 9}),
    (409, "POST", "rooms/empty/tts", LOCAL),
    (409, "POST", "legs/{ringing}/tts", LOCAL),
    # recording: body, room, storage, file name, occupied
    (400, "POST", "rooms/none/record", {"multi_channel": 1}),
    (404, "POST", "rooms/none/record", {"storage": "tape"}),
    (404, "POST", "legs/none/record", {"storage": "tape"}),
    (400, "POST", "rooms/empty/record", {"storage": "tape", "filename": "a/b"}),
    (400, "POST", "rooms/empty/record", {"storage": "s3", "filename": "a/b"}),
    (501, "POST", "rooms/empty/record", {"storage": "gcs"}),
    *(
        (400, "POST", "rooms/empty/record", {"filename": name})
        for name in ("a/b", " ", ".a", "a..b", "a.", ".wav", "a b")
    ),
    (400, "POST", "rooms/empty/record", {"filename": "é" * 63}),
    (409, "POST", "rooms/empty/record", {"filename": "é" * 62}),
    (409, "POST", "rooms/empty/record", {}),
    (409, "POST", "legs/{ringing}/record", {}),
    *((404, "DELETE", f"{venue}/record", None) for venue in ("rooms/none", "rooms/r", "legs/none", "legs/{leg}")),
    *((404, "POST", f"{venue}/record/pause", None) for venue in ("rooms/none", "rooms/r", "legs/none", "legs/{leg}")),
    *((404, "POST", f"{venue}/record/resume", None) for venue in ("rooms/none", "rooms/r", "legs/none", "legs/{leg}")),
    # transcription: body, provider, key, options, room, occupied
    (400, "POST", "rooms/none/stt", {"provider": "acme", "partial": "yes"}),
    (400, "POST", "rooms/none/stt", {"provider": "acme", "endpointing": -1}),
    (501, "POST", "rooms/none/stt", {"provider": "deepgram_flux"}),
    (503, "POST", "rooms/none/stt", {"endpointing": -1}),
    (400, "POST", "rooms/none/stt", {"provider": "deepgram", "api_key": "k", "endpointing": -1}),
    (400, "POST", "rooms/r/stt", {"provider": "deepgram", "api_key": "k", "endpointing": 1e30}),
    (400, "POST", "rooms/r/stt", {"provider": "deepgram", "api_key": "k", "keyterms": "one"}),
    (413, "POST", "rooms/r/stt", {"provider": "deepgram", "api_key": "k", "keyterms": ["x" * 70_000]}),
    (404, "POST", "rooms/none/stt", {"provider": "local"}),
    (404, "POST", "legs/none/stt", {"provider": "local"}),
    (409, "POST", "rooms/empty/stt", {"provider": "local"}),
    (409, "POST", "legs/{ringing}/stt", {"provider": "local"}),
    (409, "POST", "legs/{held}/stt", {"provider": "local"}),
    *((404, "DELETE", f"{venue}/stt", None) for venue in ("rooms/none", "rooms/r", "legs/none", "legs/{leg}")),
    # agents (their order: agents/test_bad_input.py)
    *((400, "POST", f"rooms/none/agent/{name}", {}) for name in ("elevenlabs", "vapi", "pipecat")),
    (503, "POST", "rooms/none/agent/deepgram", {}),
    (404, "POST", "rooms/none/agent/pipecat", BOT),
    (409, "POST", "legs/{ringing}/agent/pipecat", BOT),
    (409, "POST", "legs/{held}/agent/pipecat", BOT),
    (400, "POST", "rooms/r/agent/message", {"message": ""}),
    (413, "POST", "rooms/r/agent/message", {"message": "x" * 60_001}),
    (404, "POST", "rooms/r/agent/message", {"message": "psst"}),
    *((404, "DELETE", f"{venue}/agent", None) for venue in ("rooms/none", "rooms/r", "legs/none", "legs/{leg}")),
    # digits
    (400, "POST", "legs/{leg}/dtmf", {"digits": ""}),
    (413, "POST", "legs/{leg}/dtmf", {"digits": "1" * 100_000}),
]

NOT_OBJECTS = (b"{", b"[]", b'"x"', b"5", b"true", b'{"volume":1} x', b"\xff", b'{"text":"\\ud800"}')
WITH_BODY = [
    path for (method, path) in COMMANDS if method != "DELETE" and path not in ("record/pause", "record/resume")
]


def command_of(method: str, path: str, body: Any) -> tuple[str, dict[str, Any]]:
    """The command that means the same as a request, and its payload."""
    kind, venue_id, what = path.split("/", 2)
    payload: dict[str, Any] = {"id": venue_id}
    if what.startswith("play/"):
        what, payload["playback_id"] = "play/*", what.removeprefix("play/")
    known = "send_leg_dtmf" if what == "dtmf" else f"{kind[:-1]}_{COMMANDS[method, what]}"
    return known, {**(body or {}), **payload}


def told(reply: Reply) -> dict[str, Any]:
    """A reply as the event WebSocket gives it."""
    return {name: value for name, value in reply.json.items() if name != "instance_id"}


class Stage:
    """Everything that a refused request could have changed."""

    def __init__(self, rest: Rest, vsi: Vsi, names: dict[str, str]) -> None:
        self.rest, self.vsi, self.names = rest, vsi, names
        self.fill = functools.partial(filled, names=names)

    @classmethod
    async def make(cls, rest: Rest, vsi: Vsi, phones: Phones) -> Stage:
        (leg, _), (free, _), (held, _) = await asyncio.gather(
            phones.dialled(rest, name="in", fields={"room_id": "r"}),
            phones.dialled(rest, name="free"),
            phones.dialled(rest, name="held"),
        )
        await rest.post(f"/legs/{held}/hold", expect=202)
        await vsi.wait("leg.hold", leg_id=held)
        phone = await phones.new("ringing")
        ringing = await rest.dial(phone.uri)
        await phone.called()
        await rest.room("empty")
        return cls(rest, vsi, {"leg": leg, "free": free, "held": held, "ringing": ringing})

    async def refused(self, status: int, method: str, path: str, body: Any) -> str:
        """What is wrong with how a request is refused; "" when nothing is."""
        before = await self.rest.everything()
        path = self.fill(path)
        reply = await self.rest.call(method, f"/{path}", body)
        command, payload = command_of(method, path, body)
        frame = await self.vsi.command(command, **payload)
        case = f"{method} {path} {str(body)[:80]}: "
        if reply.status != status:
            return case + f"{reply.status} instead of {status}: {reply.text[:200]}"
        if not re.fullmatch(r'{"instance_id":"[^"]+","error":"([^"\\]|\\.)+"}\n', reply.text):
            return case + f"error shape: {reply.text[:200]}"
        message = frame["data"].get("message", "").removeprefix("invalid payload: ")
        if (frame["type"], frame["data"].get("code"), message) != ("error", status, reply["error"]):
            return case + f"{command} says {frame}"
        return "" if await self.rest.everything() == before else case + "changed something"


async def test_refused_by_rest_and_by_command_and_nothing_changed(rest: Rest, vsi: Vsi, phones: Phones) -> None:
    stage = await Stage.make(rest, vsi, phones)
    events = len(vsi.events)
    wrong = [await stage.refused(*refusal) for refusal in REFUSALS]
    for path, body in itertools.product(WITH_BODY, NOT_OBJECTS):
        for venue in ("rooms/r", "legs/none"):
            reply = await rest.call("PATCH" if "*" in path else "POST", f"/{venue}/{path}", raw=body)
            if (reply.status, reply.json.get("error")) != (400, "invalid JSON"):
                wrong.append(f"{venue}/{path} {body!r}: {reply.status} {reply.text}")
    for path in WITH_BODY:
        reply = await rest.call(
            "PATCH" if "*" in path else "POST", f"/rooms/none/{path}", raw=b'{"x":"' + b"x" * (1 << 20) + b'"}'
        )
        if reply.status != 413:
            wrong.append(f"{path}: {reply.status} for more than 1 MiB")
    wrong = [text for text in wrong if text]
    assert not wrong, "\n".join(wrong)
    await rest.room("sentinel")
    await vsi.wait("room.created", room_id="sentinel")
    assert [event["type"] for event in vsi.events[events:]] == ["room.created"]


async def test_what_is_not_read_is_ignored(rest: Rest, phones: Phones) -> None:
    """Unknown fields; any body where none is expected; nulls, "", zeros and whole floats for what is unset."""
    leg_id, _ = await phones.dialled(rest, fields={"room_id": "r"})
    for venue in ("/rooms/r", f"/legs/{leg_id}"):
        play = {"tone": "us_busy", "url": "", "mime_type": None, "repeat": 0, "volume": 4.0, "unknown": [1]}
        playback_id = (await rest.post(f"{venue}/play", play))["playback_id"]
        await rest.call("PATCH", f"{venue}/play/{playback_id}", raw=b"", expect=200)
        await rest.call("DELETE", f"{venue}/play/{playback_id}", raw=b"{", expect=200)
        fields = ("bucket", "region", "endpoint", "prefix", "access_key", "secret_key")
        record = {"storage": "", "multi_channel": False, "filename": "", **{f"s3_{field}": "" for field in fields}}
        await rest.post(f"{venue}/record", record)
        await rest.call("POST", f"{venue}/record/pause", raw=b"null", expect=200)
        await rest.call("POST", f"{venue}/record/resume", raw=b"[", expect=200)
        await rest.call("DELETE", f"{venue}/record", raw=b"x" * 10, expect=200)
        await rest.call("POST", f"{venue}/record", raw=b"null", expect=200)
        await rest.delete(f"{venue}/record")
        await rest.post(f"{venue}/stt", {"provider": "local", "language": "", "partial": None, "api_key": ""})
        await rest.delete(f"{venue}/stt")


async def test_a_start_and_a_stop_succeed_once_however_many_ask(rest: Rest, phones: Phones) -> None:
    """In a room whose id is none that a path would like."""
    leg_id, _ = await phones.dialled(rest, fields={"room_id": ODD_ID})
    room = f"/rooms/{quote(ODD_ID, safe='')}"

    async def statuses(calls: Iterable[Any]) -> list[int]:
        return sorted(reply.status for reply in await asyncio.gather(*calls))

    starts = [("record", "record", {}), ("stt", "stt", {"provider": "local"}), ("agent/pipecat", "agent", BOT)]
    for venue in (room, f"/legs/{leg_id}"):
        for start, stop, body in starts:
            calls = (rest.post(f"{venue}/{start}", body, expect=None) for _ in range(3))
            assert await statuses(calls) == [200, 409, 409], start
            if start != "agent/pipecat":  # nobody listens there: it ends by itself
                assert await statuses(rest.delete(f"{venue}/{stop}", expect=None) for _ in range(3)) == [200, 404, 404]
        path = f"{venue}/play/" + (await rest.post(f"{venue}/play", {"tone": "busy"}))["playback_id"]
        assert await statuses(rest.delete(path, expect=None) for _ in range(3)) == [200, 404, 404]
    assert await statuses(rest.delete(room, expect=None) for _ in range(3)) == [200, 404, 404]


async def test_each_service_by_command_answers_as_rest_does(rest: Rest, vsi: Vsi, phones: Phones) -> None:
    """The same dialogue twice: equal but for ids and file names. All values are strings but those the contract lists (C17)."""
    leg_id, _ = await phones.dialled(rest, fields={"room_id": "r"})
    dialogue = [
        ("POST", "play", {"tone": "busy"}),
        ("PATCH", "play/{id}", {"volume": 8}),
        ("DELETE", "play/{id}", None),
        ("POST", "tts", LOCAL),
        ("DELETE", "play/{id}", None),
        ("POST", "record", {}),
        ("POST", "record", {}),
        ("POST", "record/pause", None),
        ("POST", "record/pause", None),
        ("POST", "record/resume", None),
        ("POST", "record/resume", None),
        ("DELETE", "record", None),
        ("POST", "stt", {"provider": "local"}),
        ("POST", "stt", {"provider": "local"}),
        ("DELETE", "stt", None),
        ("POST", "agent/pipecat", BOT),
        ("DELETE", "agent", None),
    ]

    async def by_rest(method: str, path: str, body: Any) -> dict[str, Any]:
        reply = await rest.call(method, f"/{path}", body)
        assert next(iter(reply.json)) == "instance_id"
        assert reply.text == json.dumps(reply.json, separators=(",", ":"), ensure_ascii=False) + "\n"
        return told(reply)

    async def by_command(method: str, path: str, body: Any) -> dict[str, Any]:
        command, payload = command_of(method, path, body)
        frame = await vsi.command(command, **payload)
        assert frame["type"] in (f"{command}.result", "error")
        return frame["data"] if frame["type"] != "error" else {"error": frame["data"]["message"]}

    for venue in ("rooms/r", f"legs/{leg_id}"):
        heard = []
        for ask in (by_rest, by_command):
            replies, last_id = [], ""
            for method, path, body in dialogue:
                reply = await ask(method, f"{venue}/{path}".replace("{id}", last_id), body)
                assert all(isinstance(value, str) for name, value in reply.items() if name != "leg_ids"), reply
                last_id = reply.get("playback_id") or reply.get("tts_id") or last_id
                replies.append({key: re.sub(r"\d{8}_\d{6}|[0-9a-f]{8}", "*", str(reply[key])) for key in reply})
            heard.append(replies)
        assert heard[0] == heard[1]
        words = [reply.get("status", "refused") for reply in heard[0]]
        assert words == [
            *("playing", "ok", "stopped", "playing", "stopped"),
            *("recording", "refused", "paused", "already_paused", "resumed", "not_paused", "stopped"),
            *("stt_started", "refused", "stt_stopped", "agent_started", "agent_stopped"),
        ]


async def test_a_deleted_room_ends_in_the_contracts_order(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    """rooms.md A5, with everything that can run in a room; events carry the app id of the leg, else of the room."""
    await rest.room("r", app_id="of room")
    legs = await asyncio.gather(
        *(phones.dialled(rest, name=name, fields={"room_id": "r", "app_id": "of leg"}) for name in ("a", "b"))
    )
    url = f"{server.base.replace('http', 'ws', 1)}/v1/rooms/r/ws"
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as client:
        await rest.post("/rooms/r/agent/pipecat", {"websocket_url": url.replace("rooms/r/ws", "vsi")})
        await rest.post("/rooms/r/play", {"tone": "busy"})
        await vsi.wait("playback.started", room_id="r")
        await rest.post("/rooms/r/stt", {"provider": "local"})
        await rest.post("/rooms/r/record", {"multi_channel": True})
        before = len(vsi.events)
        reply = await rest.delete("/rooms/r")
        assert told(reply) == {"status": "deleted"}
        answered = [event["type"] for event in vsi.events[before:]]
        for leg_id, _ in legs:
            await vsi.wait("leg.disconnected", leg_id=leg_id, after=before)
        async for _ in client:
            pass
        assert client.close_code == 1001
    events = vsi.events[before:]
    of_room = ["agent.disconnected", "playback.finished", "recording.finished", "room.deleted"]
    assert [event["type"] for event in events] == [*of_room, "leg.disconnected", "leg.disconnected"]
    assert answered[: len(of_room)] == of_room  # published before the reply was written
    for event in events:
        assert event["app_id"] == ("of leg" if "leg_id" in event else "of room")
        assert ("room_id" in event) != ("leg_id" in event)
    assert {event["cdr"]["reason"] for event in events[4:]} == {"room_deleted"}


async def test_a_room_that_loses_its_last_leg_loses_its_services(rest: Rest, vsi: Vsi, phones: Phones) -> None:
    """rooms.md A6 and L4: the move first, then what it ends; nothing of it for the leg's own service."""
    leg_id, _ = await phones.dialled(rest, fields={"room_id": "r"})
    await rest.post("/rooms/r/play", {"tone": "busy"})
    await rest.post("/rooms/r/record")
    await rest.post(f"/legs/{leg_id}/play", {"tone": "dial"})
    await vsi.wait("playback.started", leg_id=leg_id)
    before = len(vsi.events)
    assert told(await rest.join("r2", leg_id)) == {"status": "moved", "from": "r", "to": "r2"}
    await vsi.wait("recording.finished", room_id="r")
    moved = [(event["type"], event.get("room_id")) for event in vsi.events[before:]]
    assert moved[:3] == [("room.created", "r2"), ("leg.left_room", "r"), ("leg.joined_room", "r2")]
    assert sorted(moved[3:]) == [("playback.finished", "r"), ("recording.finished", "r")]


async def test_the_contracts_metrics_are_there(rest: Rest, phones: Phones) -> None:
    """README.md section 7, after one call."""
    leg_id, _ = await phones.dialled(rest)
    await rest.delete(f"/legs/{leg_id}", expect=202)
    text = (await rest.get("/metrics")).text
    for name, kind in (
        ("active_legs", "gauge"),
        ("active_rooms", "gauge"),
        ("legs_total", "counter"),
        ("disconnect_reasons_total", "counter"),
        ("call_duration_seconds", "histogram"),
        ("call_total_duration_seconds", "histogram"),
        ("webhook_enqueued_total", "counter"),
        ("webhook_dropped_total", "counter"),
        ("webhook_deliveries_total", "counter"),
        ("vsi_events_dropped_total", "counter"),
    ):
        assert f"\n# TYPE voiceblender_{name} {kind}\n" in "\n" + text
    for state in ("ringing", "connected", "disconnected"):
        assert f'voiceblender_legs_total{{state="{state}",type="sip_outbound"}}' in text
    assert 'voiceblender_disconnect_reasons_total{reason="api_hangup",type="sip_outbound"}' in text
    edges = re.findall(r'voiceblender_call_duration_seconds_bucket{le="([^"]+)",type="sip_outbound"}', text)
    assert [float(edge) for edge in edges[:-1]] == [5, 15, 30, 60, 120, 300, 600, 1800, 3600]
    outcomes = re.findall(r'voiceblender_webhook_deliveries_total{outcome="(\w+)"}', text)
    assert set(outcomes) == {"success", "exhausted", "marshal_error", "request_error"}
