"""The load generator: building scripts/loadgen.c and talking to it.

Runs in: scripts/bench.
Owns:    build/loadgen and the generator's process.
Not here: what it measures, and how -> the head of loadgen.c.
"""

import asyncio
import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchlib.processes import cpu_ns
from benchlib.server import BenchError

CFLAGS = ("-std=c11", "-O3", "-Wall", "-Wextra")
RESULT_BYTES = 1 << 24  # a line of results for the largest bench
SAYS_WITHIN_S = 10  # longer than it ever takes, on a busy machine too


def build(root: Path) -> Path:
    """The path of the built generator, made anew when its source is younger."""
    source, binary = root / "scripts/loadgen.c", root / "build/loadgen"
    if binary.exists() and binary.stat().st_mtime >= source.stat().st_mtime:
        return binary
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise BenchError("no C compiler for scripts/loadgen.c: apt-get install gcc libc6-dev")
    binary.parent.mkdir(exist_ok=True)
    fresh = binary.with_suffix(".new")  # two benches may build at once: the last rename wins, both are whole
    built = subprocess.run(
        [compiler, *CFLAGS, str(source), "-o", str(fresh), "-lm"], capture_output=True, text=True, check=False
    )
    if built.returncode:
        raise BenchError(f"{compiler} failed (is libc6-dev installed?):\n{built.stderr}")
    fresh.replace(binary)
    return binary


class Generator:
    def __init__(self, binary: Path, options: dict[str, str]) -> None:
        self.command = [str(binary), *(word for name, value in options.items() for word in (f"--{name}", value))]
        self.process: asyncio.subprocess.Process | None = None
        self.sip_port = 0

    def running(self) -> asyncio.subprocess.Process:
        if self.process is None:
            raise BenchError("the generator was never started")
        return self.process

    async def start(self) -> None:
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(
            *self.command, stdin=pipe, stdout=pipe, stderr=pipe, limit=RESULT_BYTES
        )
        self.sip_port = int(self.words(await self.line("READY", SAYS_WITHIN_S))["sip_port"])

    @staticmethod
    def words(line: str) -> dict[str, str]:
        """`STATUS calls=3 sent=7` as {"calls": "3", "sent": "7"}."""
        return {name: value for name, _, value in (word.partition("=") for word in line.split()[1:])}

    async def line(self, kind: str, within_s: float, on_status: Callable[[dict[str, str]], None] | None = None) -> str:
        """The next line that begins with `kind`; STATUS lines on the way go to `on_status`."""
        process = self.running()
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            async with asyncio.timeout(within_s):
                while raw := await process.stdout.readline():
                    line = raw.decode()
                    if line.startswith(kind):
                        return line
                    if on_status is not None and line.startswith("STATUS"):
                        on_status(self.words(line))
                raise BenchError(f"the generator ended: {(await process.stderr.read()).decode().strip()}")
        except TimeoutError:
            raise BenchError(f"the generator did not say {kind} within {within_s:g} s") from None

    async def measure(self, seconds: float, on_status: Callable[[dict[str, str]], None]) -> dict[str, Any]:
        """Measures from now for so many seconds; returns the generator's raw result."""
        stdin = self.running().stdin
        assert stdin is not None
        stdin.write(f"go {seconds}\n".encode())
        line = await self.line("RESULT", seconds + SAYS_WITHIN_S, on_status)
        result: dict[str, Any] = json.loads(line.partition(" ")[2])
        return result

    def cpu_ns(self) -> int:
        return cpu_ns(self.running().pid)

    async def stop(self) -> None:
        process = self.running()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(b"quit\n")
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), SAYS_WITHIN_S)
        except TimeoutError:
            process.kill()
            await process.wait()
