"""UDP ports for RTP: even ones of the configured range, the next one up left to RTCP.

Runs in: control.
Owns: which port belongs to a leg.

Rules
1. First freed, first given out again, and a port that was never used goes before all: so a port rests as long as the range
   allows, far beyond 5 s unless the range is nearly used up.
2. Whether a port is really free is found out by rtp when it binds it. Where one was taken by another program others may be too
   (a second server on the same range): the next is probed here first, and what is taken goes to the end.
3. Range 0-0: the system chooses; the port is probed here, for rtp binds by number (a port bound as 0 cannot be
   disconnected and kept).
"""

import socket
from collections import deque
from collections.abc import Iterable

from shm.errors import ResourceError

SYSTEM_PORTS = 14_000  # about half of Linux's ephemeral range
PROBES = 512  # about 10 us each


class Ports:
    def __init__(self, low: int, high: int) -> None:
        self._chosen_by_system = high == 0
        self._free = deque(range(low + low % 2, high, 2)) if high else deque()
        self.capacity = SYSTEM_PORTS if self._chosen_by_system else len(self._free)

    def take(self, host: str, *, probed: bool = False) -> int:
        """A port to try on `host`; `probed`: one that seems to be free just now. Raises ResourceError."""
        if self._chosen_by_system:
            return _even_port_of_system(host)
        for _ in range(min(PROBES if probed else 1, len(self._free))):
            port = self._free.popleft()
            if not probed or _bind(host, port) == port:
                return port
            self._free.append(port)
        raise ResourceError("no RTP port left")

    def give_back(self, port: int) -> None:
        if not self._chosen_by_system:
            self._free.append(port)

    def resume(self, used: Iterable[int]) -> None:
        """In a new control process: these ports are in use."""
        taken = set(used)
        self._free = deque(port for port in self._free if port not in taken)


def _even_port_of_system(host: str) -> int:
    for _ in range(PROBES):
        port = _bind(host, 0)
        if port and port % 2 == 0:
            return port
    raise ResourceError(f"no RTP port on {host}")


def _bind(host: str, port: int) -> int:
    """Bind and let go again: the port, 0 = not to be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return 0
        bound: int = probe.getsockname()[1]
        return bound
