"""The real server as a subprocess: started on free ports, watched, stopped, and searched for remains.

Owns the process group, its log lines and a private temporary folder that it must leave empty.

Rules
1. A process belongs to a server when it descends from its master, or shares a session with one that did: workers of a
   killed zygote are re-parented but keep their session.
2. Only processes found that way are ever signalled, by pid.
3. `errors()` is what was logged at error level or was not a JSON log line at all (a traceback).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import aiohttp
import psutil

from tests.flows.tools.ports import free_port, free_range, is_free

ROOT = Path(__file__).resolve().parents[3]
# What a developer's own environment may hold and a server under test must not find: settings and vendors' keys.
FOREIGN = ("SIP_", "RTP_", "ROOM_", "WEBHOOK_", "TTS_", "ELEVENLABS_", "DEEPGRAM_", "VAPI_", "AWS_", "GOOGLE_")


def command() -> list[str]:
    """What scripts/run ends in, by the interpreter of these tests; stopped when they are killed themselves."""
    gunicorn = Path(sys.executable).with_name("gunicorn")
    return ["setpriv", "--pdeathsig", "TERM", str(gunicorn), "--config", "etc/gunicorn.conf.py"]


class Server:
    def __init__(self, *, legs: int = 400, wrapper: tuple[str, ...] = (), **environment: str) -> None:
        """`wrapper`: a command that ends by executing the one it is given."""
        self._wrapper = wrapper
        self.instance_id = f"flow-{uuid4()}"
        self.folder = Path(tempfile.mkdtemp(prefix="roomtone-flow-"))
        self.http_port, self.sip_port = free_port(), free_port()
        self.rtp_first, self.rtp_last = free_range(max(2 * legs, 100))
        self.environment = {
            "INSTANCE_ID": self.instance_id,
            "HTTP_ADDR": f"127.0.0.1:{self.http_port}",
            "SIP_BIND_IP": "127.0.0.1",
            "SIP_PORT": str(self.sip_port),
            "SIP_TCP_ENABLED": "true",
            "SIP_CODECS": "PCMU,PCMA,G722,L16",
            "RTP_PORT_MIN": str(self.rtp_first),
            "RTP_PORT_MAX": str(self.rtp_last),
            "TMPDIR": str(self.folder),
            **environment,
        }
        self.lines: list[str] = []
        self.ready_after_s = 0.0
        self.process: subprocess.Popen[str] | None = None
        self._sessions: set[int] = set()
        self._seen: dict[int, psutil.Process] = {}

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def sip_address(self) -> tuple[str, int]:
        return "127.0.0.1", self.sip_port

    def uri(self, user: str = "room", *, transport: str = "udp") -> str:
        suffix = "" if transport == "udp" else f";transport={transport}"
        return f"sip:{user}@127.0.0.1:{self.sip_port}{suffix}"

    # --- its life ---------------------------------------------------------------------------------------------

    def start(self, *, within_s: float = 20.0) -> Self:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        began_s = time.monotonic()
        self.process = subprocess.Popen(
            [*self._wrapper, *command()],
            cwd=ROOT,
            env=environment | self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._sessions.add(self.process.pid)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > began_s + within_s:
                self.kill()
                raise AssertionError(f"the server did not start (exit {self.process.poll()}):\n" + self.tail())
            time.sleep(0.02)  # polling a foreign process: nothing announces its readiness
        self.ready_after_s = time.monotonic() - began_s
        return self

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.http_port), 0.5) as probe:
                probe.settimeout(2)
                probe.sendall(b"GET /v1/rooms HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return b" 200 " in probe.recv(64)
        except OSError:
            return False

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, within_s: float) -> int:
        """The exit code of the master."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the server did not end within {within_s} s:\n" + self.tail()) from None

    def stop(self, *, within_s: float = 10.0) -> float:
        """SIGTERM, exit code 0, nothing left; returns how long it took in seconds."""
        self.processes()
        began_s = time.monotonic()
        self.signal()
        code = self.wait(within_s)
        took_s = time.monotonic() - began_s
        assert code == 0, f"exit code {code} after SIGTERM:\n" + self.tail()
        self.assert_nothing_left()
        return took_s

    def kill(self) -> None:
        """The end of a test that failed: everything of this server goes, whatever state it is in."""
        for process in self.processes():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.kill()
        self.process.wait(5)
        self.forget()

    def forget(self) -> None:
        """Remove its private folder, which a killed master cannot tidy."""
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- its processes ----------------------------------------------------------------------------------------

    def processes(self) -> list[psutil.Process]:
        """Every live process of this server, by rule 1."""
        found = []
        parents: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            parents[process.pid] = process
        for pid, process in parents.items():
            try:
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if self._descends(process, parents) or os.getsid(pid) in self._sessions:
                    self._sessions.add(os.getsid(pid))
                    self._seen[pid] = process
                    found.append(process)
            except (psutil.NoSuchProcess, ProcessLookupError):
                continue
        return found

    def _descends(self, process: psutil.Process, parents: dict[int, psutil.Process]) -> bool:
        while process is not None and process.pid != self.process.pid:
            process = parents.get(process.ppid())
        return process is not None

    def titled(self, title: str) -> list[psutil.Process]:
        """Processes by their title, e.g. `roomtone: control`, `roomtone: rtp 0`, `roomtone: room r1`."""
        found = []
        for process in self.processes():
            try:
                if " ".join(process.cmdline()).strip().startswith(title):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def only(self, title: str) -> psutil.Process:
        found = self.titled(title)
        titles = [" ".join(p.cmdline())[:60] for p in self.processes()]
        assert len(found) == 1, f"{len(found)} processes titled {title!r} among {titles}"
        return found[0]

    def slay(self, title: str) -> float:
        """`kill -9` the one process of this title; returns the moment on the monotonic clock."""
        victim = self.only(title)
        at_s = time.monotonic()
        victim.kill()
        return at_s

    # --- what it says and leaves ------------------------------------------------------------------------------

    def logged(self) -> list[dict[str, Any]]:
        found = []
        for line in list(self.lines):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def errors(self, *, after: int = 0) -> list[str]:
        """Log lines from number `after` on that are errors, or no log lines at all."""
        bad = []
        for line in self.lines[after:]:
            try:
                level = str(json.loads(line).get("level", "")).lower()
            except (ValueError, AttributeError):
                level = "not a JSON log line"
            if level not in ("debug", "info", "warning", "warn"):
                bad.append(line)
        return bad

    def tail(self, count: int = 40) -> str:
        return "\n".join(self.lines[-count:])

    def remains(self) -> list[str]:
        """What is left of a server that has ended: processes (and with them RTP sockets), shared memory, files, listeners."""
        name = hashlib.sha256(self.instance_id.encode()).hexdigest()[:16]
        left = [f"process {p.pid} {' '.join(p.cmdline())}" for p in self.processes()]
        left += [str(p) for p in Path("/dev/shm").iterdir() if name in p.name or self.instance_id in p.name]
        left += [f"file {p}" for p in self.folder.rglob("*")] if self.folder.exists() else []
        left += [f"port {p}/tcp" for p in (self.http_port, self.sip_port) if not is_free(p, socket.SOCK_STREAM)]
        return left + ([] if is_free(self.sip_port, socket.SOCK_DGRAM) else [f"port {self.sip_port}/udp"])

    def assert_nothing_left(self, *, within_s: float = 1.0) -> None:
        deadline_s = time.monotonic() + within_s
        while (left := self.remains()) and time.monotonic() < deadline_s:
            time.sleep(0.02)  # polling foreign processes for their end
        assert not left, "left behind:\n" + "\n".join(left)
        self.forget()

    async def metrics(self) -> dict[str, float]:
        """`/metrics` as name{labels} → value."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.base}/metrics") as response:
            text = await response.text()
        rows = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in rows}
