"""Speech without a key or a network: espeak-ng, in a process for each utterance.

Runs in: stream.
Owns: the life of that process, and the conversion from its rate to 16 kHz.

Rules
1. The process ends with its generator: closed or cancelled, it is killed and waited for. If stream itself dies, its pipe does
   the same.
2. Starting one costs about 60 ms of CPU, so MAX_STARTING start at once and the others wait in order, until the first audio of
   an earlier one is there. Afterwards the pipe paces the process and it costs next to nothing.
3. Nothing for STALL_SECONDS is an error.

Not here: which voice is meant → espeak_process.
"""

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import soxr

from workers.stream.speech.protocol import MAX_AUDIO_BYTES, RATE_HZ, Category, Pieces, SpeechError, SpeechRequest

NAME = "local"
MAX_STARTING = 4
STALL_SECONDS = 30.0
_READ_BYTES = 16 * 1024
Result = TypeVar("Result")
_SCRIPT = Path(__file__).with_name("espeak_process.py")


class _Opening(msgspec.Struct):
    rate_hz: int = 0
    error: str = ""


class Local:
    """Synthesizer. `voice` is a voice of espeak-ng, a language code or `default`; `model_id`, `prompt`, `api_key` are unused."""

    def __init__(self, stall_seconds: float = STALL_SECONDS) -> None:
        self._stall_seconds = stall_seconds
        self._starting = asyncio.Semaphore(MAX_STARTING)

    async def synthesize(self, request: SpeechRequest) -> Pieces:
        """One process."""
        async with AsyncExitStack() as life:
            async with self._starting:
                process = await life.enter_async_context(_espeak(request))
                rate_hz = await self._opened(process)
                data = await self._read(process)
            converter = soxr.ResampleStream(rate_hz, RATE_HZ, 1, dtype="int16")
            total_bytes, odd = 0, b""
            while data:
                whole = odd + data
                even = len(whole) & ~1
                odd = whole[even:]
                if piece := converter.resample_chunk(np.frombuffer(whole[:even], np.int16)).tobytes():
                    yield piece
                total_bytes += len(piece)
                if total_bytes > MAX_AUDIO_BYTES:
                    raise SpeechError(f"{NAME}: the text is too long", Category.PERMANENT_INPUT)
                data = await self._read(process)
            if await self._in_time(process.wait()):
                raise SpeechError(f"{NAME}: espeak-ng broke off", Category.UNKNOWN)
            if piece := converter.resample_chunk(np.zeros(0, np.int16), last=True).tobytes():
                yield piece
            elif not total_bytes:
                raise SpeechError(f"{NAME}: there is nothing to say", Category.PERMANENT_INPUT)

    async def _opened(self, process: Process) -> int:
        """The rate of what follows."""
        assert process.stdout is not None
        try:
            opening = msgspec.json.decode(await self._in_time(process.stdout.readline()), type=_Opening)
        except ValueError:  # nothing, half a line, too long a line
            raise SpeechError(f"{NAME}: espeak-ng does not run", Category.UNKNOWN) from None
        if opening.error or not 8000 <= opening.rate_hz <= 48000:
            raise SpeechError(f"{NAME}: {opening.error or 'unknown rate'}", Category.PERMANENT_INPUT)
        return opening.rate_hz

    async def _read(self, process: Process) -> bytes:
        assert process.stdout is not None
        return await self._in_time(process.stdout.read(_READ_BYTES))

    async def _in_time(self, waiting: Coroutine[object, object, Result]) -> Result:
        try:
            async with asyncio.timeout(self._stall_seconds):
                return await waiting
        except TimeoutError:
            raise SpeechError(f"{NAME}: espeak-ng stands still", Category.RETRYABLE) from None


@asynccontextmanager
async def _espeak(request: SpeechRequest) -> AsyncGenerator[Process, None]:
    """The process, its request delivered; afterwards it is gone."""
    # -P: beside the script lie modules whose names the standard library may want for itself.
    starting = asyncio.create_task(
        asyncio.create_subprocess_exec(sys.executable, "-P", str(_SCRIPT), stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
    )
    try:
        process = await asyncio.shield(starting)
    except OSError as fault:
        raise SpeechError(f"{NAME}: no process ({fault.strerror})", Category.SERVICE_UNAVAILABLE) from None
    except asyncio.CancelledError:
        # uvloop kills a process whose start is cancelled, but never waits for it: a zombie would stay as long as stream.
        with suppress(OSError):
            await _end(await starting)
        raise
    try:
        assert process.stdin is not None
        process.stdin.write(
            msgspec.json.encode({"text": request.text, "voice": request.voice, "language": request.language})
        )
        process.stdin.close()
        yield process
    finally:
        await _end(process)


async def _end(process: Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
    # Not wait(): a pipe that is full and unread would keep asyncio from seeing the end.
    await process.communicate()
