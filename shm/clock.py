"""Time in ticks: the same number in every process.

Runs in: every process.
Owns: the length of a tick, the four phases and when a phase mixes (design.md, section 3).

Rules
1. Tick T = CLOCK_MONOTONIC ns // 20 000 000. No process keeps a clock of its own.
2. A room of phase p mixes tick T at T*20 ms + p*5 ms + 2 ms. An I/O process wakes at every multiple of 5 ms.
3. Sleeping is to absolute deadlines: a late wake-up never shifts the next one.
"""

import ctypes
import time

TICK_NS = 20_000_000
TICKS_PER_SECOND = 50
PHASES = 4
PHASE_NS = TICK_NS // PHASES
MIX_OFFSET_NS = 2_000_000

monotonic_ns = time.monotonic_ns


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


_CLOCK_MONOTONIC = 1
_TIMER_ABSTIME = 1
_clock_nanosleep = ctypes.CDLL(None).clock_nanosleep
_deadline = _Timespec()
_deadline_ref = ctypes.byref(_deadline)


def tick_now() -> int:
    """The tick that the present moment lies in."""
    return monotonic_ns() // TICK_NS


def mix_time_ns(tick: int, phase: int) -> int:
    """CLOCK_MONOTONIC instant at which rooms of `phase` mix `tick`."""
    return tick * TICK_NS + phase * PHASE_NS + MIX_OFFSET_NS


def sleep_until_ns(deadline_ns: int) -> None:
    """Sleep to an absolute CLOCK_MONOTONIC instant; returns at once if it has passed. Not for asyncio processes."""
    _deadline.seconds, _deadline.nanoseconds = divmod(deadline_ns, 1_000_000_000)
    while _clock_nanosleep(_CLOCK_MONOTONIC, _TIMER_ABSTIME, _deadline_ref, None):
        pass  # interrupted by a signal: the deadline is absolute, so just sleep again


class _PollFd(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


_POLLIN = 1
_ppoll = ctypes.CDLL(None).ppoll
_poll_fd = _PollFd(0, _POLLIN, 0)
_poll_fd_ref = ctypes.byref(_poll_fd)


def wait_until_ns(deadline_ns: int, fd: int) -> bool:
    """Sleep to an absolute CLOCK_MONOTONIC instant or until `fd` is readable; True = readable, False = the instant has come.

    poll() counts in whole milliseconds, too coarse for a mix: hence ppoll.
    """
    remaining = deadline_ns - monotonic_ns()
    if remaining <= 0:
        return False
    _deadline.seconds, _deadline.nanoseconds = divmod(remaining, 1_000_000_000)
    _poll_fd.fd = fd
    return bool(_ppoll(_poll_fd_ref, 1, _deadline_ref, None) > 0)
