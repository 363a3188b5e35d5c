"""What the loop needs of UDP, whichever way the kernel offers it.

Runs in: rtp.
Owns: the interface of `uring.py` and `readiness.py`, and the choice between them.

Rules
1. A leg is an index below LEGS_LIMIT; its socket and columns live at that index.
2. `receive` copies: what it returns belongs to the caller, and the kernel has its buffers back.
3. Sending never blocks and never raises: what the kernel does not take is lost, as on any wire, and counted.
4. Datagrams above DATAGRAM_BYTES are refused and counted: more than any agreed packet (L16 at 48 kHz, 20 ms: 1,932 bytes).

Not here: who may be heard → latch.py; what the bytes mean → packet.py.
"""

import socket
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

LEGS_LIMIT = 4096
DATAGRAM_BYTES = 1984


class Arrivals(NamedTuple):
    """One batch of datagrams; rows in order of arrival per leg."""

    leg: NDArray[np.int64]  # (k,)
    length_bytes: NDArray[np.int64]  # (k,)
    data: NDArray[
        np.uint8
    ]  # (k, width ≥ longest): the last axis is contiguous, what lies beyond a length means nothing
    source: NDArray[np.uint8]  # (k, 28), see address.py

    def only(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "Arrivals":
        """The chosen rows, by mask or by index."""
        return Arrivals(self.leg[chosen], self.length_bytes[chosen], self.data[chosen], self.source[chosen])


class Transport(Protocol):
    name: str
    refused: int  # datagrams too long for us
    unsent: int  # packets that the kernel did not take

    def add(self, leg: int, sock: socket.socket) -> None:
        """Begin to hear this socket; raises OSError."""

    def remove(self, leg: int) -> None:
        """Forget the socket; the caller closes it. Nothing of it arrives any more."""

    def aim(self, leg: int, destination: bytes | None) -> None:
        """Where packets of a leg go: a packed address, or None where the socket is connected. What was prepared is void."""

    def prepare(self, legs: NDArray[np.int64], packets: NDArray[np.uint8]) -> Any:
        """Make packets (k, bytes), in C order and owned by the caller for as long as they are sent, ready for `send`."""

    def send(self, prepared: Any) -> None:
        """Send each packet as its memory is at `submit`."""

    def submit(self) -> None: ...

    def send_one(self, leg: int, data: bytes) -> None: ...

    def receive(self) -> Arrivals | None: ...

    def close(self) -> None: ...
