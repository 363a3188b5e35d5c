"""Logs: one JSON object a line on stdout.

Runs in: the master and control; workers send their lines to control (`LogLine`).
Owns: the shape of a line, the level, and what happens when nobody reads stdout.

Rules
1. Writing never blocks: bytes go out only while `poll` says that the descriptor takes them, at most PIPE_BUF at a time (a pipe
   that polls writable takes that much whole). No O_NONBLOCK: the descriptor may be shared with a shell. No thread: the
   master forks.
2. What does not go out waits in a queue of QUEUE_LIMIT lines; beyond it new lines are dropped, counted, and the count is the next
   line written.
3. No secrets; digits and transcripts at debug level only (contract README.md, section 4).
"""

import logging
import os
import select
import sys
from collections import deque
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

QUEUE_LIMIT = 2000
_PIPE_BUF_BYTES = select.PIPE_BUF
_LEVELS = {"debug": 10, "info": 20, "warn": 30, "warning": 30, "error": 40}
_encoder = msgspec.json.Encoder(enc_hook=repr)

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


class Outlet:
    """Non-blocking lines to one descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._waiting: deque[bytes] = deque()
        self._rest = b""  # of a line begun
        self.dropped = 0  # since the last note
        self.dropped_total = 0

    def write(self, line: bytes) -> None:
        """Queue one line (without newline) and write what can be written."""
        if len(self._waiting) >= QUEUE_LIMIT:
            self.dropped += 1
            self.dropped_total += 1
        else:
            if self.dropped:
                note = {"timestamp": _now(), "level": "warning", "event": "log_lines_dropped", "count": self.dropped}
                self._waiting.append(_encoder.encode(note) + b"\n")
                self.dropped = 0
            self._waiting.append(line + b"\n")
        self.flush()

    def flush(self) -> None:
        """Write what the descriptor takes now; for control's housekeeping, too."""
        while self._rest or self._waiting:
            ready = self._poll.poll(0)
            if not ready or not ready[0][1] & select.POLLOUT:
                return
            chunk = self._rest or self._waiting.popleft()
            try:
                written = os.write(self._descriptor, chunk[:_PIPE_BUF_BYTES])
            except BlockingIOError:  # somebody else made it non-blocking and filled it
                self._rest = chunk
                return
            except OSError:  # the reader is gone; there is nobody to tell
                self._waiting.clear()
                self._rest = b""
                return
            self._rest = chunk[written:]


outlet = Outlet(sys.__stdout__.fileno() if sys.__stdout__ else 1)


def write_line(level: str, event: str, fields: dict[str, Any]) -> None:
    """One line as it stands; for the lines that workers send."""
    outlet.write(_encoder.encode({"timestamp": _now(), "level": level, "event": event, **fields}))


class _Writer:
    """Where structlog's processors end."""

    def msg(self, line: bytes) -> None:
        outlet.write(line)

    debug = info = warning = error = critical = exception = msg


def _render(_logger: Any, level: str, fields: structlog.typing.EventDict) -> bytes:
    event = fields.pop("event", "")
    return _encoder.encode({"timestamp": _now(), "level": level, "event": event, **fields})


class StandardHandler(logging.Handler):
    """For what logs through the standard library: gunicorn, aiohttp, asyncio."""

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, Any] = {"logger": record.name}
        if record.exc_info:
            fields["exception"] = logging.Formatter().formatException(record.exc_info)
        write_line(record.levelname.lower(), record.getMessage(), fields)


# For gunicorn's `logconfig_dict`: its own lines from warning on, as ours; no access log.
GUNICORN_LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"json": {"class": "app.logs.StandardHandler"}},
    "root": {"level": "WARNING", "handlers": ["json"]},
    "loggers": {
        "gunicorn.error": {"level": "WARNING", "handlers": ["json"], "propagate": False},
        "gunicorn.access": {"level": "CRITICAL", "handlers": ["json"], "propagate": False},
    },
}


def configure_logs(level: str) -> None:
    """`level` as in LOG_LEVEL; unknown = info."""
    threshold = _LEVELS.get(level.lower(), 20)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_names: _Writer(),
    )
    standard = logging.getLogger()
    standard.handlers[:] = [StandardHandler()]
    standard.setLevel(max(threshold, logging.WARNING))
