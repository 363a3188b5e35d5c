"""Shared memory that cannot be left behind.

Runs in: the master (creation) and everywhere (use, by inheritance over fork).
Owns: how a segment is made, mapped and given memory.

Rules
1. A segment is mapped and its name unlinked at once: whatever dies, nothing stays in /dev/shm.
2. It is sparse. `back` reserves memory before a part is first used, so that a full /dev/shm is a ResourceError
   instead of a SIGBUS in the middle of a mix.
"""

import mmap
import os
import secrets
import weakref

from shm.errors import ResourceError

try:
    import posix_ipc
except ImportError:  # no wheel for this platform: a memfd does the same without a name
    posix_ipc = None

PAGE_BYTES = mmap.PAGESIZE


class Segment:
    """`size_bytes` of zeroed shared memory, inherited by every process forked later."""

    def __init__(self, label: str, size_bytes: int) -> None:
        self._fd = _open(label, size_bytes)
        weakref.finalize(self, os.close, self._fd)
        self.size_bytes = size_bytes
        self.memory = mmap.mmap(self._fd, size_bytes)

    def back(self, offset_bytes: int, length_bytes: int) -> None:
        """Reserve memory for a part. Raises ResourceError when there is none; repeating it is harmless."""
        start = offset_bytes - offset_bytes % PAGE_BYTES
        try:
            os.posix_fallocate(self._fd, start, offset_bytes + length_bytes - start)
        except OSError as error:
            raise ResourceError(f"no shared memory left: {error.strerror}") from error


def _open(label: str, size_bytes: int) -> int:
    if posix_ipc is None:
        descriptor = os.memfd_create(f"roomtone-{label}")
        os.ftruncate(descriptor, size_bytes)
        return descriptor
    name = f"/roomtone-{label}-{secrets.token_hex(4)}"
    named = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, size=size_bytes)
    named.unlink()
    return int(named.fd)
