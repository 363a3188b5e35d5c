"""The frame around every worker process: what happens between the fork and its own `run`.

Runs in: the freshly forked child of the zygote.
Owns: the title, signal dispositions, scheduling, and the outermost catch of a worker.

Rules
1. Workers ignore SIGINT and SIGTERM: service managers and Ctrl-C signal the whole group, but the order of leaving is
   control's business. They leave by `Leave`, by a closed channel, or when the lifeline ends.
2. An exception that gets here is a fault of ours: it is told to control as a log line, and the process ends.
"""

import contextlib
import os
import signal
import socket
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from setproctitle import setproctitle

from shm.channel import Channel, ChannelClosed
from shm.clock import monotonic_ns
from shm.instance import Instance
from shm.messages import LogLine

REAL_TIME_PRIORITY = 10

Run = Callable[[Instance, Channel[Any], bytes], None]


def become_worker(  # noqa: PLR0917 - the one place where a fork turns into a worker
    name: str, run: Run, incoming: Any, instance: Instance, end: socket.socket, start: bytes
) -> NoReturn:
    """Never returns. `incoming` is the union of messages control sends to this kind."""
    status = 1
    channel: Channel[Any] = Channel(end, incoming)
    try:
        setproctitle(f"roomtone: {name}")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        run(instance, channel, start)
        status = 0
    except ChannelClosed:
        status = 0  # nobody is left who could command us
    except Exception:  # the outermost frame of the process  # noqa: BLE001
        with contextlib.suppress(ChannelClosed):
            channel.send(
                LogLine(level="error", event="worker failed", fields={"worker": name, "trace": traceback.format_exc()})
            )
    finally:
        os._exit(status)


def run_in_real_time() -> bool:
    """SCHED_FIFO for tick loops where the host allows it; True when it took."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(REAL_TIME_PRIORITY))
    except PermissionError:
        return False
    return True


class Lifeline:
    """For processes that run their own tick loop: asks now and then whether the master lives."""

    ASK_EVERY_NS = 250_000_000
    GRACE_NS = 4_000_000_000  # within it control hangs up all calls and tells everybody to leave

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._ask_at_ns = 0
        self._gone_at_ns = 0

    def is_overdue(self) -> bool:
        """True when the master has been gone for so long that this process leaves without being told."""
        now_ns = monotonic_ns()
        if now_ns < self._ask_at_ns:
            return False
        self._ask_at_ns = now_ns + self.ASK_EVERY_NS
        if not self._gone_at_ns and self._instance.master_is_gone():
            self._gone_at_ns = now_ns
        return bool(self._gone_at_ns) and now_ns - self._gone_at_ns > self.GRACE_NS
