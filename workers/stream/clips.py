"""Clips in the making: what is fetched or synthesised, and handed to control as soon as there is something to hear.

Runs in: stream.
Owns: one task for each clip, from the command to its last sample.

Rules
1. A clip is announced (`ClipReady`, with its descriptor) with its first audio and goes on growing. One that fails later ends
   with FAILED in its memory, for whoever plays it, and with `ClipFailed` for control.
2. Asked for again under the same id, one that is still growing is announced again: a new control has lost the first.
3. Cancelled, nothing more is said of it; what was announced of it is FAILED in its memory.
4. A clip holds CLIP_LIMIT_S at most and is complete then.

Not here: vendors → `speech/`; formats → `decode.py`; when it is played → the room worker.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
import soxr

from shm import messages as wire
from shm.clip import ClipWriter
from shm.errors import CallerError, PeerError
from workers.stream.decode import Decoder
from workers.stream.decode_process import Order
from workers.stream.fetch import Fetcher
from workers.stream.speech.cache import SpeechCache
from workers.stream.speech.protocol import RATE_HZ, Pieces, SpeechError, SpeechRequest, Synthesizer

CLIP_LIMIT_S = 4 * 3600  # 1.3 GB at 48 kHz: what a small file of silence may unfold to
Send = Callable[[wire.ClipReady, tuple[int, ...]], None]
Post = Callable[[wire.Event], None]
Wanted = wire.FetchClip | wire.Synthesize


@dataclass(eq=False)
class _Making:
    task: asyncio.Task[None] | None = None
    announced: ClipWriter | None = None


Work = Callable[[Any, ClipWriter, _Making], Coroutine[None, None, None]]


class Clips:
    """`send` takes a message with descriptors, which stay open until the next `settle(flushed=True)`."""

    def __init__(
        self,
        send: Send,
        post: Post,
        *,
        fetcher: Fetcher,
        decoder: Decoder,
        synthesizers: dict[str, Synthesizer],
        cache: SpeechCache | None,
    ) -> None:
        self._send = send
        self._post = post
        self._fetcher = fetcher
        self._decoder = decoder
        self._synthesizers = synthesizers
        self._cache = cache
        self._making: dict[str, _Making] = {}
        self._lent: list[int] = []

    def ids(self) -> list[str]:
        return list(self._making)

    def fetch(self, command: wire.FetchClip) -> None:
        """At once."""
        self._begin(command, self._fetched)

    def synthesize(self, command: wire.Synthesize) -> None:
        """Raises CallerError for an unknown provider."""
        if command.provider not in self._synthesizers:
            raise CallerError(f"unknown provider {command.provider}")
        self._begin(command, self._spoken)

    def cancel(self, clip_id: str) -> None:
        """Unknown ones are as cancelled as can be."""
        making = self._making.pop(clip_id, None)
        if making is not None and making.task is not None:
            making.task.cancel()

    def settle(self, *, flushed: bool) -> None:
        """Now and then: `flushed` when no message waits any more."""
        if flushed:
            while self._lent:
                os.close(self._lent.pop())

    async def close(self) -> None:
        """End all that is in the making."""
        tasks = [making.task for making in self._making.values() if making.task is not None]
        for clip_id in self.ids():
            self.cancel(clip_id)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, command: Wanted, work: Work) -> None:
        making = self._making.get(command.clip_id)
        if making is None:
            making = self._making[command.clip_id] = _Making()
            making.task = asyncio.create_task(self._made(command, making, work))
        elif making.announced is not None:
            self._announce(command.clip_id, making, making.announced)

    def _announce(self, clip_id: str, making: _Making, writer: ClipWriter) -> None:
        if self._making.get(clip_id) is making:  # else it is cancelled
            making.announced = writer
            self._lent.append(os.dup(writer.descriptor))
            self._send(wire.ClipReady(clip_id=clip_id), (self._lent[-1],))

    async def _made(self, command: Wanted, making: _Making, work: Work) -> None:
        """All that may become of a clip."""
        clip_id = command.clip_id
        failure: wire.ClipFailed | None = None
        try:
            with _writer(command.rate_hz) as writer:
                await work(command, writer, making)
        except SpeechError as error:
            failure = wire.ClipFailed(clip_id=clip_id, error=str(error), category=error.category.value)
        except (PeerError, OSError) as error:
            failure = wire.ClipFailed(clip_id=clip_id, error=str(error))
        finally:
            is_cancelled = self._making.get(clip_id) is not making  # it may have been begun anew
            if not is_cancelled:
                del self._making[clip_id]
        if failure is not None and not is_cancelled:
            self._post(failure)

    async def _fetched(self, command: wire.FetchClip, writer: ClipWriter, making: _Making) -> None:
        with await self._fetcher.fetch(command.url) as file:
            order = Order(command.rate_hz, command.mime_type[:200], urlsplit(command.url).path[-200:])
            await self._decoder.decode(file, order, writer, lambda: self._announce(command.clip_id, making, writer))

    async def _spoken(self, command: wire.Synthesize, writer: ClipWriter, making: _Making) -> None:
        request = SpeechRequest(
            text=command.text,
            voice=command.voice,
            model_id=command.model_id,
            language=command.language,
            prompt=command.prompt,
            api_key=command.api_key,
        )
        synthesizer = self._synthesizers[command.provider]
        if self._cache is None:
            audio = synthesizer.synthesize(request)
        else:
            audio = self._cache.synthesize(command.provider, request, synthesizer)
        async with aclosing(_converted(audio, command.rate_hz)) as pieces:
            async for piece in pieces:
                if not writer.append(np.frombuffer(piece, np.int16)):
                    break
                if making.announced is None and piece:
                    self._announce(command.clip_id, making, writer)
        writer.complete()


@contextmanager
def _writer(rate_hz: int) -> Iterator[ClipWriter]:
    """A clip that is FAILED unless all went well."""
    writer = ClipWriter(CLIP_LIMIT_S * rate_hz)
    try:
        yield writer
    except BaseException:
        writer.fail()
        raise
    finally:
        writer.close()


async def _converted(audio: Pieces, rate_hz: int) -> Pieces:
    """Speech at the clip's rate."""
    async with aclosing(audio) as pieces:
        if rate_hz == RATE_HZ:
            async for piece in pieces:
                yield piece
            return
        converter = soxr.ResampleStream(RATE_HZ, rate_hz, 1, dtype="int16")
        async for piece in pieces:
            yield cast("bytes", converter.resample_chunk(np.frombuffer(piece, np.int16)).tobytes())
        yield cast("bytes", converter.resample_chunk(np.zeros(0, np.int16), last=True).tobytes())
