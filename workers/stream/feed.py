"""What one participant says, on its way to a vendor: 20 ms chunks in at a steady pace, out as fast as the vendor takes them.

Runs in: stream.
Owns: the queue between whoever reads the audio and one vendor connection.

Rules
1. Holds at most `limit_chunks`; when full the oldest chunk is dropped and counted. The writer never waits.
2. Closing is how the owner asks for a graceful end: what was fed before is still read, then None.

Not here: where audio comes from → the owner; what the vendor is told at the end → its dialect.
"""

import asyncio
from collections import deque

CHUNK_BYTES = 640  # 20 ms at 16 kHz, signed 16-bit little-endian mono
TRANSCRIPTION_LIMIT_CHUNKS = 500  # 10 s: what is said while the connection is being made shall be transcribed
AGENT_LIMIT_CHUNKS = 50  # 1 s: an agent that lags answers what nobody remembers


class AudioFeed:
    """One writer, one reader, in one loop."""

    def __init__(self, limit_chunks: int) -> None:
        self._chunks: deque[bytes] = deque(maxlen=limit_chunks)
        self._moved = asyncio.Event()
        self._closed = asyncio.Event()
        self.dropped_chunks = 0

    @property
    def is_closed(self) -> bool:
        """The owner wants the end."""
        return self._closed.is_set()

    def push(self, chunk: bytes) -> None:
        """CHUNK_BYTES of audio. Ignored after `close`."""
        if self.is_closed:
            return
        if len(self._chunks) == self._chunks.maxlen:
            self.dropped_chunks += 1
        self._chunks.append(chunk)
        self._moved.set()

    def close(self) -> None:
        """Idempotent."""
        self._closed.set()
        self._moved.set()

    async def get(self) -> bytes | None:
        """The oldest chunk, waited for; None when there will be no more. Cancelled, it loses nothing."""
        while not self._chunks:
            if self.is_closed:
                return None
            self._moved.clear()
            await self._moved.wait()
        return self._chunks.popleft()

    async def wait_closed(self) -> None:
        """Until the owner wants the end, whatever is still queued."""
        await self._closed.wait()
