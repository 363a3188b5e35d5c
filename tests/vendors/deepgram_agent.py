"""Deepgram Voice Agent."""

from __future__ import annotations

import json

from aiohttp import web

from tests.vendors.socket_fake import AgentFake, serve, sine

SETTLED = web.ResponseKey("settled", bool)
AUDIO = {
    "input": {"encoding": "linear16", "sample_rate": 16000},
    "output": {"encoding": "linear16", "sample_rate": 16000, "container": "none"},
}


class DeepgramConverse(AgentFake):
    path = "/v1/agent/converse"
    settable = AgentFake.settable | {"id_name"}

    def __init__(self, key: str = "good-key") -> None:
        super().__init__(key)
        self.id_name = "request_id"
        self.early_audio = 0

    def refusal(self, request: web.Request) -> int:
        return 0 if request.headers.get("Authorization") == f"token {self.key}" else 401

    def wrong_types(self) -> str:
        return '{"type":"ConversationText","role":"user","content":{"not":"text"}}'

    async def greet(self, ws: web.WebSocketResponse) -> None:
        await ws.send_json({"type": "Welcome", self.id_name: "dg_1"})

    async def take(self, ws: web.WebSocketResponse, message: str | bytes) -> bytes | None:
        if isinstance(message, bytes):
            self.early_audio += SETTLED not in ws
            return message
        match json.loads(message):
            case {"type": "Settings", "audio": audio, "agent": {}} if audio == AUDIO and SETTLED not in ws:
                ws[SETTLED] = True
                await ws.send_json({"type": "SettingsApplied"})
            case {"type": "KeepAlive"}:
                pass
            case {"type": "InjectAgentMessage", "message": str(text)}:
                await ws.send_json({"type": "ConversationText", "role": "assistant", "content": text})
            case _:
                error = {"description": f"bad message for {self.key}", "code": "UNPARSABLE_CLIENT_MESSAGE"}
                await ws.send_json({"type": "Error", **error})
        return None

    async def tell_texts(self, ws: web.WebSocketResponse) -> None:
        await ws.send_json({"type": "ConversationText", "role": "user", "content": self.user_text})
        await ws.send_json({"type": "AgentThinking", "content": "hm"})
        await ws.send_json({"type": "ConversationText", "role": "assistant", "content": self.agent_text})
        await ws.send_json({"type": "ConversationText", "role": "assistant", "content": ""})

    async def say(self, ws: web.WebSocketResponse) -> None:
        await ws.send_json({"type": "AgentStartedSpeaking", "total_latency": 0.5})
        pcm = sine(self.tone_hz, self.burst_ms)
        for start in range(0, len(pcm), 9601):  # torn
            await ws.send_bytes(pcm[start : start + 9601])
        await ws.send_json({"type": "AgentAudioDone"})

    async def interrupt(self, ws: web.WebSocketResponse) -> None:
        await ws.send_json({"type": "UserStartedSpeaking"})


if __name__ == "__main__":
    serve(DeepgramConverse)
