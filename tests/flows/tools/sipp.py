"""SIPp as a peer: runs a scenario of tests/flows/sipp and fails with its own error log.

SIPp (Debian `sip-tester`) is an independent SIP stack: what it accepts was not accepted by our own phone alone.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from tests.flows.tools.ports import free_port

SCENARIOS = Path(__file__).resolve().parents[1] / "sipp"


def require() -> None:
    """As root the gate has installed SIPp, so its absence is a failure; elsewhere the test is skipped by name."""
    if shutil.which("sipp") is None:
        assert os.geteuid() != 0, "sipp is missing: apt-get install sip-tester"
        pytest.skip("sipp is not installed (Debian package sip-tester)")


@asynccontextmanager
async def running(
    scenario: str,
    *arguments: str,
    remote: tuple[str, int] | None = None,
    calls: int = 1,
    transport: str = "u1",
    **keys: str,
) -> AsyncIterator[Sipp]:
    """Start a scenario; without `remote` it waits for calls. Leaving the block waits for its end and checks it."""
    require()
    folder = Path(tempfile.mkdtemp(prefix="sipp-"))
    port = free_port()
    command = [
        "sipp", "-sf", str(SCENARIOS / f"{scenario}.xml"), "-m", str(calls), "-i", "127.0.0.1", "-p", str(port),
        "-mi", "127.0.0.1", "-mp", str(free_port()), "-t", transport, "-nostdin", "-trace_err", "-error_file",
        str(folder / "errors"), "-timeout", "20", "-timeout_error", *arguments,
    ]  # fmt: skip
    for key, value in keys.items():
        command += ["-key", key, value]
    if remote is not None:
        command.append(f"{remote[0]}:{remote[1]}")
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    peer = Sipp(process, folder, port)
    try:
        await peer.bound()
        yield peer
        await peer.finished()
    except AssertionError as failure:
        failure.add_note(f"SIPp says: {peer.said}")
        raise
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        shutil.rmtree(folder, ignore_errors=True)


class Sipp:
    def __init__(self, process: asyncio.subprocess.Process, folder: Path, port: int) -> None:
        self.process, self.folder, self.port = process, folder, port

    @property
    def uri(self) -> str:
        return f"sip:sipp@127.0.0.1:{self.port}"

    async def bound(self) -> None:
        """Its port is open: over TCP a call that comes earlier is refused for good."""
        while self.process.returncode is None:
            try:
                if any(
                    c.laddr.port == self.port for c in psutil.Process(self.process.pid).net_connections() if c.laddr
                ):
                    return
            except psutil.Error:  # it has ended meanwhile, which `finished` reports
                return
            await asyncio.sleep(0.01)

    async def finished(self, *, within_s: float = 25.0) -> None:
        await asyncio.wait_for(self.process.wait(), within_s)
        assert self.process.returncode == 0, f"SIPp failed ({self.process.returncode}): {self.said}"

    @property
    def said(self) -> str:
        """Its error log: what it expected and what came instead."""
        errors = self.folder / "errors"
        return errors.read_text() if errors.exists() else "nothing"
