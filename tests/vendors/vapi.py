"""VAPI: call creation, the call's socket, its control endpoint."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import Any

from aiohttp import web

from tests.vendors.socket_fake import AgentFake, serve, sine

TRANSPORT = {
    "provider": "vapi.websocket",
    "audioFormat": {"format": "pcm_s16le", "container": "raw", "sampleRate": 16000},
}


class Vapi(AgentFake):
    """`shape`: where the call object names its URLs: nested (as the service does), flat (as the original reads them), none.
    `call_outcomes`: a status, or garbage, no_url, stall, for the next creations."""

    path = "/sockets/call-1"
    settable = AgentFake.settable | {"shape", "call_outcomes", "control_status"}

    def __init__(self, key: str = "good-key") -> None:
        super().__init__(key)
        self.shape = "nested"
        self.call_outcomes: deque[int | str] = deque()
        self.control_status = 200
        self.calls: list[Any] = []  # bodies of creations
        self.controls: list[Any] = []  # bodies that came to the control endpoint
        self.may_create = asyncio.Event()
        self.may_create.set()

    def add_routes(self, app: web.Application) -> None:
        super().add_routes(app)
        app.router.add_post("/call", self.create)
        app.router.add_post("/control/call-1", self.control)

    def refusal(self, request: web.Request) -> int:
        return 400 if self.key in str(request.headers) else 0  # the key is not for the socket

    def wrong_types(self) -> str:
        return '{"type":"transcript","role":"user","transcript":{"a":1}}'

    async def create(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"message": f"Invalid key {self.key}", "statusCode": 401}, status=401)
        body = await request.json()
        self.calls.append(body)
        self.tell()
        await self.may_create.wait()
        match self.call_outcomes.popleft() if self.call_outcomes else "":
            case int(status):
                return web.json_response({"message": ["no", "way"], "statusCode": status}, status=status)
            case "garbage":
                return web.Response(text="<html>", status=201)
            case "no_url":
                return web.json_response({"id": "call-1"}, status=201)
            case "stall":
                await asyncio.Event().wait()
        known = {"assistantId", "transport", "assistantOverrides"}
        if not body.get("assistantId") or body.get("transport") != TRANSPORT or set(body) - known:
            return web.json_response({"message": ["assistantId should be a UUID"], "statusCode": 400}, status=400)
        return web.json_response(self._call(), status=201)

    def _call(self) -> dict[str, Any]:
        socket_url = f"{self.url}{self.path}".replace("http", "ws", 1)
        control_url = f"{self.url}/control/call-1"
        call: dict[str, Any] = {"id": "call-1", "type": "vapi.websocketCall", "status": "queued"}
        if self.shape == "nested":
            call["transport"] = {**TRANSPORT, "websocketCallUrl": socket_url}
            call["monitor"] = {"listenUrl": f"{socket_url}/listen", "controlUrl": control_url}
        elif self.shape == "flat":
            call |= {"listenUrl": socket_url, "controlUrl": control_url}
        else:
            call["transport"] = {**TRANSPORT, "websocketCallUrl": socket_url}
        return call

    async def control(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.Response(status=401)
        self.controls.append(await request.json())
        self.tell()
        return web.json_response({}, status=self.control_status)

    async def take(self, ws: web.WebSocketResponse, message: str | bytes) -> bytes | None:
        if isinstance(message, bytes):
            return message
        if json.loads(message) == {"type": "end-call"}:
            await ws.send_json({"type": "status-update", "status": "ended"})
            await ws.close()
        return None

    async def tell_texts(self, ws: web.WebSocketResponse) -> None:
        await ws.send_json({"type": "status-update", "status": "in-progress"})
        transcript = {"type": "transcript", "transcriptType": "final"}
        await ws.send_json({**transcript, "role": "user", "transcript": "what", "transcriptType": "partial"})
        await ws.send_json({**transcript, "role": "user", "transcript": self.user_text})
        await ws.send_json({"type": "speech-update", "status": "started", "role": "assistant"})
        await ws.send_json({"type": "transcript", "role": "assistant", "transcript": self.agent_text})

    async def say(self, ws: web.WebSocketResponse) -> None:
        pcm = sine(self.tone_hz, self.burst_ms)
        await ws.send_bytes(pcm[:1001])  # torn
        await ws.send_bytes(pcm[1001:])

    async def interrupt(self, ws: web.WebSocketResponse) -> None:
        await ws.send_json({"type": "user-interrupted"})

    def report(self) -> dict[str, Any]:
        return super().report() | {"calls": self.calls, "controls": self.controls}


if __name__ == "__main__":
    serve(Vapi)
