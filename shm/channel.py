"""A channel: typed messages between control and one other process over a SOCK_SEQPACKET socket pair.

Runs in: every process.
Owns: encoding, the send queue and what is dropped from it.

Rules
1. Sending never blocks. What the socket does not take waits in a queue: telemetry is dropped once anything waits
   (counted in `dropped`), everything else is kept up to QUEUE_LIMIT messages; beyond it the process gives up (WireError),
   for its other side has been deaf for minutes.
2. Several processes may hold the same end (the zygote keeps duplicates): silence or a death is never inferred from a channel.
   `ChannelClosed` only says that no process at all holds the other end.

Not here: the words -> `shm/messages`; keeping events until they are acknowledged -> `shm/outbox.py`.
"""

import asyncio
import os
import socket
from collections import deque
from functools import cache
from typing import Any, Generic, TypeVar

import msgspec

from shm.errors import WireError
from shm.messages import LogLine, SpeechChanged

BUFFER_BYTES = 4 * 1024 * 1024
MESSAGE_LIMIT_BYTES = 64 * 1024
QUEUE_LIMIT = 100_000
DESCRIPTORS_LIMIT = 4
TELEMETRY = (LogLine, SpeechChanged)

_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33

_encoder = msgspec.msgpack.Encoder()
Incoming = TypeVar("Incoming")


class ChannelClosed(WireError):
    """No process holds the other end any more."""


@cache
def decoder(incoming: Any) -> "msgspec.msgpack.Decoder[Any]":
    """Of a union of messages. Making one takes a millisecond: the zygote makes those of its forks beforehand."""
    return msgspec.msgpack.Decoder(incoming)


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """A connected pair with large buffers, non-blocking, not inherited over exec."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        end.setblocking(False)
        for forced, plain in ((_SO_SNDBUFFORCE, socket.SO_SNDBUF), (_SO_RCVBUFFORCE, socket.SO_RCVBUF)):
            try:
                end.setsockopt(socket.SOL_SOCKET, forced, BUFFER_BYTES)
            except PermissionError:
                end.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)
    return pair


class Channel(Generic[Incoming]):
    """One end. `incoming` is the union of message types the other side may send.

    With `loop` (asyncio processes) a waiting queue is written as soon as the socket takes more; others call `flush` each tick.
    """

    def __init__(self, end: socket.socket, incoming: Any, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._end = end
        self._decoder: msgspec.msgpack.Decoder[Incoming] = decoder(incoming)
        self._loop = loop
        self._waiting: deque[tuple[bytes, list[int]]] = deque()
        self._buffer = bytearray(MESSAGE_LIMIT_BYTES)
        self.dropped = 0

    def fileno(self) -> int:
        return self._end.fileno()

    def send(self, message: msgspec.Struct, descriptors: tuple[int, ...] = ()) -> None:
        """Queue one message. Descriptors may be closed as soon as this returns: what waits has duplicates."""
        data = _encoder.encode(message)
        if len(data) > MESSAGE_LIMIT_BYTES:
            raise WireError(f"{type(message).__name__} of {len(data)} bytes: lists travel in parts")
        if self._waiting:
            if isinstance(message, TELEMETRY):
                self.dropped += 1
                return
            if len(self._waiting) >= QUEUE_LIMIT:
                raise WireError(f"{QUEUE_LIMIT} messages wait: the other side is deaf")
            self._waiting.append((data, _duplicates(descriptors)))
            self.flush()
        elif not self._try_send(data, list(descriptors)):
            if isinstance(message, TELEMETRY):
                self.dropped += 1
                return
            self._waiting.append((data, _duplicates(descriptors)))
            if self._loop is not None:
                self._loop.add_writer(self._end, self.flush)

    def flush(self) -> bool:
        """Send what waits; True when nothing waits any more."""
        while self._waiting and self._try_send(*self._waiting[0]):
            _close(self._waiting.popleft()[1])
        if not self._waiting and self._loop is not None:
            self._loop.remove_writer(self._end)
        return not self._waiting

    def _try_send(self, data: bytes, descriptors: list[int]) -> bool:
        try:
            if descriptors:
                socket.send_fds(self._end, [data], descriptors)
            else:
                self._end.send(data)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            raise ChannelClosed(str(error)) from error
        return True

    def receive(self) -> list[Incoming]:
        """Everything that has arrived, decoded; [] when nothing has. Raises ChannelClosed, WireError."""
        messages: list[Incoming] = []
        while True:
            try:
                size = self._end.recv_into(self._buffer)
            except (BlockingIOError, InterruptedError):
                return messages
            except OSError as error:
                raise ChannelClosed(str(error)) from error
            if size == 0:
                if messages:
                    return messages
                raise ChannelClosed("no process holds the other end")
            messages.append(self._decode(memoryview(self._buffer)[:size]))

    def receive_with_descriptors(self) -> tuple[Incoming, list[int]] | None:
        """One message with what it carries, or None when nothing has arrived."""
        try:
            data, descriptors, _flags, _address = socket.recv_fds(self._end, MESSAGE_LIMIT_BYTES, DESCRIPTORS_LIMIT)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            raise ChannelClosed(str(error)) from error
        if not data:
            raise ChannelClosed("no process holds the other end")
        return self._decode(data), descriptors

    def _decode(self, data: bytes | memoryview) -> Incoming:
        try:
            return self._decoder.decode(data)
        except msgspec.MsgspecError as error:
            raise WireError(str(error)) from error

    def close(self) -> None:
        if self._loop is not None:
            self._loop.remove_writer(self._end)
            self._loop.remove_reader(self._end)
        while self._waiting:
            _close(self._waiting.popleft()[1])
        self._end.close()


def _duplicates(descriptors: tuple[int, ...]) -> list[int]:
    return [os.dup(descriptor) for descriptor in descriptors]


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
