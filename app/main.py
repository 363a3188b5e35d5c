"""Where control is put together, and how it lives: made by the master, started by gunicorn's lifespan, ended by signal.

Runs in: the master (`prepare`, `tidy_up`), control (everything else).
Owns: the one object graph of control; nothing here decides anything about calls.

Rules
1. What is shared by all processes is made once, by the master, and found here after the fork.
2. The ledger belongs to one server: an earlier server's facts on the same STATE_DIR are forgotten at the start, a successor
   control process of the same server goes on with them.
3. When the master is gone or stopping, all calls are hung up; otherwise control just leaves and its successor goes on.

Not here: which processes exist -> `supervisor`; what a leg or a room is -> `legs`, `rooms`; HTTP -> `api`.
"""

import asyncio
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from app.config import Config, ConfigError
from app.ledger import Ledger
from app.listeners import SipSockets
from app.logs import configure_logs
from shm.instance import Instance, create_instance, short_name

if TYPE_CHECKING:
    from app.api.application import Api
    from app.control import Control

MASTERLESS_END_S = 3.5
STOP_NOTICE_S = 0.5  # a group-wide SIGTERM may reach control before the master has read its own
END_LIMIT_S = 7.0

log = structlog.get_logger("main")


class _Process:
    """What this process is made of; `control` only in control."""

    config: Config
    instance: Instance
    control: "Control | None" = None
    private_state_dir = False


_process = _Process()


# ---------------------------------------------------------------------------------------------- the master


def prepare(config: Config, sip_sockets: SipSockets) -> None:
    """Make everything shared, before any fork. Raises ConfigError, OSError, ResourceError."""
    configure_logs(config.log_level)
    _process.config = config
    _process.private_state_dir = not config.state_dir
    state_dir = config.state_dir or tempfile.mkdtemp(prefix=f"roomtone-{short_name(config.instance_id)}-")
    _check_state_dir(Path(state_dir))
    _process.instance = create_instance(
        config.instance_id, rows=config.max_legs, state_dir=state_dir, sip_sockets=sip_sockets
    )
    ledger = Ledger(ledger_path())
    ledger.clear()
    ledger.close()


def _check_state_dir(folder: Path) -> None:
    """SQLite needs to make files in it, beside its own."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(f"STATE_DIR: {folder} cannot be used: {error.strerror}") from None


def instance() -> Instance:
    return _process.instance


def ledger_path() -> str:
    return str(Path(_process.instance.state_dir) / f"ledger-{short_name(_process.config.instance_id)}.sqlite")


def tidy_up() -> None:
    """After the last process but the master has gone."""
    if _process.private_state_dir:
        shutil.rmtree(_process.instance.state_dir, ignore_errors=True)


# ---------------------------------------------------------------------------------------------- control


async def start() -> "Api":
    from app.control import Control  # noqa: PLC0415 - the master imports it after it has forked the zygote: smaller forks

    _process.instance.drop_master_ends()
    for warning in _process.config.warnings:
        log.warning(warning)
    control = Control(_process.config, _process.instance, Ledger(ledger_path()))
    _process.control = control
    asyncio.get_running_loop().add_reader(_process.instance.lifeline_fd, _on_lifeline)
    await control.start()
    log.info("ready", instance_id=_process.config.instance_id)
    return control.api


async def end() -> None:
    """Leave; with all calls, if the server is stopping. Takes 7 s at most."""
    control = _process.control
    if control is None:
        return
    _process.control = None
    deadline = asyncio.get_running_loop().time() + STOP_NOTICE_S
    while not _process.instance.is_stopping and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - the flag
        await asyncio.sleep(0.02)  # lies in shared memory and cannot wake anybody
    try:
        async with asyncio.timeout(END_LIMIT_S):
            await control.end(hang_up=_process.instance.is_stopping)
    except TimeoutError:
        log.warning("the end took too long")


def _on_lifeline() -> None:
    """The master was killed: nothing may be left of the server."""
    loop = asyncio.get_running_loop()
    loop.remove_reader(_process.instance.lifeline_fd)
    _process.instance.mark_stopping()
    task = loop.create_task(_end_without_master())
    task.add_done_callback(lambda _: os._exit(1))


async def _end_without_master() -> None:
    try:
        async with asyncio.timeout(MASTERLESS_END_S):
            await end()
    finally:
        tidy_up()


class Asgi:
    """gunicorn's view of control: lifespan here, everything else to the API."""

    def __init__(self) -> None:
        self._api: Api | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            assert self._api is not None, "gunicorn serves only after lifespan.startup.complete"
            await self._api(scope, receive, send)

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        try:
            self._api = await start()
        except Exception as error:  # the outermost frame of control's start
            log.exception("start failed")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await end()
        await send({"type": "lifespan.shutdown.complete"})


asgi = Asgi()
