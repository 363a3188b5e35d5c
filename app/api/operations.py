"""One table for REST, VSI commands and the OpenAPI document: what can be asked of the server.

Runs in: control.
Owns: the shape of an operation and how a call of it is carried out, whoever asked.

Rules
1. A handler is a coroutine function `handler(subject, *, <path parameters by name>, request=<struct>)`; `request` is passed
   only where the operation has one. It returns the reply without `instance_id` (dict, list, or None for 204) and raises
   the errors of `shm/errors.py`. An unbound method (`Rooms.create`) is a handler, its instance the subject.
2. What a GET does not do, all others may: change something. Once begun they run to their end, even if the caller hangs up.
3. Path parameters have one name each in all templates: room_id leg_id playback_id tts_id stream_id bridge_id trunk_id
   attempt_id aor.

Not here: what is not built yet -> `unbuilt.py`; status codes of errors -> `errors.py`.
"""

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

Reply = dict[str, Any] | list[Any] | None
Handler = Callable[..., Coroutine[Any, Any, Any]]
_PARAMETER = re.compile(r"{(\w+)}")
_running: set[asyncio.Task[Any]] = set()  # the loop holds tasks weakly


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """`command` None: REST only. `payload_id`: how a VSI payload names the first path parameter.

    `vsi_echo`: parameters of the call that the VSI reply repeats beside the REST reply (path parameters, request fields).
    """

    method: str
    path: str  # template below the host: /v1/rooms/{room_id}
    handler: Handler | None = None  # None: not built yet, 501
    request: type[msgspec.Struct] | None = None
    status: int = 200
    command: str | None = None
    payload_id: str = "id"
    vsi_echo: tuple[str, ...] = ()
    summary: str = ""
    subject: Any = None

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(_PARAMETER.findall(self.path))


def bind(operations: Iterable[Operation], subject: Any) -> list[Operation]:
    """The operations, each with the object its handler works on."""
    return [replace(operation, subject=subject) for operation in operations]


def overlay(below: Sequence[Operation], above: Iterable[Operation]) -> list[Operation]:
    """The contract's lines `below` with what is built laid over them: each operation of `above` brings its handler, subject,
    request and summary; status, command and payload names stay those of the line. Raises ValueError where there is no line."""
    table = {(operation.method, operation.path): operation for operation in below}
    for operation in above:
        place = (operation.method, operation.path)
        if place not in table:
            raise ValueError(f"{operation.method} {operation.path} is not in the contract's index")
        line = table[place]
        if operation.command not in (None, line.command):
            raise ValueError(f"{operation.command} is called {line.command} in the contract's index")
        table[place] = replace(
            line,
            handler=operation.handler,
            subject=operation.subject,
            request=operation.request,
            summary=operation.summary,
        )
    return list(table.values())


async def carry_out(operation: Operation, parameters: dict[str, str], request: msgspec.Struct | None) -> Reply:
    """Call the handler. The caller's own cancellation does not reach an operation that may change something."""
    assert operation.handler is not None
    arguments: dict[str, Any] = dict(parameters)
    if operation.request is not None:
        arguments["request"] = request
    call = operation.handler(operation.subject, **arguments)
    if operation.method == "GET":
        return await call  # type: ignore[no-any-return]
    task = asyncio.ensure_future(call)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return await asyncio.shield(task)
