"""gunicorn's configuration, and with it the master process: what must exist before anything is forked.

Runs in: the master (`roomtone: master`).
Owns: the listening SIP sockets, the banks, the lifeline, the zygote's life.

Rules
1. Everything shared is made in `on_starting`; whatever is wrong with configuration or ports ends the start with one line.
2. The zygote is forked in `when_ready` and again whenever it dies (gunicorn knows no child that is not a worker: hence the
   wrapped `reap_workers`). It never returns into gunicorn.
3. One control process at a time: signals that would make a second one are ignored.
"""

import ctypes
import gc
import os
import resource
import select
import signal
import sys
import time
from typing import Any

from gunicorn import util
from setproctitle import setproctitle

import app.main
from app.config import Config, ConfigError
from app.listeners import bind_sip, check_http
from app.logs import GUNICORN_LOGGING
from shm.errors import ResourceError
from workers.zygote import become_zygote

PR_SET_CHILD_SUBREAPER = 36
ZYGOTE_LEAVE_S = 2.0

try:
    _config = Config.from_environment(os.environ)
except ConfigError as error:
    sys.exit(f"roomtone: {error}")

_http = _config.http_addr
bind = [f"[{_http.host}]:{_http.port}" if ":" in _http.host else f"{_http.host}:{_http.port}"]
workers = 1
worker_class = "app.gunicorn_worker.ControlWorker"
wsgi_app = "app.main:asgi"
asgi_loop = "uvloop"
asgi_lifespan = "on"
control_socket_disable = True
proc_name = "roomtone"
graceful_timeout = 8
max_requests = 0
timeout = 30
keepalive = 75
worker_connections = 10000
websocket_max_message_size = 1024 * 1024
limit_request_line = 16 * 1024  # a room's id may have 1024 characters of four bytes, percent-encoded
logconfig_dict = GUNICORN_LOGGING

util._setproctitle = lambda title: setproctitle(  # noqa: SLF001 - gunicorn offers no other way to name its processes
    "roomtone: master" if title.startswith("master") else "roomtone: control"
)

_zygote_pid = 0
_zygote_pid_fd = -1


def on_starting(_server: Any) -> None:
    """Make everything that is shared, or end with one line."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans of a dead zygote are reaped here
    try:
        check_http(*_http)
        app.main.prepare(_config, bind_sip(_config))
    except (ConfigError, ResourceError, OSError) as error:
        sys.exit(f"roomtone: {error}")


def when_ready(server: Any) -> None:
    for number in (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2):
        signal.signal(number, lambda received, _frame: server.log.warning("signal %s is ignored", received))
    reap_workers, stop = server.reap_workers, server.stop

    def reap_and_renew() -> None:
        reap_workers()
        if not app.main.instance().is_stopping and _is_gone(_zygote_pid_fd):
            server.log.warning("the zygote died and is forked anew")
            _fork_zygote(server)

    def stop_for_good(graceful: bool = True) -> None:
        app.main.instance().mark_stopping()
        stop(graceful)

    server.reap_workers, server.stop = reap_and_renew, stop_for_good
    _fork_zygote(server)
    import app.control  # noqa: PLC0415 - here, so that the zygote's forks are small and control's start is quick

    gc.collect()
    gc.freeze()
    if os.environ.get("ROOMTONE_BANNER"):
        _print_banner()


def _print_banner() -> None:
    """For whoever started it by hand: where it listens, and something to type."""
    host = _http.host if _http.host not in {"", "0.0.0.0", "::"} else "127.0.0.1"
    base = f"http://[{host}]:{_http.port}" if ":" in host else f"http://{host}:{_http.port}"
    sip = ", ".join(
        f"{transport} {' port '.join(str(part) for part in listener.getsockname()[:2])}"
        for transport, listener in app.main.instance().sip_sockets
    )
    body = '{"id":"lobby"}'
    sys.stderr.write(f"HTTP: {base}/v1\nSIP: {sip}\nMake a room: curl -s -X POST {base}/v1/rooms -d '{body}'\n")


def on_exit(_server: Any) -> None:
    """Control is gone; see the zygote out and tidy up."""
    instance = app.main.instance()
    instance.drop_master_ends()  # the lifeline ends here
    deadline = time.monotonic() + ZYGOTE_LEAVE_S
    while not _is_gone(_zygote_pid_fd) and time.monotonic() < deadline:
        _is_gone(_zygote_pid_fd, wait_ms=50)
    if not _is_gone(_zygote_pid_fd):
        os.kill(_zygote_pid, signal.SIGKILL)
    app.main.tidy_up()


def _fork_zygote(server: Any) -> None:
    global _zygote_pid, _zygote_pid_fd
    pid = os.fork()
    if pid == 0:
        for listener in server.LISTENERS:
            listener.sock.close()
        for worker in server.WORKERS.values():  # a later zygote would give these to all its forks
            worker.tmp.close()
        if _zygote_pid_fd >= 0:
            os.close(_zygote_pid_fd)
        become_zygote(app.main.instance())
    if _zygote_pid_fd >= 0:
        os.close(_zygote_pid_fd)
    _zygote_pid, _zygote_pid_fd = pid, os.pidfd_open(pid)


def _is_gone(pid_fd: int, wait_ms: int = 0) -> bool:
    poll = select.poll()
    poll.register(pid_fd, select.POLLIN)
    return bool(poll.poll(wait_ms))
