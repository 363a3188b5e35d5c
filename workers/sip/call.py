"""One call: a dialog with its media, from the first 2xx to the BYE.

Runs in: sip.
Owns: what a peer may do inside a dialog, what control may ask of it, the session timer, the un-ACKed 2xx.

Rules
1. One offer at a time: what we want to offer waits in a queue (QUEUE_LIMIT, beyond it refused) until nothing is pending;
   a peer's offer that meets ours is answered 491.
2. Media changes when the answer is sent or received, never before; a refused offer leaves everything as it was.
3. `ended` is posted at most once; control's own hangup posts nothing. A call that is over stays in the dialog table until
   its BYE is answered or BYE_S have passed, to answer what crosses it.
4. After every in-dialog request, sent or answered, the dialog is saved with control.

Not here: how a call begins -> `incoming.py`, `outgoing.py`; our own offers -> `offers.py`; the table -> `calls.py`.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Literal

import msgspec

from shm import messages as wire
from workers.sip import sdp
from workers.sip.auth import authorization
from workers.sip.dialog import Dialog, SessionTimer
from workers.sip.identity import ALLOW
from workers.sip.message import Message, Request, Response
from workers.sip.offers import Offers
from workers.sip.server_exchange import Unacknowledged
from workers.sip.survival import snapshot
from workers.sip.timers import NEVER, Alarm
from workers.sip.transport import Flow

if TYPE_CHECKING:
    from collections.abc import Callable

    from workers.sip.calls import Calls
    from workers.sip.server_exchange import ServerExchange

BYE_S = 5.0  # contract/legs.md section 5.1: a BYE without answer is abandoned
State = Literal["incoming", "outgoing", "early", "answered", "confirmed", "ended"]
Header = tuple[str, str]
HEAVY_BYTES = 16_384  # what a call keeps of a message must fit between processes


class Call:
    """`dialog` is None until there is one; everything about media is None or empty until agreed."""

    def __init__(self, calls: Calls, leg_id: str) -> None:
        self.calls = calls
        self.leg_id = leg_id
        self.state: State = "confirmed"
        self.dialog: Dialog | None = None
        self.flow: Flow | None = None  # that our last message of this call went over or came from
        self.local: wire.LocalMedia | None = None
        self.media: wire.Media | None = None
        self.local_sdp = b""
        self.sdp_id = secrets.randbits(31)
        self.sdp_version = 1
        self.held_locally = False
        self.peer_takes_update = False
        self.auth: wire.Credentials | None = None
        self.timer = SessionTimer()
        self.unacknowledged: Unacknowledged | None = None
        self.offers = Offers(self)
        self._session_alarm = Alarm(self._session_due)
        self._bye_waits = False
        self._last_ack: tuple[int, bytes, Flow] | None = None

    # ---- requests of the peer

    def requested(self, exchange: ServerExchange, source: Flow) -> None:
        """A new request inside our dialog."""
        request = exchange.request
        dialog = self.dialog
        assert dialog is not None
        if self.state == "ended":
            exchange.answer(200 if request.method == "BYE" else 481)
            return
        if not dialog.accepts(request):
            exchange.answer(500, ("retry-after", str(secrets.randbelow(10))), reason="CSeq Out of Order")
            return
        self.flow = source
        match request.method:
            case "BYE":
                exchange.answer(200)
                self.remote_bye()
                return
            case "INVITE":
                self._reinvited(exchange)
            case "UPDATE":
                self._updated(exchange)
            case "OPTIONS":
                exchange.answer(200, ("allow", ALLOW), ("accept", "application/sdp"), ("supported", "timer"))
            case "REFER":
                exchange.answer(603)  # transfers are not built yet
            case "NOTIFY":
                exchange.answer(489)  # nothing was subscribed to
            case _:
                exchange.answer(405, ("allow", ALLOW))
        self.save()

    def remote_bye(self) -> None:
        self.finish("remote_bye")
        self.drop()

    def _reinvited(self, exchange: ServerExchange) -> None:
        if self.state not in ("answered", "confirmed"):  # section 14.2: the first INVITE has no final response yet
            exchange.answer(491 if self.dialog and self.dialog.is_caller else 500, ("retry-after", "3"))
        elif self._may_offer(exchange):
            self._counter(exchange, is_invite=True)

    def _updated(self, exchange: ServerExchange) -> None:
        if not exchange.request.body:
            if not self._session_too_short(exchange):
                self._accept(exchange, self.timer.asked(exchange.request, time.monotonic()), b"", is_invite=False)
        elif self.state not in ("answered", "confirmed"):
            exchange.answer(500, ("retry-after", str(secrets.randbelow(10))))  # RFC 3311 section 5.2
        elif self._may_offer(exchange):
            self._counter(exchange, is_invite=False)

    def _session_too_short(self, exchange: ServerExchange) -> bool:
        if self.timer.too_small(exchange.request):
            exchange.answer(422, ("min-se", "90"))
            return True
        return False

    def _may_offer(self, exchange: ServerExchange) -> bool:
        if self.offers.is_pending or self.unacknowledged is not None:
            exchange.answer(491)
            return False
        request = exchange.request
        if request.body and not is_sdp(request):
            exchange.answer(415, ("accept", "application/sdp"))
            return False
        return not self._session_too_short(exchange)

    def _counter(self, exchange: ServerExchange, *, is_invite: bool) -> None:
        """Answer the peer's offer, or make one where it sent none."""
        request = exchange.request
        local = self.wished_local()
        try:
            if request.body:
                body, media = self.answer_sdp(sdp.parse(request.body), local)
            else:
                body, media = self.offer_sdp(local), None
        except sdp.SdpError:
            exchange.answer(400, reason="Bad SDP")
            return
        except sdp.NotAcceptable:
            exchange.answer(488)
            return
        assert self.dialog is not None
        self.dialog.refresh_target(request)
        self.local_sdp = body
        headers = self.timer.asked(request, time.monotonic())
        self._accept(exchange, headers, body, is_invite=is_invite, has_offer=not request.body)
        if media is not None:
            self.adopt(media, by_peer=True)

    def _accept(
        self, exchange: ServerExchange, headers: list[Header], body: bytes, *, is_invite: bool, has_offer: bool = False
    ) -> None:
        """200 to a re-INVITE or UPDATE."""
        cseq = exchange.request.cseq[0]
        assert self.dialog is not None
        self.dialog.refresh_target(exchange.request)
        contact = ("contact", self.calls.identity.contact(exchange.flow))
        data = exchange.respond(exchange.reply(200, contact, ("allow", ALLOW), *headers, body=body))
        if is_invite:
            self.await_ack(data, exchange.flow, cseq, has_offer=has_offer, is_first=False)
        self.rearm()

    # ---- our 2xx and its ACK

    def await_ack(self, data: bytes, flow: Flow, cseq: int, *, has_offer: bool, is_first: bool) -> None:
        self.unacknowledged = Unacknowledged(
            data, flow, cseq, self._never_acknowledged, has_offer=has_offer, is_first=is_first
        )
        self.calls.exchanges.watch(self.unacknowledged)

    def acknowledged(self, ack: Request, source: Flow) -> None:
        waiting = self.unacknowledged
        if waiting is None or ack.cseq[0] != waiting.cseq:
            return
        waiting.deadline = NEVER
        self.unacknowledged = None
        if self.state == "ended":
            self._send_bye()
            return
        self.flow = source
        media: wire.Media | None = None
        if waiting.has_offer:
            try:
                media = sdp.read_answer(sdp.parse(ack.body), self.wished_local())
            except (sdp.SdpError, sdp.NotAcceptable):
                self.give_up("connect_failed")
                return
        if waiting.is_first:
            self.state = "confirmed"
            if media is not None:
                self.media = media
            self.save()
            self.calls.post(wire.CallConfirmed(leg_id=self.leg_id, media=media))
        else:
            if media is not None:
                self.adopt(media, by_peer=True)
            self.save()
        self.offers.go_on()

    def _never_acknowledged(self) -> None:
        self.unacknowledged = None
        if self.state == "ended":
            self._send_bye()
        else:
            self.give_up("connect_failed")

    # ---- media

    def wished_local(self, held: bool | None = None) -> wire.LocalMedia:
        """Our side as it shall be described; `held` None = as it is now."""
        assert self.local is not None
        held = self.held_locally if held is None else held
        return msgspec.structs.replace(self.local, direction="sendonly" if held else "sendrecv")

    def offer_sdp(self, local: wire.LocalMedia) -> bytes:
        self.sdp_version += 1
        return sdp.make_offer(local, session_id=self.sdp_id, version=self.sdp_version)

    def answer_sdp(self, offer: sdp.Session, local: wire.LocalMedia, codec: str = "") -> tuple[bytes, wire.Media]:
        """An unchanged description keeps its version (RFC 3264 section 8)."""
        every_stream = self.calls.start.strict_mline_answer
        for version in (self.sdp_version, self.sdp_version + 1):
            body, media = sdp.make_answer(
                offer, local, session_id=self.sdp_id, version=version, codec=codec, every_stream=every_stream
            )
            if body == self.local_sdp or not self.local_sdp:
                break
        self.sdp_version = version
        return body, media

    def adopt(self, media: wire.Media, *, by_peer: bool) -> None:
        """New media are in force; control is told where something changed."""
        if media != self.media:
            self.media = media
            held = self.held_locally or sdp.is_hold(media)
            self.calls.post(wire.MediaChanged(leg_id=self.leg_id, media=media, held=held, by_peer=by_peer))

    # ---- the end

    def hangup(self) -> None:
        """Control wants the call to be over; no event."""
        if self.state != "ended":
            self._close()
            self._bye_when_allowed()

    def give_up(self, reason: str) -> None:
        """We end the call for a reason of our own."""
        if self.state != "ended":
            self.finish(reason)
            self._bye_when_allowed()

    def finish(self, reason: str) -> None:
        """The call is over, whoever ended it: say so once."""
        if self.state != "ended":
            self._close()
            self.calls.post(wire.CallEnded(leg_id=self.leg_id, reason=reason))

    def drop(self) -> None:
        """Nothing more is expected in this dialog."""
        self.calls.forget_dialogs(self)

    def leave(self) -> None:
        """The process ends: BYE now, whatever RFC 3261 section 15 would wait for."""
        if self.state != "ended":
            self._close()
            self.unacknowledged = None
            self._send_bye()

    def _close(self) -> None:
        self.state = "ended"
        self._session_alarm.cancel()
        self.offers.abandon()
        self.calls.forget_leg(self)

    def _bye_when_allowed(self) -> None:
        # RFC 3261 section 15: the callee waits for the ACK to its 2xx before it sends BYE.
        if self.unacknowledged is None:
            self._send_bye()

    def _send_bye(self, *authorization_headers: Header) -> None:
        assert self.dialog is not None
        bye = self.dialog.request("BYE")
        bye.headers += authorization_headers

        def answered(response: Response, _flow: Flow) -> None:
            if response.status < 200:
                return
            header = None if authorization_headers else self.credentials_for(response, bye)
            if header:
                self._send_bye(header)
            else:
                self.drop()

        self.ask(bye, answered, lambda _why: self.drop(), give_up_s=BYE_S)

    # ---- requests of ours

    def ask(
        self,
        request: Request,
        responded: Callable[[Response, Flow], None],
        failed: Callable[[str], None],
        give_up_s: float = 0.0,
    ) -> None:
        assert self.dialog is not None
        hop = self.dialog.next_hop()
        self.calls.exchanges.ask(
            request, hop, self.request_flow(), responded=responded, failed=failed, give_up_s=give_up_s
        )

    def request_flow(self) -> Flow | None:
        """A connection that stands is used again; over UDP the route set and target decide, unless SIP_USE_SOURCE_SOCKET."""
        if self.flow is not None and (self.flow.is_reliable or self.calls.start.use_source_socket):
            return self.flow
        return None

    def acknowledge(self, cseq: int, dialog: Dialog | None = None) -> None:
        """ACK the 2xx to our INVITE; a repetition of the 2xx gets the same bytes."""
        dialog = dialog or self.dialog
        assert dialog is not None
        if self._last_ack is not None and self._last_ack[0] == cseq and dialog is self.dialog:
            self._last_ack[2].send(self._last_ack[1])
            return

        def sent(data: bytes, flow: Flow) -> None:
            if dialog is self.dialog:
                self._last_ack = (cseq, data, flow)

        self.calls.exchanges.post(dialog.acknowledge(cseq), dialog.next_hop(), self.request_flow(), sent)

    def credentials_for(self, response: Response, request: Request) -> Header | None:
        """The header that answers a 401 or 407; None when it is another status or nothing can be answered."""
        if response.status not in (401, 407) or self.auth is None:
            return None
        theirs, ours = ("www-authenticate", "authorization")
        if response.status == 407:
            theirs, ours = ("proxy-authenticate", "proxy-authorization")
        value = authorization(
            response.all(theirs), method=request.method, uri=request.uri, credentials=self.auth, body=request.body
        )
        return (ours, value) if value else None

    # ---- session timer

    def rearm(self) -> None:
        self._session_alarm.deadline = min(self.timer.refresh_at, self.timer.expires_at)
        self.calls.exchanges.watch(self._session_alarm)

    def _session_due(self) -> None:
        now = time.monotonic()
        if now >= self.timer.expires_at:
            self.give_up("session_expired")
            return
        self._session_alarm.deadline = self.timer.expires_at
        self.calls.exchanges.watch(self._session_alarm)
        self.offers.refresh()

    # ---- survival

    def save(self) -> None:
        if self.state in ("answered", "confirmed"):
            self.calls.save(snapshot(self))


def is_heavy(message: Message) -> bool:
    return sum(len(value) for _name, value in message.headers) + len(message.body) > HEAVY_BYTES


def is_sdp(request: Request) -> bool:
    kind = request.get("content-type", "application/sdp")
    return kind.partition(";")[0].strip().lower() == "application/sdp"
