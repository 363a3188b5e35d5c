"""A call that came to us, until it is answered or over.

Runs in: sip.
Owns: the responses to the INVITE: 100, 180, 183, 200 and refusals, all with one To tag.

Rules
1. An INVITE that can never become a call (no Contact, no usable offer) is refused before there is a leg.
2. What a 183 has described the 200 repeats.
3. While it rings the last provisional response is sent again every minute (RFC 3261 section 13.3.1.1), lest a proxy gives up.

Not here: limits and the table -> `calls.py`; from the ACK on -> `call.py`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from shm import messages as wire
from shm.errors import CallerError, PeerError
from workers.sip import sdp
from workers.sip.call import Call
from workers.sip.dialog import Dialog
from workers.sip.identity import ALLOW
from workers.sip.timers import Alarm

if TYPE_CHECKING:
    from workers.sip.call import Header
    from workers.sip.calls import Calls
    from workers.sip.server_exchange import ServerExchange
    from workers.sip.transport import Flow

REMINDER_S = 60.0


class IncomingCall(Call):
    def __init__(
        self, calls: Calls, leg_id: str, exchange: ServerExchange, source: Flow, offer: sdp.Session | None
    ) -> None:
        """`offer` None: our 200 will carry one. Raises MessageError(400) without a usable Contact."""
        super().__init__(calls, leg_id)
        self.state = "incoming"
        self.dialog = Dialog.called(exchange.request, exchange.to_tag)
        self.flow = source
        self.source_host = source.remote[0]
        self.is_trusted = False
        self.exchange: ServerExchange | None = exchange
        self._offer = offer
        self._allows(exchange)
        self._reminder = Alarm(self._remind)
        self._provisional = 180
        self._rung = False

    def _allows(self, exchange: ServerExchange) -> None:
        self.peer_takes_update = "update" in exchange.request.tokens("allow")

    @property
    def has_offer(self) -> bool:
        return self._offer is not None

    def ring(self) -> None:
        """180, as often as control likes. Raises CallerError when the call is past that."""
        if self.state != "incoming":
            raise CallerError("not ringing", 409)
        self._provide(180)

    def progress(self, local: wire.LocalMedia, codec: str) -> wire.Media:
        """183 with SDP."""
        if self.state not in ("incoming", "early"):
            raise CallerError("not ringing", 409)
        if self._offer is None:
            raise PeerError("the INVITE had no offer: early media would need one")
        media = self._agree(local, codec)
        self.state = "early"
        self._provide(183)
        return media

    def _agree(self, local: wire.LocalMedia, codec: str) -> wire.Media:
        """The answer to the offer, once; raises NotAcceptable, CallerError for a codec that was not offered."""
        if self.media is not None:
            return self.media
        assert self._offer is not None
        self.local = local
        try:
            body, media = self.answer_sdp(self._offer, local, codec)
        except sdp.NotAcceptable:
            if codec:
                raise CallerError(f"{codec} was not offered") from None
            raise
        self.local_sdp, self.media = body, media
        return media

    def _provide(self, status: int) -> None:
        self._provisional = status
        self._rung = True
        self._send_provisional()

    def _send_provisional(self) -> None:
        exchange = self.exchange
        assert exchange is not None
        body = self.local_sdp if self._provisional == 183 else b""
        exchange.respond(exchange.reply(self._provisional, self._contact(exchange), ("allow", ALLOW), body=body))
        self._reminder.deadline = time.monotonic() + REMINDER_S
        self.calls.exchanges.watch(self._reminder)

    def _remind(self) -> None:
        if self.exchange is not None:
            self._send_provisional()

    def _contact(self, exchange: ServerExchange) -> Header:
        return ("contact", self.calls.identity.contact(exchange.flow))

    def answer(self, local: wire.LocalMedia, codec: str) -> wire.Media | None:
        """200 with SDP; None when it carries the offer. Raises NotAcceptable after a 488 that has ended the call."""
        if self.state in ("answered", "confirmed"):
            return self.media
        exchange = self.exchange
        if exchange is None or self.state == "ended":
            raise CallerError("the call is over", 409)
        try:
            if self._offer is None:
                self.local = local
                self.local_sdp = self.offer_sdp(local)
            else:
                self._agree(local, codec)
        except sdp.NotAcceptable:
            self.reject(488)
            self.calls.post(wire.CallEnded(leg_id=self.leg_id, reason="connect_failed"))
            raise
        request = exchange.request
        cseq = request.cseq[0]
        headers = [self._contact(exchange), ("allow", ALLOW), *self.timer.asked(request, time.monotonic())]
        data = exchange.respond(exchange.reply(200, *headers, body=self.local_sdp))
        self.calls.no_longer_ringing(self)
        self.state = "answered"
        self.await_ack(data, exchange.flow, cseq, has_offer=self._offer is None, is_first=True)
        self._settle()
        self.rearm()
        self.save()
        return self.media

    def reject(self, status: int, reason: str = "", retry_after_s: int = 0) -> None:
        """Final refusal; the call is gone. Nothing happens to a call that is answered or over."""
        if self.exchange is None:
            return
        headers = (("retry-after", str(retry_after_s)),) if retry_after_s else ()
        self.exchange.answer(status, *headers, reason=reason)
        self._over()

    def cancelled(self) -> None:
        if self.exchange is not None:
            self.exchange.answer(487)
            self.finish("caller_cancel")
            self._settle()
            self.drop()

    def remote_bye(self) -> None:
        if self.exchange is not None:  # RFC 3261 section 15.1.2: the pending INVITE gets its final response
            self.cancelled()
        else:
            super().remote_bye()

    def hangup(self) -> None:
        if self.exchange is not None:
            self.reject(603)
        else:
            super().hangup()

    def leave(self) -> None:
        if self.exchange is not None:
            self.reject(503)
        else:
            super().leave()

    def _over(self) -> None:
        self._close()
        self._settle()
        self.drop()

    def _close(self) -> None:
        self.calls.no_longer_ringing(self)
        super()._close()

    def _settle(self) -> None:
        """The INVITE has its final response: keep nothing of it."""
        self.exchange = None
        self._offer = None
        self._reminder.cancel()
