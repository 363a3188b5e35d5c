"""Transactions with their flows: requests on their way out, requests being answered.

Runs in: sip.
Owns: the tables of living transactions, their timers, the walk through a URI's targets (RFC 3263 section 4.3).

Rules
1. `ClientExchange` ends with exactly one of: a final response delivered, or `failed(why)`; the 2xx of an INVITE may come
   several times (forks and repetitions).
2. The next target is tried after a transport error, ICMP unreachable, 503, or no answer at all; with a new branch.
3. `ServerExchange.respond` may be called any number of times; what the machine does not want any more is ignored.
4. At most MAX_SERVED requests are remembered; beyond it new ones are answered 503 without a trace.

Not here: when to repeat -> `transaction.py`; what a request means -> `endpoint.py`, `calls.py`.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Literal

from workers.sip.identity import Identity
from workers.sip.message import Request, Response, new_tag, respond
from workers.sip.resolver import Resolver, Target, Unresolvable
from workers.sip.timers import Timed, Timers
from workers.sip.transaction import (
    ENDED,
    Action,
    Deliver,
    InviteClient,
    InviteServer,
    Key,
    PlainClient,
    PlainServer,
    Send,
    client_key,
)
from workers.sip.transport import Address, Flow, StreamFlow, Transports
from workers.sip.uri import Uri

MAX_SERVED = 200_000

Why = Literal["timeout", "transport", "cancelled"]
monotonic = time.monotonic
_FRAGILE = ("calling", "trying")
_SPENT = Request("SPENT", "sip:spent")  # stands where a finished transaction's message was


class ServerExchange(Timed):
    """One request we answer. `flow` is where responses go."""

    __slots__ = ("_exchanges", "_machine", "_merged", "flow", "key", "request", "timed_out", "to_tag")

    def __init__(self, exchanges: "Exchanges", request: Request, flow: Flow, key: Key) -> None:
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
            self.request = _SPENT
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
        exchanges: "Exchanges",
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
            self.request = _SPENT
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


class Exchanges:
    """Every transaction of the process."""

    def __init__(self, identity: Identity, transports: Transports, resolver: Resolver) -> None:
        self.identity = identity
        self.transports = transports
        self.resolver = resolver
        self.clients: dict[Key, ClientExchange] = {}
        self.servers: dict[Key, ServerExchange] = {}
        self._merged: dict[tuple[str, str, str], ServerExchange] = {}
        self._timers = Timers()
        self._loop = asyncio.get_running_loop()
        self._wake: asyncio.TimerHandle | None = None
        self._wake_at = float("inf")
        self._tasks: set[asyncio.Task[None]] = set()
        self.trace: Callable[[bytes, Flow], None] | None = None  # SIP_DEBUG: sees all that transactions send

    # ---- requests of ours

    def ask(
        self,
        request: Request,
        hop: str,
        flow: Flow | None,
        *,
        responded: Callable[[Response, Flow], None],
        failed: Callable[[Why], None],
        give_up_s: float = 0.0,
    ) -> ClientExchange:
        """Send a request; Via and Contact are put in here, where the flow is known."""
        exchange = ClientExchange(self, request, responded, failed, give_up_s)
        exchange.start(hop, flow)
        return exchange

    def post(self, request: Request, hop: str, flow: Flow | None, sent: Callable[[bytes, Flow], None]) -> None:
        """Send an ACK: no transaction, no answer. `sent` gets the bytes, for repetitions."""
        if flow is None or not flow.is_open:
            flow = None
            try:
                uri = Uri.parse(hop)
                target = self.resolver.at_once(uri)
            except (ValueError, Unresolvable):
                return
            if target is not None:
                flow = self.flow_at_once(target)
            if flow is None:
                self.spawn(self._post_later(request, uri, sent))
                return
        self._post(request, flow, sent)

    async def _post_later(self, request: Request, uri: Uri, sent: Callable[[bytes, Flow], None]) -> None:
        try:
            target = (await self.resolver.targets(uri))[0]
            flow = self.flow_at_once(target) or await self.transports.connect(
                target.transport, (target.host, target.port), target.name
            )
        except (Unresolvable, OSError, TimeoutError, ValueError):
            return
        self._post(request, flow, sent)

    def _post(self, request: Request, flow: Flow, sent: Callable[[bytes, Flow], None]) -> None:
        self.stamp(request, flow)
        data = request.encode()
        if self.trace is not None:
            self.trace(data, flow)
        flow.send(data)
        sent(data, flow)

    def flow_at_once(self, target: Target) -> Flow | None:
        remote = (target.host, target.port)
        if target.transport == "UDP":
            return self.transports.udp_flow(remote)
        return self.transports.shared(target.transport, remote, target.name)

    def stamp(self, request: Request, flow: Flow) -> None:
        """Via with a new branch on top, and our Contact where the method has one (replaced for another target)."""
        via = self.identity.via(flow)
        if request.get("via"):
            request.replace_first("via", via)
        else:
            request.prepend("via", via)
        if request.method in ("INVITE", "UPDATE", "OPTIONS"):
            request.set("contact", self.identity.contact(flow))

    def lost(self, transport: str, remote: Address) -> None:
        """A connection is gone or an ICMP unreachable came."""
        gone = [
            (client, client.flow)
            for client in self.clients.values()
            if client.flow is not None and client.flow.transport == transport and client.flow.remote == remote
        ]
        for client, flow in gone:
            if not (isinstance(flow, StreamFlow) and flow.is_open):
                client.lost(flow)

    # ---- requests of others

    def serve(self, request: Request, flow: Flow, key: Key) -> ServerExchange:
        exchange = ServerExchange(self, request, flow, key)
        exchange.register()
        return exchange

    def merged(self, request: Request) -> bool:
        return (request.call_id, request.from_tag, request.get("cseq")) in self._merged

    def remember_server(self, exchange: ServerExchange, merged: tuple[str, str, str] | None) -> None:
        self.servers[exchange.key] = exchange
        if merged is not None:
            self._merged[merged] = exchange

    def forget_server(self, exchange: ServerExchange, merged: tuple[str, str, str] | None) -> None:
        if self.servers.get(exchange.key) is exchange:
            del self.servers[exchange.key]
        if merged is not None and self._merged.get(merged) is exchange:
            del self._merged[merged]

    # ---- time

    def perform(self, exchange: "ServerExchange | ClientExchange", actions: Sequence[Action]) -> None:
        """Carry out what a machine wants. `deliver` and `timed_out` may put another machine in its place."""
        exchange.reschedule()
        self.watch(exchange)
        key, flow = exchange.key, exchange.flow
        for action in actions:
            if isinstance(action, Send):
                assert flow is not None
                if self.trace is not None:
                    self.trace(action.data, flow)
                if not flow.send(action.data) and isinstance(exchange, ClientExchange):
                    # From the loop, not from here: whoever asked may still be setting itself up.
                    self._loop.call_soon(exchange.lost, flow)
            elif isinstance(action, Deliver):
                assert isinstance(exchange, ClientExchange)
                exchange.deliver(action.response)
            elif action is ENDED:
                exchange.end(key)
            elif isinstance(exchange, ClientExchange):
                exchange.timed_out()

    def reschedule(self, exchange: ClientExchange) -> None:
        exchange.reschedule()
        self.watch(exchange)

    def watch(self, timed: Timed) -> None:
        self._timers.watch(timed)
        if self._timers.next_deadline < self._wake_at:
            self._arm()

    def _arm(self) -> None:
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        self._wake_at = self._timers.next_deadline
        if self._wake_at != float("inf"):
            self._wake = self._loop.call_later(max(0.001, self._wake_at - monotonic()), self._run_timers)

    def _run_timers(self) -> None:
        self._wake = None
        self._wake_at = 0.0  # nothing that happens meanwhile arms the loop
        now = monotonic()
        try:
            for timed in self._timers.due(now):
                timed.expire(now)
        finally:
            self._arm()

    def spawn(self, work: "asyncio._CoroutineLike[None]") -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
