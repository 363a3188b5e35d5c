import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def start_server():
    """Starts a real gunicorn with the fake domain; returns its port. The listening socket exists before the process does."""
    running = []

    def start(**environment: str) -> int:
        with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
            command = [sys.executable, "-m", "gunicorn", "-w", "1", "-k", "asgi", "--asgi-loop", "uvloop"]
            command += ["--no-control-socket", "--graceful-timeout", "1", "-b", f"fd://{listener.fileno()}"]
            command += ["tests.app.api.fake:serve()"]
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | environment,
                pass_fds=(listener.fileno(),),
                stderr=subprocess.DEVNULL,
            )
            running.append(process)
            return listener.getsockname()[1]

    yield start
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
