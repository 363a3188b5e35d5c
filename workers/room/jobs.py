"""A thread beside the tick loop, for what touches files.

Runs in: a room worker that has recorded something; started by the first job.
Owns: the order of its jobs, and how it shares processor and interpreter with the tick.

Rules
1. Jobs run one by one in the order they were given. What they find out they append to a deque of their giver.
2. The thread keeps the real-time class of the tick, at the lowest priority: were it an ordinary thread, any busy process could
   push it aside while it holds the interpreter, and the tick would wait for both.
3. The queue has no bound of its own: its givers bound what they put (taps.py by bytes, commands by their number).
"""

import os
import sys
import threading
import traceback
from collections.abc import Callable
from queue import SimpleQueue

from shm.errors import WireError

Job = Callable[[], None]
_SWITCH_INTERVAL_S = 0.0002  # how long the tick may have to wait for an interpreter in use


class JobThread:
    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._failure = ""

    def put(self, job: Job) -> None:
        self._jobs.put(job)
        if self._thread is None:
            sys.setswitchinterval(_SWITCH_INTERVAL_S)
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def check(self) -> None:
        """Raises WireError once a job has failed in a way it did not foresee."""
        if self._failure:
            raise WireError(self._failure)

    def end(self, timeout_s: float) -> None:
        """Do all jobs, then end; a later job starts anew."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join(timeout_s)
            self._thread = None

    def _run(self) -> None:
        if os.sched_getscheduler(0) == os.SCHED_FIFO:
            os.sched_setparam(0, os.sched_param(1))
        try:
            while (job := self._jobs.get()) is not None:
                job()
        except Exception:  # noqa: BLE001 - the outermost frame of the thread; the tick thread raises it again
            self._failure = traceback.format_exc()
