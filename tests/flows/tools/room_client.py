"""A client of the room WebSocket as a browser or a bot would be one: `websockets` on the wire, a tone or samples said at real time.

Rules
1. What is heard is kept as one stretch of audio in the order of arrival; `frames` keeps everything else that was received.
2. Speaking goes by absolute deadlines, one frame of 20 ms each, as `tone_hz` is set at that moment; None = nothing is sent.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterable
from typing import Any, Self
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.flows.tools.codecs import sine
from tests.flows.tools.history import History
from tests.flows.tools.recording import Recording
from tests.flows.tools.spectrum import HEARD_DB, SILENT_DB, level_db

Samples = NDArray[np.int16]
FRAMES_PER_SECOND = 50


class RoomClient:
    """`connected` is the first frame, `participant_id` and `rate_hz` what it says."""

    def __init__(self, base: str, room_id: str, *, tone_hz: float | None = None, **options: Any) -> None:
        self.path = f"/rooms/{quote(room_id, safe='')}"
        self.url = base.replace("http", "ws", 1) + f"/v1{self.path}/ws"
        self.tone_hz = tone_hz
        self._options: dict[str, Any] = {"proxy": None, "open_timeout": 5, **options}
        self.frames: History[dict[str, Any]] = History("frames", json.dumps)
        self.heard: History[Samples] = History("audio frames", lambda samples: f"{samples.size} samples")

    async def __aenter__(self) -> Self:
        self.socket = await connect(self.url, **self._options)
        self.connected: dict[str, Any] = json.loads(await asyncio.wait_for(self.socket.recv(), 5))
        self.participant_id: str = self.connected["participant_id"]
        self.rate_hz: int = self.connected["sample_rate"]
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._speak())]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.socket.close()

    # --- saying -----------------------------------------------------------------------------------------------

    async def send(self, **frame: Any) -> None:
        await self.socket.send(json.dumps(frame))

    async def say(self, samples: Samples) -> None:
        """All at once, however long it lasts."""
        await self.send(audio=base64.b64encode(samples.tobytes()).decode())

    async def _speak(self) -> None:
        loop = asyncio.get_running_loop()
        size = self.rate_hz // FRAMES_PER_SECOND
        began_s, number = loop.time(), 0
        while True:
            if self.tone_hz is not None:
                try:
                    await self.say(sine(self.tone_hz, self.rate_hz, size, start=number * size, amplitude=4000))
                except ConnectionClosed:
                    return
            number += 1
            await asyncio.sleep(began_s + number / FRAMES_PER_SECOND - loop.time())

    # --- hearing ----------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        async for message in self.socket:
            frame = json.loads(message)
            if set(frame) == {"audio"}:
                self.heard.add(np.frombuffer(base64.b64decode(frame["audio"], validate=True), np.int16))
            else:
                self.frames.add(frame)

    async def listen(self, seconds: float = 1.0) -> Recording:
        """What comes from now on, until it lasts `seconds`."""
        start = len(self.heard)
        count = round(seconds * FRAMES_PER_SECOND)
        await self.heard.first(lambda _: len(self.heard) >= start + count, after=start, within_s=seconds + 5)
        return self.recorded(start, start + count)

    def recorded(self, start: int = 0, end: int | None = None) -> Recording:
        frames = self.heard[start:end]
        audio = np.concatenate(frames) if frames else np.zeros(0, np.int16)
        return Recording(self.rate_hz, audio, np.ones(audio.size, bool))

    async def settled(self, wanted: Iterable[float] = (), *, not_: Iterable[float] = (), within_s: float = 5.0) -> None:
        """Wait until 100 ms of what comes holds the wanted tones and none of the others."""
        wanted, not_ = set(wanted), set(not_)
        deadline_s = asyncio.get_running_loop().time() + within_s
        while True:
            heard = await self.listen(0.1)
            levels = {tone: level_db(heard.audio, heard.rate_hz, tone) for tone in wanted | not_}
            if all(levels[tone] > HEARD_DB for tone in wanted) and all(levels[tone] < SILENT_DB + 6 for tone in not_):
                return
            assert asyncio.get_running_loop().time() < deadline_s, f"wanted {wanted} without {not_}, heard {levels}"

    async def closed(self, *, within_s: float = 5.0) -> int:
        """The code that the server closed with."""
        await asyncio.wait_for(self.socket.wait_closed(), within_s)
        assert self.socket.close_code is not None
        return self.socket.close_code
