"""nginx in front of a server: `etc/nginx.conf` as it is, but for its ports, its certificate and where it keeps files.

Rule: one process in the foreground, ended by its pid; it writes below its own folder only.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.flows.tools.certificates import make
from tests.flows.tools.ports import free_port
from tests.flows.tools.server import ROOT, Server

PLACES = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def require() -> None:
    """As root the gate has installed nginx, so its absence is a failure; elsewhere the test is skipped by name."""
    if shutil.which("nginx") is None:
        assert os.geteuid() != 0, "nginx is missing: apt-get install nginx"
        pytest.skip("nginx is not installed (Debian package nginx)")


@asynccontextmanager
async def in_front_of(server: Server) -> AsyncIterator[tuple[str, ssl.SSLContext]]:
    """Yields the https base URL and the context that trusts its certificate."""
    require()
    folder = Path(tempfile.mkdtemp(prefix="nginx-"))
    port = free_port()
    certificate = make(folder)
    shipped = (ROOT / "etc" / "nginx.conf").read_text()
    for theirs, ours in (
        ("server 127.0.0.1:8080;", f"server 127.0.0.1:{server.http_port};"),
        ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
        ("/etc/ssl/certs/voice.example.org.pem", str(certificate.certificate)),
        ("/etc/ssl/private/voice.example.org.key", str(certificate.key)),
    ):
        assert shipped.count(theirs) == 1, f"etc/nginx.conf has no single {theirs!r}"
        shipped = shipped.replace(theirs, ours)
    (folder / "roomtone.conf").write_text(shipped)
    temporary = "".join(f"{place}_temp_path {folder}/{place};\n" for place in PLACES)
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}include {folder}/roomtone.conf;\n}}\n"
    )
    process = await asyncio.create_subprocess_exec(
        "setpriv", "--pdeathsig", "TERM", "nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"),
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await _listening(port, process, folder)
        yield f"https://127.0.0.1:{port}", certificate.client_context()
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        shutil.rmtree(folder)


async def _listening(port: int, process: asyncio.subprocess.Process, folder: Path) -> None:
    async with asyncio.timeout(5):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                assert process.returncode is None, (folder / "errors").read_text()
                await asyncio.sleep(0.02)  # polling a foreign process: nothing announces its readiness
            else:
                writer.close()
                return
