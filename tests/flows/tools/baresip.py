"""baresip as a peer: an independent SIP and RTP stack that sends back whatever it hears.

Its audio device is a bridge from loudspeaker to microphone (`aubridge`), so one phone in the room with it tells whether
both directions work: it hears its own tone come back.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.flows.tools.certificates import Certificate
from tests.flows.tools.ports import free_port

MODULES = Path("/usr/lib/baresip/modules")


def require() -> None:
    """As root the gate has installed it, so its absence is a failure; elsewhere the test is skipped by name."""
    if shutil.which("baresip") is None:
        assert os.geteuid() != 0, "baresip is missing: apt-get install baresip"
        pytest.skip("baresip is not installed (Debian package baresip)")


@asynccontextmanager
async def running(
    *, transport: str = "udp", codec: str = "pcmu", certificate: Certificate | None = None, dial: str = ""
) -> AsyncIterator[Baresip]:
    """A baresip that answers every call by itself; `dial`: and calls this URI at once."""
    require()
    folder = Path(tempfile.mkdtemp(prefix="baresip-"))
    port = free_port()
    lines = [
        f"sip_listen 127.0.0.1:{port}",
        "audio_source aubridge,echo",
        "audio_player aubridge,echo",
        "audio_alert aubridge,alert",
        f"module_path {MODULES}",
        *(f"module {name}.so" for name in ("g711", "g722", "aubridge")),
        "module_tmp account.so",
        "module_app menu.so",
    ]
    if certificate is not None:
        both = folder / "both.pem"
        both.write_bytes(certificate.certificate.read_bytes() + certificate.key.read_bytes())
        lines += [f"sip_certificate {both}", f"sip_cafile {certificate.certificate}"]
    (folder / "config").write_text("\n".join(lines) + "\n")
    account = f"<sip:baresip@127.0.0.1;transport={transport}>;regint=0;answermode=auto;audio_codecs={codec}\n"
    (folder / "accounts").write_text(account)
    (folder / "contacts").write_text("")
    process = await asyncio.create_subprocess_exec(
        "baresip", "-f", str(folder), *(["-e", f"/dial {dial}"] if dial else []),
        cwd=folder, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    peer = Baresip(process, transport, port)
    try:
        await peer.ready()
        yield peer
    except AssertionError as failure:
        failure.add_note(f"baresip says: {peer.said}")
        raise
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        shutil.rmtree(folder, ignore_errors=True)


class Baresip:
    def __init__(self, process: asyncio.subprocess.Process, transport: str, port: int) -> None:
        self.process = process
        self.uri = f"sip:baresip@127.0.0.1:{port + (transport == 'tls')};transport={transport}"
        self.said = ""
        self._reader: asyncio.Task[None] | None = None

    async def ready(self) -> None:
        assert self.process.stdout is not None
        async with asyncio.timeout(10):
            while "baresip is ready" not in self.said:
                line = await self.process.stdout.readline()
                assert line, f"baresip ended: {self.said}"
                self.said += line.decode(errors="replace")
        self._reader = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        async for line in self.process.stdout:
            self.said += line.decode(errors="replace")

    async def says(self, text: str, *, within_s: float = 5.0) -> str:
        """Everything it has printed, once that contains `text`."""
        deadline_s = asyncio.get_running_loop().time() + within_s
        while text not in self.said:
            assert asyncio.get_running_loop().time() < deadline_s, f"baresip did not say {text!r}"
            await asyncio.sleep(0.02)
        return self.said

    async def leave(self) -> None:
        """It ends, and with it all its calls, by BYE."""
        self.process.terminate()
        await asyncio.wait_for(self.process.wait(), 10)
