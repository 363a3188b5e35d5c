"""The server under test: start, readiness, end, and what it leaves behind.

Runs in: scripts/bench.
Owns:    the server's master process and its log file.
Rules:
 1. How the server is started is known to `server_command` alone.
 2. The bench's settings win over the environment, everything else in the environment reaches the server (RTP_IO, …).
 3. Only processes of this server's own tree are ever signalled.
"""

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchlib.processes import ProcessTree

READY_WITHIN_S = 30
STOPPED_WITHIN_S = 12
SETTLED_WITHIN_S = 10
QUIET_S, QUIET_SHARE = 0.3, 0.15  # of one core
ANSWERS_WITHIN = aiohttp.ClientTimeout(total=5)
SEGMENTS = Path("/dev/shm")  # noqa: S108 - where shared memory has its names; nothing is created there


class BenchError(Exception):
    """Nothing was measured; the text says why, for the person at the terminal."""


@dataclass(frozen=True)
class Ending:
    exit_code: int | None  # None: it had to be killed
    seconds: float
    processes_left: list[str]
    segments_left: list[str]


def server_command(root: Path) -> list[str]:
    return [str(root / ".venv/bin/gunicorn"), "-c", "etc/gunicorn.conf.py"]


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    def __init__(self, root: Path, command: list[str], settings: dict[str, str], log: Path) -> None:
        self.root, self.command, self.log = root, command, log
        self.http_port = free_port(socket.SOCK_STREAM)
        self.instance_id = f"bench-{os.getpid()}"
        self.environment = {
            **os.environ,
            "HTTP_ADDR": f"127.0.0.1:{self.http_port}",
            "SIP_PORT": str(free_port(socket.SOCK_DGRAM)),
            "SIP_BIND_IP": "127.0.0.1",
            "INSTANCE_ID": self.instance_id,
            **settings,
        }
        self.process: asyncio.subprocess.Process | None = None
        self.tree = ProcessTree(0)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    async def start(self) -> float:
        """Starts the server; returns the seconds until it answered GET /v1/rooms."""
        began = time.monotonic()
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command,
                cwd=self.root,
                env=self.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.tree = ProcessTree(self.process.pid)
        async with aiohttp.ClientSession(timeout=ANSWERS_WITHIN) as http:
            while time.monotonic() < began + READY_WITHIN_S:
                if self.process.returncode is not None:
                    raise BenchError(f"the server ended with status {self.process.returncode}:\n{self.last_lines()}")
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with http.get(f"{self.url}/v1/rooms") as reply:
                        if reply.status == 200:
                            self.tree.find()
                            return time.monotonic() - began
                await asyncio.sleep(0.02)
        raise BenchError(f"the server was not ready within {READY_WITHIN_S} s:\n{self.last_lines()}")

    async def settle(self) -> None:
        """Wait until nothing of the start is left to do: its stream processes go on importing for a second or two."""
        deadline = time.monotonic() + SETTLED_WITHIN_S
        while time.monotonic() < deadline:
            used_ns = sum(self.tree.cpu_ns().values())
            await asyncio.sleep(QUIET_S)
            if sum(self.tree.cpu_ns().values()) - used_ns < QUIET_SHARE * QUIET_S * 1e9:
                return

    async def stop(self) -> Ending:
        """SIGTERM to the master, and a look at what stays; what stays is then killed."""
        if self.process is None:
            raise BenchError("the server was never started")
        self.tree.find()
        began = time.monotonic()
        exit_code = None
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        with contextlib.suppress(TimeoutError):
            exit_code = await asyncio.wait_for(self.process.wait(), STOPPED_WITHIN_S)
        seconds = time.monotonic() - began
        for _ in range(25):  # the others leave on the lifeline, moments after the master
            if not self.tree.living():
                break
            await asyncio.sleep(0.02)
        left = self.tree.living()
        names = [f"{pid} {self.tree.kinds[pid]}" for pid in left]
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self.process.wait()
        return Ending(exit_code, seconds, names, self.segments())

    def segments(self) -> list[str]:
        """This instance's entries in /dev/shm."""
        mark = hashlib.sha256(self.instance_id.encode()).hexdigest()[:16]
        return [entry.name for entry in SEGMENTS.iterdir() if mark in entry.name]

    def last_lines(self, count: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    async def metrics(self) -> str:
        """The text of /metrics; empty when there is none."""
        async with aiohttp.ClientSession(timeout=ANSWERS_WITHIN) as http, http.get(f"{self.url}/metrics") as reply:
            return await reply.text() if reply.status == 200 else ""
