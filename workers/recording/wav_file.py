"""A WAV file that is written while anybody may read it: valid at every moment, whoever is killed.

Runs in: room (a thread beside the tick loop), stream (orphans).
Owns: the bytes of the header, the lock, and the step beyond 4 GiB.

    up to 4 GiB   RIFF size WAVE | fmt  16 ... | data size | samples                        44 bytes, then 16-bit PCM
    beyond        RF64 -1 WAVE | ds64 28 ... | fmt  16 ... | data -1 | samples              80 bytes (EBU Tech 3306)

Rules
1. Samples go first, then the header that counts them. What nobody wrote is a hole, which reads as silence.
2. The open file is locked exclusively (flock) against a second server on the same directory.
3. The file that grows beyond 4 GiB is copied behind the longer header and takes the old one's name in one step; reserving the
   36 bytes from the start would cost every small file its plain header (media.md 6.1).
"""

import errno
import fcntl
import os
import struct
from pathlib import Path
from typing import Self

SAMPLE_BYTES = 2
PLAIN_HEADER_BYTES = 44
LONG_HEADER_BYTES = 80
_SIZE_LIMIT = 0xFFFFFFFF  # of a RIFF chunk; a long header has it where the size is to be read from ds64
_COPY_BYTES = 1 << 30
_MODE = 0o644


