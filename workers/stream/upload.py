"""Recordings on their way into object storage, through failures and deaths.

Runs in: stream.
Owns: the spool folder in RECORDING_DIR: one file for each order under way, locked by the process that works on it.

    .uploads/<upload id>   the order (JSON), mode 0600: it may hold the caller's keys, which must outlive a restart

Rules
1. An order is on disk before it is confirmed, and leaves the disk after its last `Uploaded`. A successor goes on with what it
   finds unlocked; objects are put twice rather than never.
2. The first attempt is told of within FIRST_S: done, failed, or still going on; then `is_final` is False and up to three more
   follow, PAUSES_S apart. Each file is attempted by itself; a failed one stays and is given out by its path.
3. A file is removed once it is stored. UPLOADS_LIMIT threads work at once; what is beyond waits.

Not here: S3 → `storage.py`; settings and where the caller's endpoint may lead → control and `shm/reach.py`.
"""

import asyncio
import fcntl
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from shm import messages as wire
from shm.reach import Reach
from workers.stream.storage import Bucket, StorageError, is_there, put

SPOOL = ".uploads"
FIRST_S = 10.0
PAUSES_S = (20.0, 80.0, 200.0)  # three in five minutes
UPLOADS_LIMIT = 4

Post = Callable[[wire.Event], None]
Log = Callable[..., None]


class _Order:
    """One upload: its command, its place in the spool, what became of its files."""

    def __init__(self, command: wire.UploadRecording, spool_fd: int) -> None:
        self.command = command
        self.spool_fd = spool_fd
        self.bucket = Bucket(
            command.bucket, command.region, command.endpoint, command.prefix, command.access_key, command.secret_key
        )
        self.stored: set[str] = set()
        self.error = ""

    def attempt(self, reach: Reach) -> None:
        """In a thread: every file that is not stored yet."""
        self.error = ""
        for path in self.command.paths:
            if path in self.stored:
                continue
            try:
                put(self.bucket, path, reach)
            except FileNotFoundError:
                # A predecessor may have died between storing it and saying so.
                if not is_there(self.bucket, path, reach):
                    self.error = self.error or "the file is gone"
                    continue
            except (StorageError, OSError) as fault:
                self.error = self.error or str(fault)
                continue
            self.stored.add(path)
            Path(path).unlink(missing_ok=True)

    def outcome(self, *, is_final: bool, error: str | None = None) -> wire.Uploaded:
        command = self.command
        return wire.Uploaded(
            upload_id=command.upload_id,
            locations=tuple(self.bucket.location(path) if path in self.stored else path for path in command.paths),
            error=self.error if error is None else error,
            is_final=is_final,
        )


class Uploads:
    """`resume` once, before the first order."""

    def __init__(
        self, recording_dir: str, reach: Reach, post: Post, log: Log, pauses_s: tuple[float, ...] = PAUSES_S
    ) -> None:
        self._spool = Path(recording_dir) / SPOOL
        self._reach = reach
        self._post = post
        self._log = log
        self._pauses_s = pauses_s
        self._threads = ThreadPoolExecutor(UPLOADS_LIMIT, "upload")
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def ids(self) -> list[str]:
        return list(self._tasks)

    async def resume(self) -> None:
        """Go on with what nobody works on."""
        for order in await asyncio.to_thread(self._found):
            self._log("info", "upload resumed", upload_id=order.command.upload_id)
            self._begin(order)

    async def start(self, command: wire.UploadRecording) -> None:
        """Returns once the order is safe on disk. Raises OSError when it cannot be."""
        if command.upload_id not in self._tasks:
            order = await asyncio.to_thread(self._spooled, command)
            self._begin(order)

    def close(self) -> None:
        """What is not done is the successor's."""
        for task in self._tasks.values():
            task.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self, order: _Order) -> None:
        upload_id = order.command.upload_id
        task = self._tasks[upload_id] = asyncio.create_task(self._work(order))
        task.add_done_callback(lambda _: self._tasks.pop(upload_id))

    async def _work(self, order: _Order) -> None:
        loop = asyncio.get_running_loop()
        is_told = False
        try:
            for pause_s in (*self._pauses_s, None):
                attempt = loop.run_in_executor(self._threads, order.attempt, self._reach)
                if not is_told:
                    done, _ = await asyncio.wait({attempt}, timeout=FIRST_S)
                    if not done:
                        is_told = True
                        self._post(order.outcome(is_final=False, error=f"not complete after {FIRST_S:g} s"))
                await attempt
                if not order.error or pause_s is None:
                    break
                if not is_told:
                    is_told = True
                    self._post(order.outcome(is_final=False))
                self._log("warning", "upload failed", upload_id=order.command.upload_id, error=order.error)
                await asyncio.sleep(pause_s)
            self._post(order.outcome(is_final=True))
            await asyncio.to_thread((self._spool / order.command.upload_id).unlink, missing_ok=True)
        finally:
            os.close(order.spool_fd)  # and so unlocked

    # ------------------------------------------------------------------------------------------ the spool, in threads

    def _spooled(self, command: wire.UploadRecording) -> _Order:
        self._spool.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._spool / command.upload_id
        if path.parent != self._spool:
            raise OSError(f"no name for a file: {command.upload_id}")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(descriptor, msgspec.json.encode(command))
            os.fsync(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        return _Order(command, descriptor)

    def _found(self) -> list[_Order]:
        orders: list[_Order] = []
        for path in sorted(self._spool.iterdir()) if self._spool.is_dir() else ():
            descriptor = -1
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                command = msgspec.json.decode(path.read_bytes(), type=wire.UploadRecording)
            except OSError:  # another process works on it, or it is not ours to read
                if descriptor >= 0:
                    os.close(descriptor)
            except msgspec.DecodeError:  # torn by a death while it was written, so never confirmed
                path.unlink(missing_ok=True)
                os.close(descriptor)
            else:
                orders.append(_Order(command, descriptor))
        return orders
