"""Decoding, seen from stream: a file goes in, a clip grows, and nothing that is in the file can hurt this process.

Runs in: stream.
Owns: the parent of the decoders, and how many of them work at once.

Rules
1. The parent starts with the first order and stays; if it dies, the next order starts another.
2. DECODERS_LIMIT files are decoded at once; the others wait in order.
3. An answers socket closed by us ends its decoder, and so does the end of stream.

Not here: formats, limits of one decoder → `decode_process.py`.
"""

import asyncio
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable
from pathlib import Path
from typing import IO

from shm.clip import ClipWriter
from shm.errors import PeerError
from workers.stream.decode_process import Order

DECODERS_LIMIT = 8
ANSWER_BYTES = 1024
_MODULE = "workers.stream.decode_process"
_ROOT = Path(__file__).parents[2]  # from where that name can be imported


class DecodeError(PeerError):
    """What was fetched is no sound; the text says why."""


class Decoder:
    """One per process."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(DECODERS_LIMIT)
        self._starting: asyncio.Task[tuple[Process, socket.socket]] | None = None

    async def decode(self, file: IO[bytes], order: Order, clip: ClipWriter, on_first: Callable[[], None]) -> None:
        """`on_first` when playing may begin; returns when the clip is complete. Raises DecodeError. Cancelled, it stops."""
        async with self._places:
            ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with ours:
                ours.setblocking(False)
                with its:
                    await self._give(order.encode(), [file.fileno(), clip.descriptor, its.fileno()])
                await _listen(ours, on_first)

    async def close(self) -> None:
        """Ends the parent; decoders at work go on until they notice that nobody listens."""
        if self._starting is not None:
            process, control = await self._starting
            self._starting = None
            control.close()
            await process.wait()

    async def _give(self, order: bytes, descriptors: list[int]) -> None:
        for is_last in (False, True):
            try:
                control = await self._parent()
                socket.send_fds(control, [order], descriptors)
            except OSError as fault:
                self._forget()  # it died a moment ago, or cannot be started
                if is_last:
                    raise DecodeError(f"no decoder: {fault.strerror}") from None
            else:
                return

    async def _parent(self) -> socket.socket:
        started = self._starting
        if (
            started is not None
            and started.done()
            and (started.exception() or started.result()[0].returncode is not None)
        ):
            self._forget()
        if self._starting is None:
            self._starting = asyncio.create_task(_start())
        _, control = await asyncio.shield(self._starting)  # one caller's end is not the others'
        return control

    def _forget(self) -> None:
        if self._starting is not None and self._starting.done():
            if self._starting.exception() is None:
                self._starting.result()[1].close()
            self._starting = None


async def _start() -> tuple[Process, socket.socket]:
    control, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    control.setblocking(False)  # a parent that does not read is as good as dead
    try:
        with its:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", _MODULE, stdin=its.fileno(), stdout=DEVNULL, stderr=DEVNULL, cwd=_ROOT
            )
    except OSError:
        control.close()
        raise
    return process, control


async def _listen(answers: socket.socket, on_first: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            answer = await loop.sock_recv(answers, ANSWER_BYTES)
        except ConnectionError:
            answer = b""
        match answer[:1]:
            case b"r":
                on_first()
            case b"d":
                return
            case b"e":
                raise DecodeError(f"cannot decode: {answer[1:].decode(errors='replace')}")
            case _:
                raise DecodeError("cannot decode: the decoder gave up")
