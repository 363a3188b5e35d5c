"""The gunicorn worker that control lives in: gunicorn's native ASGI worker with control's own way of ending.

Runs in: control.
Owns: what SIGTERM, SIGINT and SIGQUIT mean to it.

Rules
1. gunicorn would first wait for open connections (an event WebSocket never ends) and only then tell the application. Here the
   application ends first: it hangs up all calls if the master is stopping, and just leaves otherwise.
"""

import asyncio
import os

from gunicorn.workers.gasgi import ASGIWorker

import app.main


class ControlWorker(ASGIWorker):  # type: ignore[misc]  # gunicorn has no types
    _serving: asyncio.Task[None] | None = None
    _ending: asyncio.Task[None] | None = None

    async def _serve(self) -> None:
        self._serving = asyncio.current_task()
        await super()._serve()

    def handle_exit_signal(self) -> None:
        if self._ending is None:
            self._ending = self.loop.create_task(self._end())

    handle_quit_signal = handle_exit_signal

    async def _end(self) -> None:
        await app.main.end()
        self.alive = False
        self._quick_shutdown = True  # nothing is left to wait for
        if self._serving is not None:
            self._serving.cancel()

    def _cleanup(self) -> None:
        super()._cleanup()
        os._exit(0)  # threads of libraries must not hold up the end
