"""A clip: sound that was fetched, decoded or synthesised elsewhere, handed to a room worker as memory.

Runs in: stream and its decoders (write), room workers (read).
Owns: the layout of a clip's memory and who may write what.

    offset  content
         0  samples_ready  int64   written by stream after the samples
         8  state          int64   GROWING, COMPLETE or FAILED; written by stream last
      4096  samples        int16   at the rate of the room it was made for

Rules
1. One writer at a time, any number of readers; a reader looks at `samples_ready` first and never reads beyond it.
2. The memory is a memfd as large as the clip may become, touched only as far as it is filled. Its descriptor travels with
   messages; when the last process lets go, it is gone.
"""

import mmap
import os

import numpy as np
from numpy.typing import NDArray

GROWING, COMPLETE, FAILED = 0, 1, 2
HEADER_BYTES = 4096
LIMIT_BYTES = 2 * 1024**3


class ClipWriter:
    """`limit_samples` is the most it may hold; with a `descriptor` it goes on with a clip that somebody else made.

    Raises OSError when the machine refuses.
    """

    def __init__(self, limit_samples: int = 0, *, descriptor: int | None = None) -> None:
        if descriptor is None:
            descriptor = os.memfd_create("roomtone-clip")
            os.ftruncate(descriptor, min(HEADER_BYTES + 2 * limit_samples, LIMIT_BYTES))
        self.descriptor = descriptor
        self._memory = memory = mmap.mmap(descriptor, 0)
        size = len(memory)
        self._header = np.frombuffer(memory, np.int64, 2)
        self._samples = np.frombuffer(memory, np.int16, (size - HEADER_BYTES) // 2, HEADER_BYTES)

    def append(self, samples: NDArray[np.int16]) -> bool:
        """False when the clip is full: what does not fit is left out and the clip is complete."""
        start = int(self._header[0])
        fitting = samples[: len(self._samples) - start]
        self._samples[start : start + len(fitting)] = fitting
        self._header[0] = start + len(fitting)
        return len(fitting) == len(samples)

    def complete(self) -> None:
        self._header[1] = COMPLETE

    def fail(self) -> None:
        """Readers play what is there and then end with "failed"."""
        self._header[1] = FAILED

    def close(self) -> None:
        """At once, whoever still holds this object (a cancelled task's traceback does for long): it may be gigabytes."""
        os.close(self.descriptor)
        del self._header, self._samples
        self._memory.close()


def abandon(descriptor: int) -> bool:
    """The clip's writer is dead: whoever reads it ends with "failed". False when the clip was whole before."""
    state = int.from_bytes(os.pread(descriptor, 8, 8), "little")
    if state == GROWING:
        os.pwrite(descriptor, FAILED.to_bytes(8, "little"), 8)
    return state == GROWING


class Clip:
    """A reader's view of a descriptor, which it then no longer needs."""

    def __init__(self, descriptor: int) -> None:
        memory = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        os.close(descriptor)
        self._header = np.frombuffer(memory, np.int64, 2)
        self._samples = np.frombuffer(memory, np.int16, offset=HEADER_BYTES)

    @property
    def state(self) -> int:
        return int(self._header[1])

    def read(self, start: int, count: int) -> NDArray[np.int16]:
        """Samples [start, start + count) as far as they are there: shorter, or empty, otherwise. A view, not a copy."""
        return self._samples[start : min(start + count, int(self._header[0]))]