class WavFile:
    """16-bit PCM. Every method raises OSError when the machine refuses; BlockingIOError when another process holds the file."""

    def __init__(self, path: Path, descriptor: int, rate_hz: int, channels: int, *, is_long: bool) -> None:
        self.path = path
        self.rate_hz = rate_hz
        self.channels = channels
        self.frames = 0  # one sample of each channel
        self._fd = descriptor
        self._header_bytes = LONG_HEADER_BYTES if is_long else PLAIN_HEADER_BYTES

    @classmethod
    def create(cls, path: Path, rate_hz: int, channels: int, *, frames_planned: int = 0) -> Self:
        """A new empty file. Raises FileExistsError. `frames_planned`: where it is known to outgrow a plain header."""
        is_long = frames_planned * channels * SAMPLE_BYTES + PLAIN_HEADER_BYTES > _SIZE_LIMIT
        made = cls(path, _open_locked(path, os.O_CREAT | os.O_EXCL), rate_hz, channels, is_long=is_long)
        try:
            made._write_header()
        except OSError:
            made.close()
            path.unlink()
            raise
        return made

    @classmethod
    def reopen(cls, path: Path) -> Self:
        """Go on with a file whose writer died: all whole frames that reached it count. Raises FileNotFoundError."""
        fd = _open_locked(path, 0)
        header = os.pread(fd, LONG_HEADER_BYTES, 0)
        if not header:  # its maker was killed before the first byte
            path.unlink()
            os.close(fd)
            raise FileNotFoundError(errno.ENOENT, "nothing was written", str(path))
        is_long = header[:4] == b"RF64"
        at = LONG_HEADER_BYTES - 8 if is_long else PLAIN_HEADER_BYTES - 8
        if header[:4] not in {b"RIFF", b"RF64"} or header[at : at + 4] != b"data":
            os.close(fd)
            raise OSError(errno.EINVAL, "not a recording of ours", str(path))
        channels, rate_hz = struct.unpack_from("<HI", header, at - 14)
        found = cls(path, fd, rate_hz, channels, is_long=is_long)
        found.frames = (os.fstat(fd).st_size - found._header_bytes) // found.frame_bytes
        found._write_header()
        return found

    @property
    def frame_bytes(self) -> int:
        return self.channels * SAMPLE_BYTES

    def write(self, position: int, samples: memoryview) -> None:
        """Interleaved samples from frame `position` on, then the header."""
        self._make_room(position + len(samples) // self.frame_bytes)
        offset = self._header_bytes + position * self.frame_bytes
        while samples:
            written = os.pwrite(self._fd, samples, offset)
            samples = samples[written:]
            offset += written
        self._count(offset)

    def extend(self, frames: int) -> None:
        """Silence up to a length of `frames`; a longer file stays as it is."""
        if frames > self.frames:
            self._make_room(frames)
            end = self._header_bytes + frames * self.frame_bytes
            os.ftruncate(self._fd, end)
            self._count(end)

    def read_into(self, position: int, samples: memoryview) -> int:
        """Frames read, from `position` on; fewer than asked for at the end of the file."""
        offset = self._header_bytes + position * self.frame_bytes
        return os.preadv(self._fd, [samples], offset) // self.frame_bytes

    def sync(self) -> None:
        os.fsync(self._fd)

    def close(self) -> None:
        os.close(self._fd)

    def _count(self, end: int) -> None:
        self.frames = max(self.frames, (end - self._header_bytes) // self.frame_bytes)
        self._write_header()

    def _write_header(self) -> None:
        data_bytes = self.frames * self.frame_bytes
        is_long = self._header_bytes == LONG_HEADER_BYTES
        if is_long:
            start = struct.pack("<4sI4s", b"RF64", _SIZE_LIMIT, b"WAVE")
            whole = LONG_HEADER_BYTES - 8 + data_bytes
            start += struct.pack("<4sIQQQI", b"ds64", 28, whole, data_bytes, self.frames, 0)
        else:
            start = struct.pack("<4sI4s", b"RIFF", PLAIN_HEADER_BYTES - 8 + data_bytes, b"WAVE")
        form = struct.pack(
            "<4sIHHIIHH", b"fmt ", 16, 1, self.channels, self.rate_hz, self.rate_hz * self.frame_bytes, self.frame_bytes, 16
        )  # fmt: skip
        os.pwrite(self._fd, start + form + struct.pack("<4sI", b"data", _SIZE_LIMIT if is_long else data_bytes), 0)

    def _make_room(self, frames: int) -> None:
        too_long = frames * self.frame_bytes + PLAIN_HEADER_BYTES > _SIZE_LIMIT
        if too_long and self._header_bytes == PLAIN_HEADER_BYTES:
            self._move_behind_long_header()

    def _move_behind_long_header(self) -> None:
        beside = self.path.with_name(f"{self.path.name}.long")
        beside.unlink(missing_ok=True)  # of an attempt that was killed
        longer = WavFile(
            beside, _open_locked(beside, os.O_CREAT | os.O_EXCL), self.rate_hz, self.channels, is_long=True
        )
        try:
            for start, end in _written_parts(self._fd, PLAIN_HEADER_BYTES):
                _copy(self._fd, longer._fd, start, end, LONG_HEADER_BYTES - PLAIN_HEADER_BYTES)
            longer.extend(self.frames)
            beside.rename(self.path)
        except OSError:
            longer.close()
            beside.unlink()
            raise
        os.close(self._fd)
        self._fd, self._header_bytes = longer._fd, LONG_HEADER_BYTES


def _open_locked(path: Path, flags: int) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, _MODE)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(fd), path.stat()):  # or gone: somebody finished it before we had the lock
            raise BlockingIOError(errno.EWOULDBLOCK, "another process is at it", str(path))
        if flags:
            os.fchmod(fd, _MODE)  # whatever the umask
    except OSError:
        os.close(fd)
        raise
    return fd


def _written_parts(fd: int, start: int) -> list[tuple[int, int]]:
    """(start, end) of everything that is not a hole."""
    parts = []
    size = os.fstat(fd).st_size
    while start < size:
        try:
            start = os.lseek(fd, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break  # only a hole is left
            raise
        end = os.lseek(fd, start, os.SEEK_HOLE)
        parts.append((start, end))
        start = end
    return parts


def _copy(source: int, target: int, start: int, end: int, shift: int) -> None:
    while start < end:
        copied = os.copy_file_range(source, target, min(end - start, _COPY_BYTES), start, start + shift)
        if not copied:
            raise OSError(errno.EIO, "the file became shorter while it was copied")
        start += copied
