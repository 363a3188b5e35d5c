"""Transcription without a key or a network: PocketSphinx, English only.

Runs in: stream.
Owns: the parent of the recognising processes, and one socket into each of them.

Rules
1. The parent starts with the first participant and stays; if it dies, the next participant starts another.
2. A participant's socket is all that holds its process: closed, the process ends, and so it does when stream dies.
3. A recogniser that cannot keep up lets the socket fill, then the feed, which drops its oldest.

Not here: recognising → sphinx_process.
"""

import asyncio
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from contextlib import suppress
from pathlib import Path

import msgspec

from workers.stream.feed import CHUNK_BYTES, AudioFeed
from workers.stream.speech.protocol import Category
from workers.stream.transcription.protocol import FINALS_SECONDS, Report, Transcript, TranscriptionRequest
from workers.stream.vendor_socket import STOPPED, Ended, VendorError, clipped

NAME = "local"
_SCRIPT = Path(__file__).with_name("sphinx_process.py")


class _Line(msgspec.Struct):
    text: str
    is_final: bool
    start_ms: int
    end_ms: int


class Local:
    """Transcriber. `model`, `keyterms`, `endpointing_ms`, `utterance_end_ms` and `api_key` are unused."""

    def __init__(self, finals_seconds: float = FINALS_SECONDS) -> None:
        self._finals_seconds = finals_seconds
        self._starting: asyncio.Task[tuple[Process, socket.socket]] | None = None

    async def transcribe(self, request: TranscriptionRequest, audio: AudioFeed, report: Report) -> Ended:
        """One process."""
        language = request.language.lower().replace("_", "-")
        if language.partition("-")[0] not in {"", "en", "english"}:
            error = VendorError(f"{NAME}: understands English only", Category.PERMANENT_INPUT)
            return Ended.failed(error)
        try:
            reader, writer = await self._recogniser(with_partials=request.partial)
        except OSError as fault:
            error = VendorError(f"{NAME}: no process ({fault.strerror})", Category.SERVICE_UNAVAILABLE)
            return Ended.failed(error)
        speaking = asyncio.create_task(_speak(audio, writer))
        listening = asyncio.create_task(_listen(reader, report))
        try:
            await asyncio.wait({speaking, listening}, return_when=asyncio.FIRST_COMPLETED)
            if not listening.done():
                await asyncio.wait({listening}, timeout=self._finals_seconds)
            if listening.done():
                listening.result()
            if audio.is_closed:
                return STOPPED
            return Ended("failed", f"{NAME}: the recogniser ended", Category.UNKNOWN)
        finally:
            for task in (speaking, listening):
                task.cancel()
            await asyncio.gather(speaking, listening, return_exceptions=True)
            writer.transport.abort()

    async def close(self) -> None:
        """Ends the parent; participants who are still being heard may finish."""
        if self._starting is not None:
            process, control = await self._starting
            self._starting = None
            control.close()
            await process.wait()

    async def _recogniser(self, *, with_partials: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        ours, its = socket.socketpair()
        try:
            with its:
                control = await self._parent()
                socket.send_fds(control, [b"p" if with_partials else b"f"], [its.fileno()])
            return await asyncio.open_unix_connection(sock=ours)
        except OSError:
            ours.close()
            raise

    async def _parent(self) -> socket.socket:
        """The way to a parent that was alive a moment ago."""
        if self._starting is not None and self._starting.done():
            failed = self._starting.exception() is not None
            if not failed and self._starting.result()[0].returncode is not None:
                self._starting.result()[1].close()
                failed = True
            if failed:
                self._starting = None
        if self._starting is None:
            self._starting = asyncio.create_task(_start())
        _, control = await asyncio.shield(self._starting)  # one caller's end is not the others'
        return control


async def _start() -> tuple[Process, socket.socket]:
    control, its = socket.socketpair()
    control.setblocking(False)
    try:
        with its:
            # -P: beside the script lie modules whose names the standard library may want for itself.
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", str(_SCRIPT), stdin=its.fileno(), stdout=DEVNULL, stderr=DEVNULL
            )
    except OSError:
        control.close()
        raise
    return process, control


async def _speak(audio: AudioFeed, writer: asyncio.StreamWriter) -> None:
    writer.transport.set_write_buffer_limits(high=10 * CHUNK_BYTES)
    with suppress(OSError):  # then listening ends, too
        while (chunk := await audio.get()) is not None:
            writer.write(chunk)
            await writer.drain()
        writer.write_eof()


async def _listen(reader: asyncio.StreamReader, report: Report) -> None:
    with suppress(OSError):
        while line := await reader.readline():
            heard = msgspec.json.decode(line, type=_Line)
            report(
                Transcript(
                    clipped(heard.text),
                    heard.is_final,
                    speech_final=heard.is_final,
                    start_ms=heard.start_ms,
                    end_ms=heard.end_ms,
                )
            )
