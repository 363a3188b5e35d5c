"""A SIP and RTP user agent of our own, sharing nothing with the product: one address, many calls.

Owns the SIP transport, client and server transactions (RFC 3261 §17 timers) and the calls; a Call owns its dialog
and its media.

Rules
1. `received` keeps every SIP message that came in, retransmissions included, in order.
2. Nothing is answered without being asked, except: retransmissions, OPTIONS, ACK, and calls of an `answering` phone.
3. Tests reach below at any time: `wire.send(bytes, to)`, `wire.outgoing` and `wire.incoming` (tamper.py).
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Self

from tests.flows.tools.call import Call, Offer
from tests.flows.tools.digest import Challenge
from tests.flows.tools.history import History
from tests.flows.tools.sip import REASONS, Message, bracketed, parameter, parse, token, uri_address
from tests.flows.tools.wire import Address, Reply, Wire

Headers = list[tuple[str, str]]
T2_S = 4.0


class Phone:
    def __init__(
        self,
        name: str = "phone",
        *,
        transport: str = "udp",
        host: str = "127.0.0.1",
        answering: bool = False,
        codecs: tuple[str, ...] = ("PCMU",),
        tone_hz: float | None = None,
        challenge: Challenge | None = None,
        next_hop: Address | None = None,
        contact: Address | None = None,
        t1_s: float = 0.5,
        server_tls: ssl.SSLContext | None = None,
        client_tls: ssl.SSLContext | None = None,
        **media: Any,
    ) -> None:
        self.name, self.host, self.transport = name, host, transport
        self.codecs, self.challenge = codecs, challenge
        self.next_hop, self.t1_s = next_hop, t1_s
        self.media_options = {"tone_hz": tone_hz, **media}
        self.on_call: Callable[[Call], Awaitable[None]] | None = (lambda call: call.answer()) if answering else None
        self.received: History[Message] = History(f"messages at {name}", str)
        self.calls: History[Call] = History(f"calls to {name}", repr)
        self.wire = Wire(transport, host, self._on_message, server_tls=server_tls, client_tls=client_tls)
        self._contact = contact
        self._by_call_id: dict[str, Call] = {}
        self._client: dict[tuple[str, str], ClientTransaction] = {}
        self._answered: dict[tuple[str, str, str], bytes] = {}
        self._tasks: set[asyncio.Future[Any]] = set()

    async def __aenter__(self) -> Self:
        await self.wire.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        for call in self._by_call_id.values():
            call.close()
        for transaction in self._client.values():
            transaction.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.wire.close()

    def spawn(self, work: Awaitable[Any]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- addresses --------------------------------------------------------------------------------------------

    @property
    def uri(self) -> str:
        host, port = self._contact or (self.host, self.wire.port)
        suffix = "" if self.transport == "udp" else f";transport={self.transport}"
        return f"sip:{self.name}@{bracketed(host)}:{port}{suffix}"

    def via(self) -> str:
        return f"SIP/2.0/{self.transport.upper()} {bracketed(self.host)}:{self.wire.port};branch=z9hG4bK{token()};rport"

    # --- calls ------------------------------------------------------------------------------------------------

    async def dial(self, uri: str, *, offer: Offer = True, headers: Headers | None = None, **options: Any) -> Call:
        """Send an INVITE; returns at once. `offer`: True (own SDP), False (none), or a change to it."""
        call = Call.outbound(self, uri, **options)
        self._by_call_id[call.call_id] = call
        call.invite(offer=offer, headers=headers or [])
        return call

    async def called(self, *, within_s: float = 5.0, after: int = 0) -> Call:
        """The first incoming call after the first `after` ones."""
        return await self.calls.first(within_s=within_s, after=after, named="call")

    async def request(
        self, method: str, uri: str, *, headers: Headers | None = None, body: str = "", within_s: float = 5.0
    ) -> Message:
        """A request outside any dialog, e.g. OPTIONS; returns its final response."""
        request = self.new_request(method, uri, headers=headers or [], body=body)
        return await self.transact(request, self.next_hop or uri_address(uri)).final(within_s=within_s)

    def new_request(self, method: str, uri: str, *, headers: Headers | None = None, body: str = "") -> Message:
        return Message(
            method=method,
            uri=uri,
            headers=[
                ("Via", self.via()),
                ("Max-Forwards", "70"),
                ("From", f"<{self.uri}>;tag={token()}"),
                ("To", f"<{uri}>"),
                ("Call-ID", f"{token()}@{self.name}"),
                ("CSeq", f"1 {method}"),
                ("Contact", f"<{self.uri}>"),
                *(headers or []),
            ],
            body=body,
        )

    def transact(self, request: Message, to: Address) -> ClientTransaction:
        transaction = ClientTransaction(self, request, to)
        self._client[request.branch, request.method] = transaction
        return transaction

    # --- what comes in ----------------------------------------------------------------------------------------

    def _on_message(self, data: bytes, source: Address, reply: Reply) -> None:
        message = parse(data)
        if message is None:  # keep-alives
            return
        self.received.add(message)
        if message.status:
            transaction = self._client.get((message.branch, message.cseq[1]))
            if transaction is not None:
                transaction.on_response(message)
            return
        repeated = self._answered.get(self._key(message))
        if repeated is not None and message.method != "ACK":
            reply(repeated)
            return
        call = self._by_call_id.get(message.get("Call-ID"))
        if call is not None and call.live:
            call.on_request(message, reply)
        elif message.method == "INVITE":
            self._on_invite(message, reply)
        elif message.method == "OPTIONS":
            self.respond(message, 200, reply)
        elif message.method != "ACK":
            self.respond(message, 481 if parameter(message.get("To"), "tag") else 405, reply)

    def _on_invite(self, message: Message, reply: Reply) -> None:
        self.respond(message, 100, reply)
        if self.challenge is not None and not self.challenge.accepts(message):
            self.respond(message, self.challenge.status, reply, headers=[self.challenge.header], to_tag=token())
            return
        call = Call.inbound(self, message, reply)
        self._by_call_id[call.call_id] = call
        self.calls.add(call)
        if self.on_call is not None:
            self.spawn(self.on_call(call))

    @staticmethod
    def _key(message: Message) -> tuple[str, str, str]:
        return message.branch, message.get("Via").partition(";")[0], message.method

    def respond(
        self,
        request: Message,
        status: int,
        reply: Reply,
        *,
        to_tag: str = "",
        headers: Headers | None = None,
        body: str = "",
    ) -> bytes:
        """Answer a request; the bytes are repeated for every retransmission of it."""
        to = request.get("To")
        if to_tag and not parameter(to, "tag"):
            to += f";tag={to_tag}"
        response = Message(
            status=status,
            reason=REASONS.get(status, "Response"),
            headers=[
                *(("Via", via) for via in request.all("Via")),
                *(("Record-Route", route) for route in request.all("Record-Route")),
                ("From", request.get("From")),
                ("To", to),
                ("Call-ID", request.get("Call-ID")),
                ("CSeq", request.get("CSeq")),
                *(headers or []),
            ],
            body=body,
        )
        data = self._answered[self._key(request)] = response.encode()
        reply(data)
        return data


class ClientTransaction:
    """Sends a request until it is answered (Timers A/B, E/F) and acknowledges a refused INVITE."""

    def __init__(self, phone: Phone, request: Message, to: Address) -> None:
        self.phone, self.request, self.to = phone, request, to
        self.responses: History[Message] = History(f"responses to {request.method}", str)
        self.sent = 0
        self._data = request.encode()
        self._timer: asyncio.TimerHandle | None = None
        self._send(phone.t1_s, 64 * phone.t1_s)

    def _send(self, interval_s: float, left_s: float) -> None:
        self.phone.wire.send(self._data, self.to)
        self.sent += 1
        if self.phone.wire.reliable or left_s <= interval_s:
            return
        longer_s = 2 * interval_s if self.request.method == "INVITE" else min(2 * interval_s, T2_S)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(interval_s, self._send, longer_s, left_s - interval_s)

    def on_response(self, response: Message) -> None:
        if response.status >= 200 or self.request.method == "INVITE":
            self.stop()
        if response.status >= 300 and self.request.method == "INVITE":
            self._acknowledge(response)
        self.responses.add(response)

    def _acknowledge(self, response: Message) -> None:
        kept = ("via", "route", "from", "call-id", "max-forwards")
        headers = [(k, v) for k, v in self.request.headers if k.lower() in kept]
        headers += [("To", response.get("To")), ("CSeq", f"{self.request.cseq[0]} ACK")]
        ack = Message(method="ACK", uri=self.request.uri, headers=headers)
        self.phone.wire.send(ack.encode(), self.to)

    async def final(self, *, within_s: float = 5.0) -> Message:
        return await self.responses.first(lambda r: r.status >= 200, within_s=within_s, named="final response")

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
