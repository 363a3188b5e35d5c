"""What playing to every room and recording every room cost, measured on the calls that are up.

Runs in: scripts/bench.
Owns:    the web server of the file that is played; the services' start and end.
Rules:
 1. A bare window stands before and after each window with a service. It is compared with the mean of the two, so that
    what else the machine does in these minutes cancels out.
 2. A window begins when the service runs in every room and ends before the first is stopped: fetching the file and
    finishing a recording (merging its channels, too) are not in it.
Not here: figures -> report.py.
"""

import asyncio
import io
import wave
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from aiohttp import web

from benchlib.calls import Caller
from benchlib.server import BenchError
from benchlib.window import Window

PLAYED_SECONDS = 10  # played again and again
PLAYED_HZ = 2000  # on the generator's grid and no tone of its own
SETTLE_S = 1.0
TOGETHER = 8  # requests at a time


@dataclass(frozen=True)
class Cost:
    """One service in every room: the windows before, with and after it, and in how many rooms it lasted throughout."""

    before: Window
    during: Window
    after: Window
    rooms: int
    rooms_whole: int


@dataclass(frozen=True)
class Service:
    name: str
    path: str  # below a room
    body: dict[str, Any]
    event: str  # .started and .finished


def chosen_services(url: str, *, play: bool, record: bool, multi_channel: bool) -> list[Service]:
    playback = Service("playback", "play", {"url": url, "repeat": -1}, "playback")
    mix = Service("recording", "record", {}, "recording")
    channels = Service("multi-channel recording", "record", {"multi_channel": True}, "recording")
    return [one for one, is_chosen in ((playback, play), (mix, record), (channels, multi_channel)) if is_chosen]


@asynccontextmanager
async def played_file(rate_hz: int) -> AsyncIterator[str]:
    """Yields the URL of a sine in a WAV of the rooms' rate."""
    samples = 3000 * np.sin(2 * np.pi * PLAYED_HZ * np.arange(PLAYED_SECONDS * rate_hz) / rate_hz)
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setparams((1, 2, rate_hz, 0, "NONE", ""))
        file.writeframes(samples.astype("<i2").tobytes())

    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=data.getvalue(), content_type="audio/wav")

    app = web.Application()
    app.router.add_get("/played.wav", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/played.wav"
    finally:
        await runner.cleanup()


async def in_each(names: list[str], do: Callable[[str], Awaitable[dict[str, Any]]]) -> list[dict[str, Any]]:
    """`do` of each name, a few at a time; the replies in the same order."""
    turns = asyncio.Semaphore(TOGETHER)

    async def one(name: str) -> dict[str, Any]:
        async with turns:
            return await do(name)

    return await asyncio.gather(*(one(name) for name in names))


async def cost_of(
    service: Service,
    caller: Caller,
    rooms: list[str],
    window: Callable[[str], Awaitable[Window]],
    before: Window,
) -> Cost:
    """Starts it in all rooms, measures, stops it, measures without it."""
    caller.told.clear()
    started = await in_each(rooms, lambda room_id: caller.ask("POST", f"rooms/{room_id}/{service.path}", service.body))
    await caller.heard(f"{service.event}.started", len(rooms))
    await asyncio.sleep(SETTLE_S)
    during = await window(f"with {service.name}")
    stops = [
        f"rooms/{room_id}/{service.path}" + (f"/{reply['playback_id']}" if "playback_id" in reply else "")
        for room_id, reply in zip(rooms, started, strict=True)
    ]
    await in_each(stops, lambda path: caller.ask("DELETE", path))
    ended = await caller.heard(f"{service.event}.finished", len(rooms))
    whole = sum(lasted_s(event) >= during.seconds for event in ended)
    await asyncio.sleep(SETTLE_S)
    return Cost(before, during, await window("without it again"), len(rooms), whole)


def lasted_s(ended: dict[str, Any]) -> float:
    """By the event of its end: what was played, or what is in the file."""
    if "played_ms" in ended:
        return float(ended["played_ms"]) / 1e3
    try:
        with wave.open(ended["file"], "rb") as file:
            return float(file.getnframes() / file.getframerate())
    except (OSError, wave.Error, EOFError) as error:
        raise BenchError(f"{ended['file']} is no recording: {error}") from error
