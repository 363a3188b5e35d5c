"""What somebody says in pieces of any length and at any moment, given out as frames of 20 ms at their pace.

Runs in: stream.
Owns: the queue between a connection and the tick, and its bounds (contract media.md, sections 3 and 11).

Rules
1. It holds at most `limit_bytes`; a piece that does not fit is dropped as a whole and counted, the oldest stays.
2. With `trim_bytes`: while more than that is queued, frames quieter than QUIET_RMS are left out, to regain a low delay.
3. A frame not yet complete waits PARTIAL_TICKS for its rest and is then filled up with zeros.
4. With `lead_bytes`: after it has run empty, it waits for so much, or for the time that so much lasts, before it goes on.

Not here: the rate → the owner.
"""

import numpy as np

QUIET_RMS = 300.0
PARTIAL_TICKS = 3


class Playout:
    """One writer, one reader."""

    def __init__(
        self, frame_bytes: int, *, limit_bytes: int, trim_bytes: int | None = None, lead_bytes: int = 0
    ) -> None:
        self._frame_bytes = frame_bytes
        self._limit_bytes = limit_bytes
        self._trim_bytes = trim_bytes
        self._lead_bytes = lead_bytes
        self._queue = bytearray()
        self._is_running = False
        self._waited_ticks = 0
        self.dropped_pieces = 0

    def __len__(self) -> int:
        """Bytes."""
        return len(self._queue)

    def push(self, pcm: bytes) -> bool:
        """False when it was dropped."""
        if len(self._queue) + len(pcm) > self._limit_bytes:
            self.dropped_pieces += 1
            return False
        self._queue += pcm
        return True

    def flush(self) -> None:
        """Nothing of it shall be heard."""
        self._queue.clear()

    def take(self) -> bytes | None:
        """The frame of one tick; None for silence. To be called once a tick."""
        queue, size = self._queue, self._frame_bytes
        if not queue:
            self._is_running = False
            self._waited_ticks = 0
            return None
        if not self._is_running:
            if len(queue) < self._lead_bytes and self._waited_ticks * size < self._lead_bytes:
                self._waited_ticks += 1
                return None
            self._is_running = True
            self._waited_ticks = 0
        if self._trim_bytes is not None:
            while len(queue) > self._trim_bytes and _rms(queue[:size]) < QUIET_RMS:
                del queue[:size]
        if len(queue) < size:
            self._waited_ticks += 1
            if self._waited_ticks < PARTIAL_TICKS:
                return None
            queue += bytes(size - len(queue))
        self._waited_ticks = 0
        frame = bytes(queue[:size])
        del queue[:size]
        return frame


def _rms(frame: bytearray) -> float:
    samples = np.frombuffer(bytes(frame), np.int16).astype(np.float32)
    return float(np.sqrt(samples @ samples / len(samples)))
