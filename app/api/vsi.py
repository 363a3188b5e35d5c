"""The event WebSocket /v1/vsi: events out, commands in (contract events.md, section 4).

Runs in: control.
Owns: its frames, its timers, the order of commands of one connection.

Rules
1. The subscription is active before the first frame is sent.
2. Three tasks a connection: one reads frames, one carries out commands in the order they came, one writes events and pings.
   A slow command delays nothing but the commands after it.
3. COMMANDS_WAITING commands wait at most; then no frame is read until one is done, and TCP tells the client.
4. What was received is carried out, also when the connection goes away meanwhile; only the replies are lost.

Not here: what commands do -> `operations.py`; buffers of events -> `app/events/bus.py`.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec
import re2
from falcon.asgi import Request, WebSocket

from app.api import websocket
from app.api.body import decode_json, shape_request
from app.api.errors import status_and_text
from app.api.operations import Operation, carry_out
from app.events.bus import AppFilter, Bus, Subscription
from app.metrics import Metrics
from shm.clock import monotonic_ns
from shm.errors import CallerError

PING_EVERY_S = 30.0
IDLE_LIMIT_S = 60.0
STALL_LIMIT_S = 5.0
COMMANDS_WAITING = 64

_encode = msgspec.json.Encoder().encode
_STOP: dict[str, Any] = {"type": "stop"}


class EventSocket:
    """The endpoint. `operations` are bound; those with a command can be called."""

    path = "/v1/vsi"

    def __init__(
        self,
        bus: Bus,
        operations: Iterable[Operation],
        metrics: Metrics,
        *,
        ping_every_s: float = PING_EVERY_S,
        idle_limit_s: float = IDLE_LIMIT_S,
        stall_limit_s: float = STALL_LIMIT_S,
    ) -> None:
        self._bus = bus
        self._commands = {operation.command: operation for operation in operations if operation.command}
        self._sent = metrics.event_sockets_sent
        self._ping_every_s = ping_every_s
        self._idle_limit_s = idle_limit_s
        self._stall_limit_s = stall_limit_s
        self._leftovers: set[asyncio.Task[None]] = set()

    def check(self, req: Request, _parameters: dict[str, str]) -> AppFilter | None:
        """The filter on app ids. Raises CallerError 400."""
        pattern = req.get_param("app_id")
        if not pattern:
            return None
        options = re2.Options()
        options.log_errors = False
        try:
            expression = re2.compile(pattern, options)
        except re2.error as error:
            raise CallerError(f"app_id is not a regular expression: {_text_of(error)}") from None
        return lambda app_id: expression.search(app_id) is not None

    async def serve(self, req: Request, ws: WebSocket, checked: AppFilter | None) -> None:
        subscription = self._bus.subscribe(checked)
        try:
            wire = _Wire(ws, req.scope[websocket.SCOPE_KEY], self._stall_limit_s)
            await self._converse(wire, subscription)
        finally:
            self._bus.unsubscribe(subscription)

    async def _converse(self, wire: "_Wire", subscription: Subscription) -> None:
        await wire.accept()
        if not await wire.send({"type": "connected"}):
            return
        waiting: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        places = asyncio.Semaphore(COMMANDS_WAITING)
        reader = asyncio.ensure_future(_read(wire, waiting, places))
        writer = asyncio.ensure_future(self._write(wire, subscription))
        worker = asyncio.ensure_future(self._work(wire, waiting, places))
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
            if reader.done() and not wire.is_gone:  # the client said stop: first what it had asked before
                await asyncio.wait((worker, writer), return_when=asyncio.FIRST_COMPLETED)
            await wire.close()
            await asyncio.wait((reader,), timeout=self._stall_limit_s)  # frames that came before the end
        finally:
            wire.is_gone = True
            writer.cancel()
            for task in (reader, worker):  # rule 4
                self._leftovers.add(task)
                task.add_done_callback(self._leftovers.discard)

    async def _write(self, wire: "_Wire", subscription: Subscription) -> None:
        """Events and pings until the connection is lost or idle."""
        pings = 0
        next_ping_ns = monotonic_ns() + round(self._ping_every_s * 1e9)
        idle_limit_ns = round(self._idle_limit_s * 1e9)
        while not wire.is_gone:
            event = subscription.take()
            if event is not None:
                self._sent.inc()
                await wire.send_text(event)
            now_ns = monotonic_ns()
            if now_ns >= next_ping_ns:
                pings += 1
                next_ping_ns += round(self._ping_every_s * 1e9)
                await wire.send({"type": "ping", "event_id": pings, "seq": pings})
            if now_ns - wire.heard_ns >= idle_limit_ns:
                return
            if event is None:
                due_ns = min(next_ping_ns, wire.heard_ns + idle_limit_ns)
                try:
                    async with asyncio.timeout(max(0, due_ns - now_ns) / 1e9):
                        await subscription.wait()
                except TimeoutError:
                    continue

    async def _work(self, wire: "_Wire", waiting: asyncio.Queue[dict[str, Any]], places: asyncio.Semaphore) -> None:
        """Commands, one after the other, until `stop`."""
        while (message := await waiting.get()) is not _STOP:
            await wire.send(await self._answer(message))
            places.release()

    async def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        command = message.get("type", "")
        reply: dict[str, Any] = {"type": f"{command}.result"}
        if message.get("request_id"):
            reply["request_id"] = message["request_id"]
        try:
            reply["data"] = await self._carry_out(command, message.get("payload"))
        except Exception as error:  # noqa: BLE001 - the frame of one call, as Falcon's error handler is for REST
            status, text = status_and_text(error)
            reply["type"] = "error"
            reply["data"] = {"code": status, "message": text}
        return reply

    async def _carry_out(self, command: str, payload: Any) -> Any:
        operation = self._commands.get(command)
        if operation is None:
            raise CallerError(f"unknown command: {command}")
        if operation.handler is None:
            raise CallerError("not implemented", 501)
        parameters, request, repeated = _arguments(operation, {} if payload is None else payload)
        data = await carry_out(operation, parameters, request)
        if isinstance(data, list):
            return data
        return {**(data or {}), **repeated}


def _arguments(operation: Operation, payload: Any) -> tuple[dict[str, str], msgspec.Struct | None, dict[str, Any]]:
    """Path parameters, request and what the reply repeats. Raises CallerError 400."""
    if not isinstance(payload, dict):
        raise CallerError("invalid payload: expected an object")
    parameters = {}
    body = dict(payload)
    for index, name in enumerate(operation.parameters):
        given_name = operation.payload_id if index == 0 else name
        value = body.pop(given_name, None)
        if not isinstance(value, str) or not value:
            raise CallerError(f"invalid payload: {given_name} is required")
        parameters[name] = value
    request = None
    if operation.request is not None:
        try:
            request = shape_request(body, operation.request)
        except CallerError as error:
            raise CallerError(f"invalid payload: {error}", error.status) from None
    known = {**body, **parameters}
    return parameters, request, {name: known[name] for name in operation.vsi_echo if name in known}


async def _read(wire: "_Wire", waiting: asyncio.Queue[dict[str, Any]], places: asyncio.Semaphore) -> None:
    """Frames until `stop` or the end of the connection, either of which ends the worker after the commands before it."""
    while (text := await wire.receive()) is not None:
        try:
            message = decode_json(text)
        except ValueError:
            message = None
        if not _is_command(message):
            await wire.send({"type": "error", "data": {"message": "invalid JSON"}})
        elif message.get("type") == "stop":
            break
        elif message.get("type") != "pong":
            await places.acquire()
            waiting.put_nowait(message)
    waiting.put_nowait(_STOP)


def _is_command(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and isinstance(message.get("type", ""), str)
        and isinstance(message.get("request_id") or "", str)
    )


class _Wire:
    """One accepted WebSocket. Sending tells whether it worked and never raises for what the peer did."""

    def __init__(self, ws: WebSocket, connection: websocket.Connection, stall_limit_s: float) -> None:
        self._ws = ws
        self._stall_limit_s = stall_limit_s
        self._connection = connection
        self.is_gone = False

    async def accept(self) -> None:
        await self._ws.accept()

    @property
    def heard_ns(self) -> int:
        """When the last frame of any kind came."""
        return self._connection.heard_ns

    async def receive(self) -> str | None:
        """The next text frame, None at the end."""
        text = await self._connection.receive_text()
        if text is None:
            self.is_gone = True
        return text

    async def send(self, frame: dict[str, Any]) -> bool:
        return await self.send_text(_encode(frame).decode())

    async def send_text(self, text: str) -> bool:
        if self.is_gone:
            return False
        try:
            async with asyncio.timeout(self._stall_limit_s):
                await self._ws.send_text(text)
        except TimeoutError:
            self.is_gone = True
            self._connection.abort()
        except OSError:  # falcon.WebSocketDisconnected is one
            self.is_gone = True
        return not self.is_gone

    async def close(self) -> None:
        if not self.is_gone and not self._ws.closed:
            await self._ws.close()


def _text_of(error: Exception) -> str:
    text = error.args[0] if error.args else ""
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)
