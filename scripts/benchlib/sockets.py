"""What room WebSockets cost: clients in rooms of the real server that speak and hear fifty frames a second each.

Runs in: scripts/bench, with `--sockets`.
Owns:    the clients' connections.
Rules:
 1. A client costs the bench as little as possible, so that it measures the server: its frames are made beforehand, what it
    receives is counted and timed, and only the last LISTEN_FRAMES are kept, to be looked at after the window.
 2. Each client of a room says a tone of its own. It hears right when all others' tones are there and its own is not.
 3. CPU is the server's, by kind of process, over the window; connecting and leaving are not in it.
"""

import argparse
import asyncio
import base64
import json
import secrets
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import uvloop

from benchlib.report import number, percentile, spread
from benchlib.server import BenchError, Server, server_command

FRAMES_PER_S = 50
TONES_HZ = (500, 700, 900, 1100, 1300, 1500)  # a whole number of periods in each frame
AMPLITUDE = 3000
LISTEN_FRAMES = 25
SETTLE_S = 2.0
OPEN_WITHIN_S = 10
TOGETHER = 16
HEARD = 0.1  # of the amplitude

Show = Callable[[str, float, str], None]


def frame_of(tone_hz: int, rate_hz: int) -> bytes:
    """20 ms of a tone that begins and ends at a whole period, as a masked text frame of a client."""
    at = np.arange(rate_hz // FRAMES_PER_S) / rate_hz
    samples = np.rint(AMPLITUDE * np.sin(2 * np.pi * tone_hz * at)).astype("<i2")
    text = json.dumps({"audio": base64.b64encode(samples.tobytes()).decode()}).encode()
    mask = secrets.token_bytes(4)
    masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(text))
    return b"\x81\xfe" + len(text).to_bytes(2, "big") + mask + masked


class Client(asyncio.Protocol):
    """One connection: `greeting` is the first frame, `gaps_ms` what lay between arrivals while `is_measured`."""

    def __init__(self, tone_hz: int) -> None:
        self.tone_hz = tone_hz
        self.transport: Any  # uvloop's is no asyncio.Transport
        self.frame = b""
        self.greeting: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self.last: deque[bytes] = deque(maxlen=LISTEN_FRAMES)
        self.gaps_ms: list[float] = []
        self.frames_heard = 0
        self.is_measured = False
        self.is_lost = False
        self._arrived = 0.0
        self._rest = b""
        self._is_upgraded = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.is_lost = True
        if not self.greeting.done():
            self.greeting.set_exception(BenchError(f"a WebSocket was closed before its first frame: {error}"))

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        if not self._is_upgraded:
            head, end, behind = data.partition(b"\r\n\r\n")
            if not end:
                self._rest = data
                return
            if not head.startswith(b"HTTP/1.1 101 "):
                self.greeting.set_exception(BenchError(f"no WebSocket: {data.decode(errors='replace')}"))
                self.transport.abort()
                return
            self._is_upgraded, data = True, behind
        start = 0
        while len(data) - start >= 2:
            size, body = data[start + 1], start + 2
            if size == 126:
                size, body = int.from_bytes(data[body : body + 2], "big"), body + 2
            if len(data) < body + size:
                break
            self._take(data[start], data[body : body + size])
            start = body + size
        self._rest = data[start:]

    def _take(self, kind: int, text: bytes) -> None:
        if kind == 0x81 and text.startswith(b'{"audio"'):
            self.last.append(text)
            if self.is_measured:
                now = time.monotonic()
                self.frames_heard += 1
                self.gaps_ms.append(1e3 * (now - self._arrived))
                self._arrived = now
        elif not self.greeting.done():
            self.greeting.set_result(json.loads(text))

    def begin(self) -> None:
        """What arrives from now on is counted."""
        self._arrived, self.is_measured = time.monotonic(), True

    def hears_right(self, others: set[int], rate_hz: int) -> bool:
        audio = b"".join(base64.b64decode(json.loads(text)["audio"]) for text in self.last)
        samples = np.frombuffer(audio, "<i2").astype(np.float64)
        if not samples.size:
            return False
        at = np.arange(samples.size) / rate_hz

        def is_heard(tone_hz: int) -> bool:
            level = 2 * abs(np.mean(samples * np.exp(-2j * np.pi * tone_hz * at)))
            return bool(level > HEARD * AMPLITUDE)

        return all(map(is_heard, others)) and not is_heard(self.tone_hz)


@dataclass
class Room:
    """A room and who is in it."""

    room_id: str
    clients: list[Client] = field(default_factory=list)

    def hearing_right(self, rate_hz: int) -> int:
        tones = {client.tone_hz for client in self.clients}
        return sum(client.hears_right(tones - {client.tone_hz}, rate_hz) for client in self.clients)


