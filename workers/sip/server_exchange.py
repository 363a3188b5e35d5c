"""A request that we answer, and the 2xx to an INVITE that waits for its ACK.

Runs in: sip.
Owns: one server transaction with its flow.

Rules
1. `respond` may be called any number of times; what the machine does not want any more is ignored.
2. After the final response the request is let go: only its last bytes stay.
3. A 2xx to an INVITE is repeated here, by the call, and not by its transaction (RFC 6026).

Not here: when to repeat -> `transaction.py`; which response -> `endpoint.py`, `call.py`, `incoming.py`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from workers.sip.message import Request, Response, new_tag, respond
from workers.sip.timers import NEVER, Timed
from workers.sip.transaction import InviteServer, Key, PlainServer, Repeated2xx, Send

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.sip.exchanges import Exchanges
    from workers.sip.transport import Flow

monotonic = time.monotonic
SPENT = Request("SPENT", "sip:spent")  # stands where a finished transaction's message was


class ServerExchange(Timed):
    """One request we answer. `flow` is where responses go."""

    __slots__ = ("_exchanges", "_machine", "_merged", "flow", "key", "request", "timed_out", "to_tag")

    def __init__(self, exchanges: Exchanges, request: Request, flow: Flow, key: Key) -> None:
        super().__init__()
        self._exchanges = exchanges
        self.request = request
        self.flow = flow
        self.key = key
        self.to_tag = request.to_tag or new_tag()
        kind = InviteServer if request.method == "INVITE" else PlainServer
        self._machine: InviteServer | PlainServer = kind(reliable=flow.is_reliable)
        # Section 8.2.2.2: the same request that came by another path has these in common.
        self._merged = (request.call_id, request.from_tag, request.get("cseq")) if not request.to_tag else None

    @property
    def is_pending(self) -> bool:
        """No final response has been given yet."""
        return self._machine.state in ("proceeding", "trying")

    def reply(self, status: int, *headers: tuple[str, str], reason: str = "", body: bytes = b"") -> Response:
        """A response to `request`, not sent yet."""
        response = respond(self.request, status, reason, self.to_tag)
        response.headers += headers
        response.add("server", self._exchanges.identity.product)
        if body:
            response.add("content-type", "application/sdp")
            response.body = body
        return response

    def respond(self, response: Response) -> bytes:
        """Send a response, provisional ones as often as wanted; returns its bytes."""
        data = response.encode()
        self._exchanges.perform(self, self._machine.respond(response.status, data, monotonic()))
        if response.status >= 200:
            self.request = SPENT
        return data

    def answer(self, status: int, *headers: tuple[str, str], reason: str = "") -> None:
        self.respond(self.reply(status, *headers, reason=reason))

    def receive_again(self) -> None:
        self._exchanges.perform(self, self._machine.receive_again())

    def acknowledge(self) -> bool:
        """An ACK with our key came; False when it belongs to a 2xx, which is the call's business."""
        if self._machine.state == "accepted":
            return False
        self._exchanges.perform(self, self._machine.acknowledge(monotonic()))
        return True

    def expire(self, now: float) -> None:
        self._exchanges.perform(self, self._machine.tick(now))

    def reschedule(self) -> None:
        self.deadline = self._machine.deadline

    def end(self, _key: Key) -> None:
        self._exchanges.forget_server(self, self._merged)

    def register(self) -> None:
        self._exchanges.remember_server(self, self._merged)


class Unacknowledged(Timed):
    """Our 2xx to an INVITE, repeated until its ACK."""

    __slots__ = ("_machine", "_timed_out", "cseq", "data", "flow", "has_offer", "is_first")

    def __init__(
        self, data: bytes, flow: Flow, cseq: int, timed_out: Callable[[], None], *, has_offer: bool, is_first: bool
    ) -> None:
        super().__init__()
        self.data = data
        self.flow = flow
        self.cseq = cseq
        self.has_offer = has_offer  # the answer comes with the ACK
        self.is_first = is_first  # it answered the INVITE that made the dialog
        self._timed_out = timed_out
        self._machine = Repeated2xx(data, time.monotonic())
        self.deadline = self._machine.deadline

    def expire(self, now: float) -> None:
        actions = self._machine.tick(now)
        self.deadline = self._machine.deadline
        for action in actions:
            if isinstance(action, Send):
                self.flow.send(action.data)
        if self.deadline == NEVER:
            self._timed_out()
