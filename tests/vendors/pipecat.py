"""A Pipecat bot. Its frames are made by the protobuf library from the schema, not by our own reader of them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from aiohttp import web
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tests.vendors.socket_fake import AgentFake, serve, sine

_KINDS = {"uint64": 4, "bool": 8, "string": 9, "message": 11, "bytes": 12, "uint32": 13}
_NAMED = [("uint64", "id", 1), ("string", "name", 2)]
SCHEMA = {
    "TextFrame": [*_NAMED, ("string", "text", 3)],
    "AudioRawFrame": [
        *_NAMED,
        ("bytes", "audio", 3),
        ("uint32", "sample_rate", 4),
        ("uint32", "num_channels", 5),
        ("uint64", "pts", 6),
    ],
    "TranscriptionFrame": [*_NAMED, ("string", "text", 3), ("string", "user_id", 4), ("string", "timestamp", 5)],
    "InterruptionFrame": _NAMED,
}
MESSAGE_FRAMES = {"data": [("string", "data", 1)], "message": [*_NAMED, ("string", "message", 3)]}


def frame_class(message_frame: str = "data") -> Any:
    """`Frame` with one of the two MessageFrames in use."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{message_frame}.proto", package="pipecat", syntax="proto3")
    for name, fields in {**SCHEMA, "MessageFrame": MESSAGE_FRAMES[message_frame]}.items():
        message = file.message_type.add(name=name)
        for kind, field, number in fields:
            message.field.add(name=field, number=number, type=_KINDS[kind], label=1)
    frame = file.message_type.add(name="Frame")
    frame.oneof_decl.add(name="frame")
    kinds = ["TextFrame", "AudioRawFrame", "TranscriptionFrame", "MessageFrame", "InterruptionFrame"]
    for number, (field, kind) in enumerate(
        zip(["text", "audio", "transcription", "message", "interruption"], kinds, strict=True), start=1
    ):
        frame.field.add(
            name=field, number=number, type=_KINDS["message"], label=1, type_name=f".pipecat.{kind}", oneof_index=0
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("pipecat.Frame"))


FRAME = frame_class()
OLD_FRAME = frame_class("message")


def rtvi(kind: str, **data: Any) -> str:
    return json.dumps({"label": "rtvi-ai", "type": kind, "data": data})


class Pipecat(AgentFake):
    """`old_messages`: the MessageFrame that the original knew. `rtvi_texts`: words as RTVI messages instead of frames."""

    path = "/bot"
    settable = AgentFake.settable | {"rate_hz", "channels", "old_messages", "rtvi_texts"}

    def __init__(self, key: str = "") -> None:
        super().__init__(key)
        self.rate_hz = 16_000
        self.channels = 1
        self.old_messages = False
        self.rtvi_texts = False
        self.injected: list[str] = []

    def refusal(self, request: web.Request) -> int:
        return 0

    def wrong_types(self) -> bytes:
        return b"\x12\x02\x20"  # an audio frame that ends in the middle of a field

    async def greet(self, ws: web.WebSocketResponse) -> None:
        await ws.send_str("text messages mean nothing")

    async def take(self, ws: web.WebSocketResponse, message: str | bytes) -> bytes | None:
        assert isinstance(message, bytes)
        frame = FRAME.FromString(message)
        match frame.WhichOneof("frame"):
            case "audio":
                assert (frame.audio.sample_rate, frame.audio.num_channels) == (16000, 1)
                return frame.audio.audio
            case "text":
                self.injected.append(frame.text.text)
                await self._send(ws, text={"text": f"you said {frame.text.text}"})
        return None

    async def tell_texts(self, ws: web.WebSocketResponse) -> None:
        if self.rtvi_texts:
            await self._message(ws, rtvi("user-transcription", text="what", final=False))
            await self._message(ws, rtvi("user-transcription", text=self.user_text, final=True, user_id="u"))
            await self._message(ws, rtvi("metrics", ttfb=[{"value": 1}]))
            await self._message(ws, "[1, 2]")
            await self._message(ws, rtvi("bot-transcription", text=self.agent_text))
        else:
            await self._send(ws, transcription={"id": 5, "name": "t", "text": self.user_text, "user_id": "u"})
            await self._send(ws, text={"id": 6, "name": "x", "text": self.agent_text})

    async def say(self, ws: web.WebSocketResponse) -> None:
        mono = np.frombuffer(sine(self.tone_hz, self.burst_ms, self.rate_hz), "<i2")
        pcm = np.repeat(mono, self.channels).tobytes()
        audio = {"id": 9, "name": "a", "sample_rate": self.rate_hz, "num_channels": self.channels, "pts": 2**40}
        for start in range(0, len(pcm), 4003):  # torn
            await self._send(ws, audio={**audio, "audio": pcm[start : start + 4003]})

    async def interrupt(self, ws: web.WebSocketResponse) -> None:
        if self.rtvi_texts:
            await self._message(ws, rtvi("user-started-speaking"))
        else:
            await self._send(ws, interruption={"id": 1, "name": "i"})

    async def _message(self, ws: web.WebSocketResponse, text: str) -> None:
        old = {"id": 3, "name": "m", "message": text}
        frame = OLD_FRAME(message=old) if self.old_messages else FRAME(message={"data": text})
        await ws.send_bytes(frame.SerializeToString())

    async def _send(self, ws: web.WebSocketResponse, **frame: Any) -> None:
        await ws.send_bytes(FRAME(**frame).SerializeToString())

    def report(self) -> dict[str, Any]:
        return super().report() | {"injected": self.injected}


if __name__ == "__main__":
    serve(Pipecat)
