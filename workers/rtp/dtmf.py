"""Digits as telephone-events (RFC 4733), in and out.

Runs in: rtp. Pure: one reader and one sender a leg, used only while digits travel.
Owns: the event payload and the timing of contract media.md section 7.4.

     0                   1                   2                   3
    +---------------+-+-+-----------+-------------------------------+
    |     event     |E|R|  volume   |          duration             |
    +---------------+-+-+-----------+-------------------------------+

Rules
1. In: a digit counts once, at the first end packet of its timestamp, or when another event starts and every end was lost.
2. Out: 4 packets of growing duration, 3 end packets of the last duration, one a tick; then at least 60 ms of audio.
3. At most QUEUE_LIMIT digits wait; more are refused as a whole.
"""

import struct
from collections import deque

DIGITS = "0123456789*#ABCD"
QUEUE_LIMIT = 256
_END, _VOLUME = 0x80, 10
_GROWING, _ENDING, _PAUSE = 4, 3, 3  # ticks


class DigitReader:
    """`reported` is the timestamp of the event told last (None: none yet); a successor begins with it."""

    def __init__(self, reported: int | None = None) -> None:
        self.reported = reported
        self._open: tuple[int, str] | None = None  # timestamp and digit of an event whose end has not come

    def read(self, timestamp: int, payload: bytes) -> str:
        """One event packet → the digits (0 to 2) that it completes."""
        if len(payload) < 4 or payload[0] >= len(DIGITS):
            return ""
        completed = ""
        if self._open is not None and self._is_newer(timestamp, self._open[0]):
            completed = self._report(*self._open)
        if self.reported is not None and not self._is_newer(timestamp, self.reported):
            return completed
        self._open = timestamp, DIGITS[payload[0]]
        if payload[1] & _END:
            completed += self._report(*self._open)
        return completed

    def _report(self, timestamp: int, digit: str) -> str:
        self.reported, self._open = timestamp, None
        return digit

    @staticmethod
    def _is_newer(timestamp: int, other: int) -> bool:
        return 0 < (timestamp - other) & 0xFFFFFFFF < 0x80000000

    def forget(self) -> None:
        """Another SSRC: its timestamps have nothing to do with those before."""
        self.reported = self._open = None


class DigitSender:
    def __init__(self) -> None:
        self._waiting: deque[str] = deque()
        self._step = 0
        self._timestamp = 0

    def queue(self, digits: str) -> bool:
        """False where they do not all fit or are no digits: then none is queued."""
        digits = digits.upper()
        if len(self._waiting) + len(digits) > QUEUE_LIMIT or not set(digits) <= set(DIGITS):
            return False
        self._waiting.extend(digits)
        return True

    @property
    def is_idle(self) -> bool:
        return not self._waiting

    @property
    def is_audible(self) -> bool:
        """Whether the next tick carries audio: between two digits it does."""
        return self._step >= _GROWING + _ENDING

    def next(self, timestamp: int, unit: int) -> tuple[int, bytes, bool] | None:
        """The event packet of this tick: (timestamp, payload, marker); None where the tick carries audio.

        `timestamp` is what an audio packet of this tick would carry, `unit` 20 ms in the event's clock.
        """
        step = self._step
        if step >= _GROWING + _ENDING:
            self._step = step + 1
            if self._step == _GROWING + _ENDING + _PAUSE:
                self._waiting.popleft()
                self._step = 0
            return None
        if step == 0:
            self._timestamp = timestamp
        is_end = step >= _GROWING
        duration = min(step + 1, _GROWING) * unit
        self._step = step + 1
        event = DIGITS.index(self._waiting[0])
        return self._timestamp, struct.pack("!BBH", event, (_END if is_end else 0) | _VOLUME, duration), step == 0
