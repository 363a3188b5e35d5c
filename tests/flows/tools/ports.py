"""Free ports for a server under test: several servers may run side by side on one machine.

All come from below the kernel's ephemeral range, so that no other program's outgoing socket takes a port of ours
between the look and the start.
"""

from __future__ import annotations

import random
import socket


def free_port() -> int:
    """A port that is free for TCP and UDP on loopback, and so is the next one (SIP over TLS)."""
    while True:
        port = random.randrange(2000, 10990)
        if all(is_free(p, kind) for p in (port, port + 1) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)):
            return port


def free_range(count: int) -> tuple[int, int]:
    """First and last of `count` UDP ports in a row that are free now."""
    while True:
        first = random.randrange(11000, 32000 - count, 2)
        if all(is_free(port, socket.SOCK_DGRAM) for port in range(first, first + count)):
            return first, first + count - 1


def is_free(port: int, kind: int) -> bool:
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # TIME_WAIT is not in use
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
