"""One call of a test phone: the SIP dialog (RFC 3261 §12) and its media.

Owns tags, CSeq, route set, the session description of both sides and the Media object.

Rules
1. `received` keeps every message of this call; `await call.response(180)` and `await call.request("BYE")` read from it.
2. 2xx to INVITE are acknowledged each time they arrive; our own 2xx is repeated until its ACK comes.
3. Offers inside the call are answered like a phone answers them, unless `refusals` names a status for the method.
4. A phone that is put on hold (`sendonly`, `inactive`) stops sending.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.flows.tools.codecs import CODECS, Codec
from tests.flows.tools.history import History
from tests.flows.tools.media import Media
from tests.flows.tools.sip import Message, address_uri, build_sdp, parameter, parse_sdp, token, uri_address

if TYPE_CHECKING:
    from tests.flows.tools.phone import ClientTransaction, Headers, Phone
    from tests.flows.tools.wire import Address, Reply

MIRROR = {"sendrecv": "sendrecv", "sendonly": "recvonly", "recvonly": "sendonly", "inactive": "inactive"}
SDP = ("Content-Type", "application/sdp")
Offer = bool | Callable[[str], str]  # our own SDP, none at all, or our own after a change


class Call:
    def __init__(self, phone: Phone, call_id: str, local: str, remote: str, target: str, **options: Any) -> None:
        self.phone, self.call_id = phone, call_id
        self.local, self.remote, self.target = local, remote, target
        self.routes: list[str] = []
        self.codecs: tuple[str, ...] = options.pop("codecs", phone.codecs)
        self.rtcp_mux: bool = options.pop("rtcp_mux", True)
        self.extra_sdp: str = options.pop("extra_sdp", "")
        self.media = Media(phone.host, **{**phone.media_options, **options})
        self.received: History[Message] = History(f"messages of {phone.name}'s call", str)
        self.invitation: Message | None = None  # the INVITE of an incoming call
        self.refusals: dict[str, int] = {}
        self.live = True
        self.held = False
        self._reply: Reply | None = None
        self._cseq = 0
        self._sdp_version = 0
        self._invite: ClientTransaction | None = None
        self._repeating: dict[int, asyncio.TimerHandle] = {}
        self._acks: dict[tuple[str, int], bytes] = {}
        self._ended = asyncio.get_running_loop().create_future()

    @classmethod
    def outbound(cls, phone: Phone, uri: str, **options: Any) -> Call:
        return cls(phone, f"{token()}@{phone.name}", f"<{phone.uri}>;tag={token()}", f"<{uri}>", uri, **options)

    @classmethod
    def inbound(cls, phone: Phone, invitation: Message, reply: Reply) -> Call:
        local = f"{invitation.get('To')};tag={token()}"
        target = address_uri(invitation.get("Contact"))
        call = cls(phone, invitation.get("Call-ID"), local, invitation.get("From"), target)
        call.routes = invitation.all("Record-Route")
        call.invitation, call._reply = invitation, reply
        call.received.add(invitation)
        return call

    @property
    def local_tag(self) -> str:
        return parameter(self.local, "tag")

    # --- waiting ----------------------------------------------------------------------------------------------

    async def response(self, status: int, method: str = "INVITE", *, within_s: float = 5.0, after: int = 0) -> Message:
        return await self.received.first(
            lambda m: m.is_response(method, status), within_s=within_s, after=after, named=f"{status} to {method}"
        )

    async def final(self, *, within_s: float = 5.0) -> Message:
        """The final response to our first INVITE, by then acknowledged and applied."""
        return await self.received.first(
            lambda m: m.status >= 200 and m.cseq == (1, "INVITE"), within_s=within_s, named="final response"
        )

    async def request(self, method: str, *, within_s: float = 5.0, after: int = 0) -> Message:
        return await self.received.first(lambda m: m.method == method, within_s=within_s, after=after, named=method)

    async def answered(self, *, within_s: float = 5.0) -> Call:
        """Connected: our INVITE got its 200, or our 200 its ACK."""
        if self.invitation is None:
            final = await self.final(within_s=within_s)
            assert final.status == 200, f"call was refused: {final}"
        else:
            await self.request("ACK", within_s=within_s)
        return self

    async def ended(self, *, within_s: float = 5.0) -> str:
        """How it ended: `bye`, `cancel`, `hung up`, or the refusing status."""
        try:
            return await asyncio.wait_for(asyncio.shield(self._ended), within_s)
        except TimeoutError:
            raise AssertionError(f"the call of {self.phone.name} did not end within {within_s} s") from None

    @property
    def has_ended(self) -> bool:
        return self._ended.done()

    def _end(self, how: str) -> None:
        self.media.stop()
        if not self._ended.done():
            self._ended.set_result(how)

    def close(self) -> None:
        """Forget the call without a word, as a phone that lost power."""
        if self.live:
            self.live = False
            self.media.close()
            for timer in self._repeating.values():
                timer.cancel()
            self._end("closed")

    # --- session descriptions ---------------------------------------------------------------------------------

    def sdp(self, *, direction: str = "sendrecv", codecs: tuple[str, ...] | None = None) -> str:
        """An offer of ours; what it lists is what we then decode."""
        chosen = [CODECS[name] for name in codecs or self.codecs]
        self.media.decoders = {codec.payload_type: codec for codec in chosen}
        return self._describe([(c.payload_type, c.rtpmap) for c in chosen], direction, self.media.event_payload_type)

    def _offered(self, offer: Offer, direction: str = "sendrecv") -> str:
        if callable(offer):
            return offer(self.sdp(direction=direction))
        return self.sdp(direction=direction) if offer else ""

    def _describe(self, formats: list[tuple[int, str]], direction: str, event: int | None) -> str:
        self._sdp_version += 1
        host, port = self.media.announced
        return build_sdp(
            host, port, formats, direction=direction, ptime_ms=self.media.ptime_ms, rtcp_mux=self.rtcp_mux,
            version=self._sdp_version, event_payload_type=event, extra=self.extra_sdp,
        )  # fmt: skip

    def sdp_answer(self, offer: str) -> str:
        """The first offered codec that this phone has, the offer's payload types, its direction mirrored."""
        self.apply(offer)
        remote = parse_sdp(offer)
        number, codec = self._common(offer)[0]
        direction = MIRROR["inactive" if remote.address in ("0.0.0.0", "::") else remote.direction]
        return self._describe([(number, codec.rtpmap)], direction, remote.event_payload_type)

    def _common(self, body: str) -> list[tuple[int, Codec]]:
        remote = parse_sdp(body)
        static = {c.payload_type: c.rtpmap for c in CODECS.values() if c.payload_type < 96}
        names = {pt: remote.rtpmap.get(pt, static.get(pt, "")).removesuffix("/1") for pt in remote.payload_types}
        ours = [CODECS[name] for name in self.codecs]
        return [(pt, codec) for pt, name in names.items() for codec in ours if codec.rtpmap == name]

    def apply(self, body: str) -> None:
        """Take a session description of the peer's into use."""
        remote = parse_sdp(body)
        common = self._common(body)
        assert common, f"{self.phone.name} has no codec in common with:\n{body}"
        number, codec = common[0]
        self.held = remote.direction in ("sendonly", "inactive") or remote.address in ("0.0.0.0", "::")
        self.media.paused = self.held
        self.media.start(
            (remote.address, remote.port), codec, number,
            event_payload_type=remote.event_payload_type, decoders=self.media.decoders | dict(common),
        )  # fmt: skip

    # --- calling ----------------------------------------------------------------------------------------------

    def invite(self, *, offer: Offer, headers: Headers) -> None:
        body = self._offered(offer)
        self._invite = self._send("INVITE", headers=headers + ([SDP] if body else []), body=body)
        self.phone.spawn(self._follow(self._invite, offered=bool(body)))

    async def _follow(self, transaction: ClientTransaction, *, offered: bool) -> None:
        """React to every response of one INVITE, the repeated and forked ones too."""
        seen = 0
        while True:
            response = await transaction.responses.first(after=seen, within_s=3600)
            seen += 1
            self.received.add(response)
            if response.status == 100:
                continue
            if response.status < 300:
                self._learn(response)
                if offered and response.body and not self._acked(response):
                    self.apply(response.body)
            if 200 <= response.status < 300:
                self._acknowledge(transaction, response, offered=offered)
            elif response.status >= 300 and transaction is self._invite:
                self._end(str(response.status))

    def _learn(self, response: Message) -> None:
        if contact := response.get("Contact"):
            self.target = address_uri(contact)
        if parameter(response.get("To"), "tag"):
            self.remote = response.get("To")
        if self.invitation is None and response.all("Record-Route"):
            self.routes = response.all("Record-Route")[::-1]

    def _acked(self, response: Message) -> bool:
        return (parameter(response.get("To"), "tag"), response.cseq[0]) in self._acks

    def _acknowledge(self, transaction: ClientTransaction, response: Message, *, offered: bool) -> None:
        key = parameter(response.get("To"), "tag"), response.cseq[0]
        if key not in self._acks:
            body = "" if offered else self.sdp_answer(response.body)
            ack = self._message("ACK", transaction.request.cseq[0], [SDP] if body else [], body)
            self._acks[key] = ack.encode()
        self.phone.wire.send(self._acks[key], self._next_hop())

    def cancel(self) -> ClientTransaction:
        """CANCEL our INVITE: same branch, same CSeq number."""
        assert self._invite is not None
        request = self._invite.request
        kept = ("via", "max-forwards", "from", "to", "call-id", "route")
        headers = [(k, v) for k, v in request.headers if k.lower() in kept] + [("CSeq", f"{request.cseq[0]} CANCEL")]
        return self.phone.transact(Message(method="CANCEL", uri=request.uri, headers=headers), self._invite.to)

    # --- inside the dialog ------------------------------------------------------------------------------------

    def _message(self, method: str, number: int, headers: Headers, body: str) -> Message:
        return Message(
            method=method,
            uri=self.target,
            headers=[
                ("Via", self.phone.via()),
                ("Max-Forwards", "70"),
                *(("Route", route) for route in self.routes),
                ("From", self.local),
                ("To", self.remote),
                ("Call-ID", self.call_id),
                ("CSeq", f"{number} {method}"),
                ("Contact", f"<{self.phone.uri}>"),
                *headers,
            ],
            body=body,
        )

    def _next_hop(self) -> Address:
        return self.phone.next_hop or uri_address(address_uri(self.routes[0]) if self.routes else self.target)

    def _send(self, method: str, *, headers: Headers | None = None, body: str = "") -> ClientTransaction:
        self._cseq += 1
        return self.phone.transact(self._message(method, self._cseq, headers or [], body), self._next_hop())

    async def send(
        self, method: str, *, headers: Headers | None = None, body: str = "", within_s: float = 5.0
    ) -> Message:
        """A request inside the dialog; returns its final response. For an UPDATE with a body, the answer is applied."""
        typed = headers or []
        if body and not any(k.lower() == "content-type" for k, _ in typed):
            typed = [*typed, SDP]
        response = await self._send(method, headers=typed, body=body).final(within_s=within_s)
        if method == "UPDATE" and response.status == 200 and response.body:
            self.apply(response.body)
        return response

    async def reinvite(
        self,
        *,
        direction: str = "sendrecv",
        offer: Offer = True,
        codecs: tuple[str, ...] | None = None,
        headers: Headers | None = None,
        within_s: float = 5.0,
    ) -> Message:
        """A re-INVITE; returns its final response, by then acknowledged."""
        self.codecs = codecs or self.codecs
        body = self._offered(offer, direction)
        transaction = self._send("INVITE", headers=(headers or []) + ([SDP] if body else []), body=body)
        self.phone.spawn(self._follow(transaction, offered=bool(body)))
        final = await transaction.final(within_s=within_s)
        return await self.received.first(lambda m: m is final)  # by now _follow has acknowledged and applied it

    async def hang_up(self, *, within_s: float = 5.0) -> Message:
        transaction = self._send("BYE")
        self._end("hung up")
        return await transaction.final(within_s=within_s)

    # --- being called -----------------------------------------------------------------------------------------

    def respond(
        self, status: int, *, headers: Headers | None = None, body: str = "", to_tag: str = "", repeat: bool = True
    ) -> None:
        """Any response to the INVITE of an incoming call; a final one is repeated until its ACK comes."""
        assert self.invitation is not None
        assert self._reply is not None
        allowed = [("Contact", f"<{self.phone.uri}>"), *(headers or []), *([SDP] if body else [])]
        data = self.phone.respond(
            self.invitation, status, self._reply, to_tag=to_tag or self.local_tag, headers=allowed, body=body
        )
        if status >= 200 and repeat:
            self._repeat(self.invitation.cseq[0], data, self._reply, self.phone.t1_s)

    def ring(self) -> None:
        self.respond(180)

    def progress(self, status: int = 183) -> None:
        """Early media: a provisional response with SDP; we send from now on."""
        assert self.invitation is not None
        self.respond(status, body=self.sdp_answer(self.invitation.body))

    async def answer(self, *, headers: Headers | None = None, body: str | None = None, within_s: float = 5.0) -> None:
        """200 with our SDP (an offer, when the INVITE had none); returns when the ACK is in."""
        assert self.invitation is not None
        offer = self.invitation.body
        described = body if body is not None else self.sdp_answer(offer) if offer else self.sdp()
        self.respond(200, headers=headers, body=described)
        ack = await self.request("ACK", within_s=within_s)
        if not offer and ack.body:
            self.apply(ack.body)

    async def reject(self, status: int = 486, *, headers: Headers | None = None) -> None:
        self.respond(status, headers=headers)
        await self.request("ACK")
        self._end(str(status))

    def _repeat(self, number: int, data: bytes, reply: Reply, interval_s: float, left: int = 10) -> None:
        """Repeat a final response at T1, 2·T1 … T2 until `_repeating[number]` is cancelled by the ACK."""

        def again() -> None:
            reply(data)
            if left:
                self._repeat(number, data, reply, min(2 * interval_s, 4.0), left - 1)

        self._repeating[number] = asyncio.get_running_loop().call_later(interval_s, again)

    def on_request(self, message: Message, reply: Reply) -> None:
        if message.method == "ACK":
            if (timer := self._repeating.pop(message.cseq[0], None)) is not None:
                timer.cancel()
            self.received.add(message)
            return
        if message.method in self.refusals:
            self._answer_request(message, reply, self.refusals[message.method])
        elif message.method == "CANCEL":
            self.phone.respond(message, 200, reply, to_tag=self.local_tag)
            self.respond(487)
            self._end("cancel")
        elif message.method == "BYE":
            self._answer_request(message, reply, 200)
            self._end("bye")
        elif message.method in ("INVITE", "UPDATE"):
            self._on_offer(message, reply)
        else:
            self._answer_request(message, reply, 200)
        self.received.add(message)

    def _on_offer(self, message: Message, reply: Reply) -> None:
        if message.method == "INVITE" and message.get("Contact"):
            self.target = address_uri(message.get("Contact"))
        if message.body and not self._common(message.body):
            self._answer_request(message, reply, 488)
            return
        body = self.sdp_answer(message.body) if message.body else self.sdp() if message.method == "INVITE" else ""
        headers = [SDP] if body else []
        timer = [(k, message.get(k)) for k in ("Session-Expires",) if message.get(k)]
        self._answer_request(message, reply, 200, headers=[*headers, *timer], body=body)

    def _answer_request(
        self, message: Message, reply: Reply, status: int, *, headers: Headers | None = None, body: str = ""
    ) -> None:
        all_headers = [("Contact", f"<{self.phone.uri}>"), *(headers or [])]
        data = self.phone.respond(message, status, reply, to_tag=self.local_tag, headers=all_headers, body=body)
        if message.method == "INVITE":
            self._repeat(message.cseq[0], data, reply, self.phone.t1_s)
