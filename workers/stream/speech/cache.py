"""Speech on disk: the same words in the same voice are synthesised once (contract media.md, section 9.7).

Runs in: stream.
Owns: `TTS_CACHE_DIR`: key, file, the order in which files leave.

    name     64 hex digits: SHA-256 of provider, voice, model_id, language, prompt, text (and the key if wanted), NUL between
    content  `audio/pcm;rate=16000`, line feed, audio

Rules
1. Equal requests under way at once share one synthesis; each hears it from its beginning as it comes. When none listens any
   more before its end, it is cancelled.
2. A file appears by rename, complete and synced. What cannot be written is reported and played all the same; what cannot be
   read, or is not of this form, is made anew.
3. A file's modification time is its last use. Beyond `max_bytes` the longest unused go; one that alone is larger is not kept.
4. The disk is touched by threads only. An utterance being made is held in memory, at most MAX_AUDIO_BYTES.

Not here: whether caching is on, and volume, which is applied at playing. Control sends equal texts to the same stream process;
should two make one utterance all the same (other servers may share the folder), the last rename wins.
"""

import asyncio
import os
import re
import secrets
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress
from hashlib import sha256
from pathlib import Path

from workers.stream.speech.protocol import PIECE_BYTES, Pieces, SpeechRequest, Synthesizer

_HEAD = b"audio/pcm;rate=16000\n"
_ENTRY = re.compile(r"[0-9a-f]{64}")
_PARTIAL_SUFFIX = ".partial"
_PARTIAL_LIFE_SECONDS = 3600.0


def key_of(provider: str, request: SpeechRequest, *, include_api_key: bool) -> str:
    """The file's name. Values are those of the request: an empty model is not the same as the default named."""
    parts = [provider, request.voice, request.model_id, request.language, request.prompt, request.text]
    if include_api_key:
        parts.append(request.api_key)
    return sha256("\0".join(parts).encode()).hexdigest()


class SpeechCache:
    """`max_bytes` 0 is without bound. `on_failure` gets one sentence when an entry cannot be written."""

    def __init__(
        self, directory: Path, *, max_bytes: int, include_api_key: bool, on_failure: Callable[[str], None]
    ) -> None:
        """Creates the directory; OSError where that is impossible. Removes what a killed process left half written."""
        self._directory = directory
        self._max_bytes = max_bytes
        self._include_api_key = include_api_key
        self._on_failure = on_failure
        self._under_way: dict[str, _Utterance] = {}
        directory.mkdir(parents=True, exist_ok=True)
        for partial in directory.glob(f"*{_PARTIAL_SUFFIX}"):
            with suppress(OSError):
                if partial.stat().st_mtime < time.time() - _PARTIAL_LIFE_SECONDS:
                    partial.unlink()

    async def synthesize(self, provider: str, request: SpeechRequest, synthesizer: Synthesizer) -> Pieces:
        """From disk, from a synthesis under way, or from the vendor. SpeechError as of the synthesizer."""
        key = key_of(provider, request, include_api_key=self._include_api_key)
        utterance = self._under_way.get(key)
        if utterance is None:
            utterance = self._under_way[key] = _Utterance()
            utterance.begin(self._make(key, utterance, request, synthesizer))
        utterance.listeners += 1
        try:
            async with aclosing(utterance.heard()) as pieces:
                async for piece in pieces:
                    yield piece
        finally:
            utterance.listeners -= 1
            if not utterance.listeners and not utterance.is_complete:
                utterance.task.cancel()
                self._forget(key, utterance)

    async def _make(self, key: str, utterance: "_Utterance", request: SpeechRequest, synthesizer: Synthesizer) -> None:
        path = self._directory / key
        try:
            if audio := await asyncio.to_thread(_read, path):
                for start in range(0, len(audio), PIECE_BYTES):
                    utterance.add(audio[start : start + PIECE_BYTES])
                utterance.complete()
                return
            async with aclosing(synthesizer.synthesize(request)) as pieces:
                async for piece in pieces:
                    utterance.add(piece)
            utterance.complete()
            try:
                await asyncio.to_thread(self._keep, path, utterance.pieces)
            except OSError as fault:
                self._on_failure(f"speech cache: cannot write to {self._directory}: {fault.strerror}")
        finally:
            self._forget(key, utterance)

    def _forget(self, key: str, utterance: "_Utterance") -> None:
        # When all listeners had left one utterance, another may have been begun under the same key.
        if self._under_way.get(key) is utterance:
            del self._under_way[key]

    def _keep(self, path: Path, pieces: list[bytes]) -> None:
        size_bytes = len(_HEAD) + sum(map(len, pieces))
        if self._max_bytes and size_bytes > self._max_bytes:
            return
        partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}{_PARTIAL_SUFFIX}")
        try:
            with partial.open("xb") as file:
                file.write(_HEAD)
                file.writelines(pieces)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)
        if self._max_bytes:
            self._make_room()

    def _make_room(self) -> None:
        entries = []
        with os.scandir(self._directory) as found:
            for entry in found:
                if _ENTRY.fullmatch(entry.name):
                    with suppress(OSError):  # another process may have removed it
                        seen = entry.stat()
                        entries.append((seen.st_mtime_ns, seen.st_size, entry.path))
        excess_bytes = sum(size for _, size, _ in entries) - self._max_bytes
        for _, size_bytes, path in sorted(entries):
            if excess_bytes <= 0:
                break
            with suppress(OSError):
                os.unlink(path)  # noqa: PTH108 - scandir gives strings
            excess_bytes -= size_bytes


class _Utterance:
    """Audio that grows while any number listen."""

    task: asyncio.Task[None]

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.listeners = 0
        self.is_complete = False  # all audio is here; it may still be on its way to the disk
        self._news = asyncio.Event()

    def begin(self, making: Coroutine[None, None, None]) -> None:
        self.task = asyncio.create_task(making)
        self.task.add_done_callback(self._ended)

    def add(self, piece: bytes) -> None:
        self.pieces.append(piece)
        self._tell()

    def complete(self) -> None:
        self.is_complete = True
        self._tell()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.exception()  # seen, should nobody be left to hear of it
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def heard(self) -> Pieces:
        """All of it from the beginning, whenever one begins to listen. Raises what the making of it raised."""
        count = 0
        while True:
            while count < len(self.pieces):
                yield self.pieces[count]
                count += 1
            if self.is_complete:
                return
            if self.task.done():
                self.task.result()
            await self._news.wait()


def _read(path: Path) -> bytes:
    """The audio of an entry, now used; empty when there is none or it is damaged."""
    try:
        content = path.read_bytes()
        if not content.startswith(_HEAD) or len(content) % 2 != len(_HEAD) % 2:
            return b""
        os.utime(path)
    except OSError:
        return b""
    return content[len(_HEAD) :]
