"""Every transaction of the process, with its flow and its timers.

Runs in: sip.
Owns: the tables of living transactions, one heap of timers and the loop's wake-up for it, Via and Contact of what we send.

Rules
1. What a machine wants is carried out by `perform`, in order; nothing else puts a transaction's bytes on a flow.
2. At most MAX_SERVED requests are remembered; beyond it new ones are answered 503 without a trace (`endpoint.py`).

Not here: the transactions themselves -> `client_exchange.py`, `server_exchange.py`; what a request means -> `endpoint.py`.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from workers.sip.client_exchange import ClientExchange, Why
from workers.sip.identity import Identity
from workers.sip.message import Request, Response
from workers.sip.resolver import Resolver, Target, Unresolvable
from workers.sip.server_exchange import ServerExchange
from workers.sip.timers import Timed, Timers
from workers.sip.transaction import ENDED, Action, Deliver, Key, Send
from workers.sip.transport import Address, Flow, StreamFlow, Transports
from workers.sip.uri import Uri

MAX_SERVED = 200_000

monotonic = time.monotonic


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

    def perform(self, exchange: ServerExchange | ClientExchange, actions: Sequence[Action]) -> None:
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