async def enter(server: Server, room: Room) -> None:
    """One more client in the room. Raises BenchError."""
    client = Client(TONES_HZ[len(room.clients)])
    room.clients.append(client)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(lambda: client, "127.0.0.1", server.http_port)
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    transport.write(
        f"GET /v1/rooms/{room.room_id}/ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    greeting = await asyncio.wait_for(client.greeting, OPEN_WITHIN_S)
    client.frame = frame_of(client.tone_hz, greeting["sample_rate"])


async def open_all(server: Server, chosen: argparse.Namespace, show: Show) -> list[Room]:
    if chosen.room_size > len(TONES_HZ):
        raise BenchError(f"--room-size: at most {len(TONES_HZ)} with --sockets")
    rooms = [Room(f"bench-{index}") for index in range(-(-chosen.sockets // chosen.room_size))]
    async with aiohttp.ClientSession() as http:
        for room in rooms:
            body = {"id": room.room_id, "sample_rate": chosen.rate}
            async with http.post(f"{server.url}/v1/rooms", json=body) as reply:
                if reply.status != 201:
                    raise BenchError(f"no room: {await reply.text()}")
    turns = asyncio.Semaphore(TOGETHER)

    async def one(index: int) -> None:
        async with turns:
            await enter(server, rooms[index // chosen.room_size])
        show("opening WebSockets", (index + 1) / chosen.sockets, f"{index + 1} of {chosen.sockets}")

    await asyncio.gather(*(one(index) for index in range(chosen.sockets)))
    return rooms


async def speak(clients: list[Client]) -> None:
    """Everybody a frame each 20 ms, spread over them, until cancelled."""
    loop = asyncio.get_running_loop()
    began, turn = loop.time(), 0
    step_s = 1 / FRAMES_PER_S / len(clients)
    while True:
        while began + turn * step_s <= loop.time():
            client = clients[turn % len(clients)]
            if not client.is_lost:
                client.transport.write(client.frame)
            turn += 1
        await asyncio.sleep(0.001)


async def measure(server: Server, chosen: argparse.Namespace, show: Show) -> dict[str, Any]:
    """Everything between a started server and its end."""
    rooms = await open_all(server, chosen, show)
    clients = [client for room in rooms for client in room.clients]
    speaking = asyncio.create_task(speak(clients))
    await asyncio.sleep(SETTLE_S)
    for client in clients:
        client.begin()
    before, own_before, began = server.tree.cpu_ns(), time.process_time_ns(), time.monotonic()
    while (passed := time.monotonic() - began) < chosen.seconds:
        show("measuring", passed / chosen.seconds, f"{passed:.0f} of {chosen.seconds:.0f} s")
        await asyncio.sleep(min(1.0, chosen.seconds - passed))
    after, own_after, seconds = server.tree.cpu_ns(), time.process_time_ns(), time.monotonic() - began
    for client in clients:
        client.is_measured = False
    speaking.cancel()
    return {
        "sockets": sum(not client.is_lost for client in clients),
        "cpu_percent_per_socket_by_kind": {
            kind: 100 * ns / 1e9 / seconds / len(clients)
            for kind, ns in sorted(server.tree.cpu_ns_by_kind(before, after).items())
        },
        "bench_cpu_percent": 100 * (own_after - own_before) / 1e9 / seconds,
        "frames_by_time_share": sum(one.frames_heard for one in clients) / (len(clients) * FRAMES_PER_S * seconds),
        "gap_ms": gaps([gap for client in clients for gap in client.gaps_ms]),
        "hear_the_others": sum(room.hearing_right(chosen.rate) for room in rooms),
    }


def gaps(found: list[float]) -> dict[str, float | None]:
    return {"p50": percentile(found, 0.5), "p99": percentile(found, 0.99), "max": max(found, default=None)}


def table(found: dict[str, Any], sockets: int) -> str:
    by_kind = found["cpu_percent_per_socket_by_kind"]
    rows = [
        ("WebSockets up", f"{found['sockets']} of {sockets}"),
        ("server CPU per WebSocket", f"{number(sum(by_kind.values()), 3)} % of a core"),
        *((f"  {kind}", f"{number(percent, 3)} %") for kind, percent in by_kind.items()),
        ("bench CPU", f"{number(found['bench_cpu_percent'])} % of a core"),
        ("frames against the clock", f"{found['frames_by_time_share']:.3%}"),
        ("gap p50 / p99 / max", f"{spread(found['gap_ms'], 'p50', 'p99', 'max')} ms"),
        ("hear the others, not themselves", f"{found['hear_the_others']} of {sockets}"),
        ("exit status", str(found["ending"]["exit_code"])),
        ("left behind", ", ".join(found["ending"]["processes_left"] + found["ending"]["segments_left"]) or "nothing"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


async def bench(root: Path, chosen: argparse.Namespace, log: Path, show: Show) -> dict[str, Any]:
    settings = {"ROOM_PLACEMENT": chosen.placement, "RTP_PORT_MIN": str(chosen.rtp_port_min)}
    settings["RTP_PORT_MAX"] = str(chosen.rtp_port_min + 1000)
    server = Server(root, chosen.server_command or server_command(root), settings, log)
    ending = None
    try:
        show("starting the server", 0, "")
        await server.start()
        found = await measure(server, chosen, show)
    except TimeoutError:
        raise BenchError(f"no answer within {OPEN_WITHIN_S} s\n{server.last_lines()}") from None
    finally:
        show("ending", 0, "")
        if server.process is not None:
            ending = await server.stop()
    assert ending is not None
    return {**found, "ending": vars(ending)}


def run(root: Path, chosen: argparse.Namespace, show: Show, end: Callable[[], None]) -> int:
    """As `benchlib.main.run`, with WebSockets in the place of calls."""
    log = root / "build" / f"bench-sockets-{chosen.sockets}-{int(time.time())}.log"
    log.parent.mkdir(exist_ok=True)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = runner.run(bench(root, chosen, log, show))
    except (BenchError, aiohttp.ClientError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        end()
        if chosen.keep_log:
            print(f"bench: the server's log is {log}", file=sys.stderr)
        else:
            log.unlink(missing_ok=True)
    print(
        f"{chosen.sockets} WebSockets, rooms of {chosen.room_size}, {chosen.placement}, {chosen.rate} Hz, {chosen.seconds:g} s"
    )
    print(table(found, chosen.sockets))
    if chosen.json:
        chosen.json.write_text(json.dumps({"figures": found}, indent=1) + "\n")
    return 0
