"""UDP where io_uring is refused: epoll once a wake-up, one system call a packet.

Runs in: rtp.
Owns: the poll set and the sockets in it.

Rules
1. Same interface and same results as `uring.py`; only slower, for it loops over packets.
2. A socket gives at most BURST datagrams a wake-up; the rest waits in the kernel, so that a flood delays nobody else.
"""

import errno
import select
import socket

import numpy as np
from numpy.typing import NDArray

from workers.rtp import address
from workers.rtp.transport import DATAGRAM_BYTES, LEGS_LIMIT, Arrivals

BURST = 64
_ROWS = 1024

Prepared = list[tuple[int, memoryview]]


class Readiness:
    """`Transport` over epoll."""

    name = "epoll"

    def __init__(self) -> None:
        self.refused = 0
        self.unsent = 0
        self._epoll = select.epoll()
        self._legs: dict[int, int] = {}  # descriptor → leg
        self._sockets: dict[int, socket.socket] = {}
        self._destinations: dict[int, address.PythonAddress] = {}
        self._packed: dict[tuple[str | int, ...], NDArray[np.uint8]] = {}
        self._rows = np.zeros((_ROWS, DATAGRAM_BYTES), np.uint8)
        self._views = [memoryview(row) for row in self._rows]  # type: ignore[arg-type]  # a numpy row is a buffer

    def close(self) -> None:
        self._epoll.close()

    def add(self, leg: int, sock: socket.socket) -> None:
        if leg >= LEGS_LIMIT:
            raise OSError(errno.EMFILE, "too many sockets")
        sock.setblocking(False)
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        self._legs[sock.fileno()] = leg
        self._sockets[leg] = sock

    def remove(self, leg: int) -> None:
        sock = self._sockets.pop(leg)
        self._epoll.unregister(sock.fileno())
        del self._legs[sock.fileno()]
        self._destinations.pop(leg, None)

    def aim(self, leg: int, destination: bytes | None) -> None:
        if destination is None:
            self._destinations.pop(leg, None)
        else:
            self._destinations[leg] = address.unpack(destination)

    def receive(self) -> Arrivals | None:
        legs: list[int] = []
        lengths: list[int] = []
        sources: list[NDArray[np.uint8]] = []
        for descriptor, _events in self._epoll.poll(0):
            leg = self._legs[descriptor]
            sock = self._sockets[leg]
            for _ in range(BURST):
                if len(legs) == _ROWS:
                    break
                try:
                    size, _ancillary, flags, source = sock.recvmsg_into([self._views[len(legs)]])
                except BlockingIOError:
                    break
                except OSError:
                    continue  # an ICMP unreachable is told once; what was received stands behind it
                if flags & socket.MSG_TRUNC:
                    self.refused += 1
                    continue
                legs.append(leg)
                lengths.append(size)
                sources.append(self._pack(source))
        if not legs:
            return None
        width = max(lengths)
        return Arrivals(
            np.array(legs, np.int64),
            np.array(lengths, np.int64),
            self._rows[: len(legs), : max(width, 12)].copy(),
            np.array(sources, np.uint8),
        )

    def _pack(self, source: tuple[str | int, ...]) -> NDArray[np.uint8]:
        packed = self._packed.get(source)
        if packed is None:
            if len(self._packed) > 4 * LEGS_LIMIT:
                self._packed.clear()
            host, port = str(source[0]), int(source[1])
            packed = self._packed[source] = np.frombuffer(address.pack(host, port), np.uint8)
        return packed

    def prepare(self, legs: NDArray[np.int64], packets: NDArray[np.uint8]) -> Prepared:
        return [(int(leg), memoryview(packet)) for leg, packet in zip(legs, packets, strict=True)]

    def send(self, prepared: Prepared) -> None:
        for leg, packet in prepared:
            self.send_one(leg, packet)

    def submit(self) -> None:
        """Nothing waits here."""

    def send_one(self, leg: int, data: bytes | memoryview) -> None:
        destination = self._destinations.get(leg)
        try:
            if destination is None:
                self._sockets[leg].send(data)
            else:
                self._sockets[leg].sendto(data, destination)
        except OSError:
            self.unsent += 1
