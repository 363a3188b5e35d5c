"""A request of ours on its way: over one flow after the other until somebody answers (RFC 3263 section 4.3).

Runs in: sip.
Owns: one client transaction with its flow, the targets left to try, the CANCEL of an INVITE.

Rules
1. It ends with exactly one of: a final response delivered, or `failed(why)`; the 2xx of an INVITE may come several times
   (forks and repetitions).
2. The next target is tried after a transport error, ICMP unreachable, 503, or no answer at all; with a new branch.
3. After the final response the request is let go.

Not here: when to repeat -> `transaction.py`; which target -> `resolver.py`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from workers.sip.message import Request, Response
from workers.sip.resolver import Target, Unresolvable
from workers.sip.server_exchange import SPENT
from workers.sip.timers import Timed
from workers.sip.transaction import InviteClient, Key, PlainClient, client_key
from workers.sip.uri import Uri

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from workers.sip.exchanges import Exchanges
    from workers.sip.transport import Flow

Why = Literal["timeout", "transport", "cancelled"]
monotonic = time.monotonic
_FRAGILE = ("calling", "trying")


class ClientExchange(Timed):
    """One request we sent or shall send; `cancel` only for INVITE."""

    __slots__ = (
        "_cancel_wanted",
        "_exchanges",
        "_failed",
        "_give_up_s",
        "_machine",
        "_responded",
        "_targets",
        "_task",
        "flow",
        "is_over",
        "key",
        "request",
    )

    def __init__(
        self,
        exchanges: Exchanges,
        request: Request,
        responded: Callable[[Response, Flow], None],
        failed: Callable[[Why], None],
        give_up_s: float = 0.0,
    ) -> None:
        super().__init__()
        self._exchanges = exchanges
        self._responded = responded
        self._failed = failed
        self._give_up_s = give_up_s
        self._targets: list[Target] = []
        self._machine: InviteClient | PlainClient | None = None
        self._task: asyncio.Task[None] | None = None
        self._cancel_wanted = False
        self.request = request
        self.flow: Flow | None = None
        self.key: Key = ()
        self.is_over = False  # a final response or a failure was reported

    def start(self, hop: str, flow: Flow | None) -> None:
        """On `flow` where one is given and open, else to the targets of the URI `hop`."""
        if flow is not None and flow.is_open:
            self._begin(flow)
            return
        exchanges = self._exchanges
        try:
            uri = Uri.parse(hop)
            target = exchanges.resolver.at_once(uri)
        except (ValueError, Unresolvable):
            self._fail("transport")
            return
        if target is None:
            self._task = exchanges.spawn(self._resolve(uri))
        else:
            self._try(target)

    async def _resolve(self, uri: Uri) -> None:
        try:
            first, *self._targets = await self._exchanges.resolver.targets(uri)
        except Unresolvable:
            self._fail("transport")
        else:
            self._try(first)

    def _try(self, target: Target) -> None:
        flow = self._exchanges.flow_at_once(target)
        if flow is not None:
            self._begin(flow)
        elif target.transport == "UDP":
            self._next_target("transport")
        else:
            self._task = self._exchanges.spawn(self._connect(target))

    async def _connect(self, target: Target) -> None:
        try:
            flow = await self._exchanges.transports.connect(target.transport, (target.host, target.port), target.name)
        except (OSError, TimeoutError, ValueError):
            self._next_target("transport")
        else:
            self._begin(flow)

    def _begin(self, flow: Flow) -> None:
        self._task = None
        if self.is_over:
            return
        if self._cancel_wanted:  # before anything was sent
            self._fail("cancelled")
            return
        self._exchanges.stamp(self.request, flow)
        self.flow = flow
        self.key = client_key(self.request)
        self._exchanges.clients[self.key] = self
        now = monotonic()
        if self.request.method == "INVITE":
            self._machine = InviteClient(self.request, reliable=flow.is_reliable)
            actions = self._machine.start(now)
        else:
            self._machine = PlainClient(self.request, reliable=flow.is_reliable)
            actions = self._machine.start(now)
            if self._give_up_s:
                self._machine.give_up_by(now + self._give_up_s)
        self._exchanges.perform(self, actions)

    def receive(self, response: Response) -> None:
        assert self._machine is not None
        self._exchanges.perform(self, self._machine.receive(response, monotonic()))

    def deliver(self, response: Response) -> None:
        assert self.flow is not None
        if response.status == 503 and self._targets and not self._cancel_wanted and not self.is_over:
            self._next_target("transport")
            return
        if response.status >= 200:
            self.is_over = True
            self.request = SPENT
            self._targets.clear()
        elif self._cancel_wanted:
            self._send_cancel()
        self._responded(response, self.flow)

    def cancel(self) -> None:
        """Section 9.1: the CANCEL goes out once a provisional response allows it; the final response still comes."""
        if self._cancel_wanted or self.is_over:
            return
        self._cancel_wanted = True
        if self._machine is None:
            if self._task is not None:
                self._task.cancel()
            self._fail("cancelled")
        elif self._machine.state == "proceeding":
            self._send_cancel()

    def _send_cancel(self) -> None:
        machine, request, flow = self._machine, self.request, self.flow
        assert isinstance(machine, InviteClient)
        assert flow is not None
        machine.cancelled(monotonic())
        self._exchanges.reschedule(self)
        cancel = Request("CANCEL", request.uri)
        number, _method = request.cseq
        for name in ("via", "route", "from", "to", "call-id", "max-forwards", "reason"):
            cancel.headers += [(name, value) for value in request.all(name)]
        cancel.add("cseq", f"{number} CANCEL")
        twin = ClientExchange(self._exchanges, cancel, lambda _response, _flow: None, lambda _why: None)
        if client_key(cancel) not in self._exchanges.clients:
            twin.begin_as_is(flow)

    def begin_as_is(self, flow: Flow) -> None:
        """With the Via it already has: a CANCEL shares its INVITE's."""
        self.flow = flow
        self.key = client_key(self.request)
        self._exchanges.clients[self.key] = self
        self._machine = PlainClient(self.request, reliable=flow.is_reliable)
        self._exchanges.perform(self, self._machine.start(monotonic()))

    def expire(self, now: float) -> None:
        assert self._machine is not None
        self._exchanges.perform(self, self._machine.tick(now))

    def reschedule(self) -> None:
        assert self._machine is not None
        self.deadline = self._machine.deadline

    def lost(self, flow: Flow) -> None:
        """The flow broke or the destination is unreachable: matters only while nothing final has been heard.

        An INVITE that has begun to ring waits on: its answer may come over another connection.
        """
        if flow is self.flow and not self.is_over and self._machine is not None and self._machine.state in _FRAGILE:
            self._next_target("transport")

    def timed_out(self) -> None:
        self._next_target("timeout")

    def _next_target(self, why: Why) -> None:
        self.end(self.key)
        if self._targets and not self._cancel_wanted:
            self._try(self._targets.pop(0))
        else:
            self._fail("cancelled" if self._cancel_wanted else why)

    def _fail(self, why: Why) -> None:
        if not self.is_over:
            self.is_over = True
            self._failed(why)

    def end(self, key: Key) -> None:
        if self._exchanges.clients.get(key) is self:
            del self._exchanges.clients[key]
