"""The Falcon application: routes made from the table of operations, errors made into replies.

Runs in: control.
Owns: how one HTTP request becomes one call of an operation, and what is on the wire of the reply.

Rules
1. Every reply but /metrics is JSON, errors and refused WebSocket handshakes too (contract README.md, section 2).
2. A body is read only where the operation has a request struct; what is larger than the limit is read off up to DISCARD_LIMIT
   before the 413, so that the caller gets to see it.

Not here: what operations do -> `app/rooms`, `app/legs`; the WebSockets -> `vsi.py`, `room_socket.py`.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable
from types import SimpleNamespace
from typing import Any, Protocol

import falcon
import msgspec
from falcon.asgi import App, Request, Response, WebSocket

from app.api import websocket
from app.api.body import BODY_LIMIT_BYTES, decode_body
from app.api.errors import Replies, status_and_text
from app.api.gate import CORS_HEADERS, Gate, Networks, decode_parameter
from app.api.operations import Operation, carry_out
from shm.errors import CallerError, ResourceError

DISCARD_LIMIT_BYTES = 16 * BODY_LIMIT_BYTES
BODY_WITHIN_S = 30.0  # a body that trickles holds up to a MiB
RETRY_AFTER_S = 5

Parameters = dict[str, str]  # of the path, by name
Responder = Callable[..., Awaitable[None]]
Api = App[Request, Response]


class Socket(Protocol):
    """A WebSocket endpoint. `check` refuses before the upgrade; `serve` accepts or gives the connection away, and returns when it
    is over for this process."""

    path: str

    def check(self, req: Request, parameters: Parameters) -> Any: ...  # what `serve` needs of both; raises CallerError

    async def serve(self, req: Request, ws: WebSocket, checked: Any) -> None: ...


def create_api(
    *,
    instance_id: str,
    operations: Iterable[Operation],
    sockets: Iterable[Socket],
    render_metrics: Callable[[], bytes],
    allowed: Networks = (),
    trusts_proxy: bool = False,
) -> Api:
    """The ASGI application of the control process. `operations` are bound (see `operations.bind`)."""
    replies = Replies(instance_id)
    websocket.install(replies.encode_error, CORS_HEADERS)
    app: Api = App(middleware=[Gate(allowed, trusts_proxy=trusts_proxy)])
    app.ws_options.max_receive_queue = 0  # gunicorn has a queue of its own, with back-pressure
    app.resp_options.default_media_type = "application/json"

    handle = _error_handler(replies)
    for kind in (Exception, falcon.HTTPError):
        app.add_error_handler(kind, handle)

    resources: dict[str, dict[str, Responder]] = defaultdict(dict)
    for operation in operations:
        responders = resources[operation.path]
        responders[f"on_{operation.method.lower()}"] = _responder(operation, replies)
        if operation.handler is None and operation.status == 101:
            responders["on_websocket"] = _not_implemented_socket
    for socket in sockets:
        resources[socket.path] |= _socket_responders(socket)
    resources["/metrics"] = {"on_get": _metrics_responder(render_metrics)}
    for path, responders in resources.items():
        app.add_route(path, SimpleNamespace(**responders))
    return app


def _responder(operation: Operation, replies: Replies) -> Responder:
    names = operation.parameters

    async def respond(req: Request, resp: Response, **parameters: str) -> None:
        if operation.handler is None:
            raise CallerError("not implemented", 501)
        request: msgspec.Struct | None = None
        if operation.request is not None:
            request = decode_body(await _read_body(req), operation.request)
        reply = await carry_out(operation, {name: decode_parameter(parameters[name]) for name in names}, request)
        resp.status = operation.status
        if reply is not None:
            resp.data = replies.encode(reply)

    return respond


async def _read_body(req: Request) -> bytes:
    declared = req.content_length
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            async for chunk in req.stream:
                size += len(chunk)
                if size <= BODY_LIMIT_BYTES:
                    chunks.append(chunk)
                elif size > DISCARD_LIMIT_BYTES:
                    break
    except TimeoutError:
        raise CallerError("the body did not come", 408) from None
    if size > BODY_LIMIT_BYTES:
        raise CallerError("body too large", 413)
    if declared and size < declared:  # the caller hung up: half a body must not pass for an empty one
        raise CallerError("invalid JSON")
    return b"".join(chunks)


def _error_handler(replies: Replies) -> Callable[..., Awaitable[None]]:
    async def handle(
        req: Request, resp: Response | None, error: Exception, _params: Any, ws: WebSocket | None = None
    ) -> None:
        status, text = status_and_text(error)
        again = {"Retry-After": str(RETRY_AFTER_S)} if isinstance(error, ResourceError) else {}
        if ws is not None:
            await _refuse(req, ws, status, again, replies.encode_error(text))
            return
        assert resp is not None
        resp.status = status
        resp.data = replies.encode_error(text)
        resp.set_headers(again)
        if isinstance(error, falcon.HTTPMethodNotAllowed) and error.headers:
            resp.set_headers(error.headers)

    return handle


async def _refuse(req: Request, ws: WebSocket, status: int, headers: dict[str, str], body: bytes) -> None:
    connection = req.scope.get(websocket.SCOPE_KEY)
    if ws.unaccepted and connection is not None:
        connection.deny(status, CORS_HEADERS | headers, body)
    elif not ws.closed:
        await ws.close(3000 + status if ws.unaccepted else 1011)


async def _not_implemented_socket(_req: Request, _ws: WebSocket, **_parameters: str) -> None:
    raise CallerError("not implemented", 501)


def _socket_responders(socket: Socket) -> dict[str, Responder]:
    def check(req: Request, parameters: Parameters) -> Any:
        return socket.check(req, {name: decode_parameter(value) for name, value in parameters.items()})

    async def on_get(req: Request, resp: Response, **parameters: str) -> None:
        check(req, parameters)
        resp.set_headers({"Upgrade": "websocket", "Sec-WebSocket-Version": websocket.VERSION})  # RFC 9110, 15.5.22
        raise CallerError("this is a WebSocket endpoint", 426)

    async def on_websocket(req: Request, ws: WebSocket, **parameters: str) -> None:
        await socket.serve(req, ws, check(req, parameters))

    return {"on_get": on_get, "on_websocket": on_websocket}


def _metrics_responder(render: Callable[[], bytes]) -> Responder:
    async def on_get(_req: Request, resp: Response) -> None:
        resp.content_type = "text/plain; version=0.0.4; charset=utf-8"
        resp.data = render()

    return on_get
