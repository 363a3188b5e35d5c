"""A call that we make, until it is answered or over.

Runs in: sip.
Owns: the INVITE and its retries (401/407 once each and once more when stale, 422 once), early dialogs, forks, CANCEL.

Rules
1. The first 2xx makes the call; every other 2xx is ACKed and its dialog ended with BYE.
2. After a hangup the call is gone for control, while its INVITE is cancelled as soon as a provisional response allows it;
   a 2xx that comes nevertheless is ACKed and ended.
3. Redirects are not followed.

Not here: targets and fail-over -> `client_exchange.py`; from the 2xx on -> `call.py`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from shm import messages as wire
from shm.errors import CallerError
from workers.sip import sdp
from workers.sip.call import BYE_S, Call, is_heavy
from workers.sip.dialog import Dialog, parse_session_expires
from workers.sip.identity import ALLOW
from workers.sip.message import Request, Response, integer, new_call_id, new_tag
from workers.sip.uri import Uri

if TYPE_CHECKING:
    from workers.sip.calls import Calls
    from workers.sip.client_exchange import ClientExchange
    from workers.sip.server_exchange import ServerExchange
    from workers.sip.transport import Flow

REASONS = {  # contract/legs.md section 3.1
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    407: "unauthorized",
    408: "timeout",
    480: "unavailable",
    486: "busy",
    487: "cancelled",
    488: "not_acceptable",
    503: "service_unavailable",
    603: "declined",
}
MAX_ROUNDS = 5  # INVITEs of one call: first, 401, 407, stale, 422
MAX_EARLY_DIALOGS = 16


class OutgoingCall(Call):
    def __init__(self, calls: Calls, dial: wire.Dial) -> None:
        """Raises CallerError for what cannot be put into an INVITE."""
        super().__init__(calls, dial.leg_id)
        self.state = "outgoing"
        self.local = dial.media
        self.auth = dial.auth
        self._dial = dial
        self._exchange: ClientExchange | None = None
        self._early: dict[str, Dialog] = {}
        self._tried: list[str] = []  # authorization headers given so far
        self._raised = False
        self._answered: Dialog | None = None
        self._asked_s = 0
        self._rounds = 0
        self._invite = self._first_invite()

    def _first_invite(self) -> Request:
        dial = self._dial
        try:
            target = Uri.parse(dial.target)
            sender, asserted = self.calls.identity.caller(dial.from_uri, target)
            proxy = dial.outbound_proxy or self.calls.start.outbound_proxy
            target.headers = ""
            request = Request("INVITE", str(target))
            if proxy:
                hop = Uri.parse(proxy)
                hop.params.setdefault("lr", None)
                request.add("route", f"<{hop}>")
            request.headers += [
                ("max-forwards", "70"),
                ("from", f"{sender};tag={new_tag()}"),
                ("to", f"<{target}>"),
                ("call-id", new_call_id()),
                ("cseq", "1 INVITE"),
            ]
            if asserted:
                request.add("p-asserted-identity", asserted)
            if dial.privacy:
                request.add("privacy", dial.privacy)
            for name, value in dial.headers.items():
                request.set(name, value)
            self.calls.identity.sign_request(request)
            self.local_sdp = sdp.make_offer(dial.media, session_id=self.sdp_id, version=self.sdp_version)
            request.add("content-type", "application/sdp")
            request.body = self.local_sdp
            request.encode()
        except (ValueError, sdp.NotAcceptable) as error:
            raise CallerError(str(error)) from error
        self._asked_s, _refresher = parse_session_expires(request.get("session-expires"))
        return request

    def start(self) -> None:
        self._send_invite(None)

    def _send_invite(self, flow: Flow | None) -> None:
        self._rounds += 1
        invite = self._invite
        routes = invite.all("route")
        hop = routes[0].strip("<>") if routes else invite.uri

        self._exchange = self.calls.exchanges.ask(invite, hop, flow, responded=self._responded, failed=self._failed)

    def _again(self, flow: Flow) -> None:
        """The same INVITE with the next CSeq, to where the last one went: its transaction has let go of it."""
        self._invite.set("cseq", f"{self._invite.cseq[0] + 1} INVITE")
        self._forget_early()
        self._send_invite(flow)

    def _failed(self, why: str) -> None:
        """No answer from anywhere, or cancelled before anything was sent."""
        fields: dict[str, str | int | float | bool | None] = {"leg_id": self.leg_id, "why": why}
        self.calls.tell(wire.LogLine(level="info", event="the INVITE was not answered", fields=fields))
        self.finish("invite_failed")
        self.drop()

    def _responded(self, response: Response, flow: Flow) -> None:
        status = response.status
        if status >= 300:
            self._refused(response, flow)
        elif is_heavy(response):
            if status >= 200:  # ACK it and end it: it cannot be kept
                self._end_fork(Dialog.calling(self._invite, response), self._invite.cseq[0], flow)
                self.finish("connect_failed")
                self.drop()
        elif status >= 200:
            self._accepted(self._dialog_with(response), response, flow)
        elif status > 100 and self.state != "ended" and response.to_tag and len(self._early) < MAX_EARLY_DIALOGS:
            self._progressed(self._dialog_with(response), response)

    def _dialog_with(self, response: Response) -> Dialog:
        """The dialog with whoever sent this: one INVITE may reach many."""
        tag = response.to_tag
        if self._answered is not None and self._answered.remote_tag == tag:
            return self._answered
        dialog = self._early.get(tag)
        if dialog is None:
            dialog = self._early[tag] = Dialog.calling(self._invite, response)
            if self._answered is None:
                self.calls.remember_dialog(dialog, self)
        else:
            dialog.learn(response)
        return dialog

    def _progressed(self, dialog: Dialog, response: Response) -> None:
        self.dialog = dialog
        if not response.body:
            return
        try:
            media = sdp.read_answer(sdp.parse(response.body), self.wished_local())
        except (sdp.SdpError, sdp.NotAcceptable):
            return  # the final answer decides
        if media != self.media:
            self.media = media
            self.state = "early"
            self.calls.post(wire.EarlyMediaReceived(leg_id=self.leg_id, media=media))

    def _accepted(self, dialog: Dialog, response: Response, flow: Flow) -> None:
        cseq = dialog.invite_cseq
        if self._answered is not None:
            if dialog is self._answered:  # the 2xx again: our ACK was lost
                self.acknowledge(cseq)
            else:
                self._end_fork(dialog, cseq, flow)
            return
        self._exchange = None
        self._answered = self.dialog = dialog
        self.flow = flow
        self._forget_early(but=dialog)
        self.acknowledge(cseq)
        if self.state == "ended":  # hung up while the 2xx was on its way
            self._send_bye()
            return
        self.peer_takes_update = "update" in response.tokens("allow")
        try:
            if response.body or self.media is None:  # the answer may have come with the 183
                self.media = sdp.read_answer(sdp.parse(response.body), self.wished_local())
        except (sdp.SdpError, sdp.NotAcceptable):
            self.give_up("connect_failed")
            return
        self.state = "confirmed"
        self.timer.answered(response, self._asked_s, time.monotonic())
        self.rearm()
        self.save()
        self.calls.post(wire.CallAnswered(leg_id=self.leg_id, media=self.media))
        self.offers.go_on()

    def _end_fork(self, dialog: Dialog, cseq: int, flow: Flow) -> None:
        """Somebody else has answered too."""
        again = dialog.local_cseq > cseq
        hop = dialog.next_hop()
        exchanges = self.calls.exchanges
        same = flow if flow.is_reliable or self.calls.start.use_source_socket else None
        exchanges.post(dialog.acknowledge(cseq), hop, same, lambda _data, _flow: None)
        if again:
            return
        exchanges.ask(
            dialog.request("BYE"),
            hop,
            same,
            responded=lambda _response, _flow: None,
            failed=lambda _why: None,
            give_up_s=BYE_S,
        )

    def _refused(self, response: Response, flow: Flow) -> None:
        self._exchange = None
        if self.state != "ended" and self._rounds < MAX_ROUNDS and self._can_try_again(response):
            self._again(flow)
            return
        status = response.status
        self.finish("invite_failed" if status < 400 else REASONS.get(status, f"sip_{status}"))
        self.drop()

    def _can_try_again(self, response: Response) -> bool:
        if response.status == 422 and self._asked_s and not self._raised:
            self._raised = True
            self._asked_s = max(self._asked_s, integer(response.get("min-se")) or 0)
            self._invite.set("session-expires", str(self._asked_s))
            self._invite.set("min-se", str(self._asked_s))
            return True
        header = self.credentials_for(response, self._invite)
        if header is None:
            return False
        name, value = header
        challenge = "".join(response.all("www-authenticate") + response.all("proxy-authenticate")).lower()
        is_stale = "stale=true" in challenge.replace('"', "").replace(" ", "")
        if self._tried.count(name) > (1 if is_stale else 0):
            return False
        self._tried.append(name)
        self._invite.set(name, value)
        return True

    def _forget_early(self, but: Dialog | None = None) -> None:
        for dialog in self._early.values():
            if dialog is not but:
                self.calls.forget_dialog(dialog)
        self._early.clear()

    def requested(self, exchange: ServerExchange, source: Flow) -> None:
        if self.state in ("outgoing", "early"):
            # Before our INVITE is answered only questions make sense.
            match exchange.request.method:
                case "OPTIONS":
                    exchange.answer(200, ("allow", ALLOW))
                case "UPDATE" if not exchange.request.body:
                    exchange.answer(200, ("contact", self.calls.identity.contact(exchange.flow)), ("allow", ALLOW))
                case "INVITE" | "UPDATE":
                    exchange.answer(491)
                case "BYE":
                    exchange.answer(481)
                case _:
                    exchange.answer(405, ("allow", ALLOW))
            return
        super().requested(exchange, source)

    def hangup(self) -> None:
        if self._exchange is None:
            super().hangup()
        elif self.state != "ended":
            self._close()
            self._exchange.cancel()

    def leave(self) -> None:
        if self._exchange is None:
            super().leave()
        else:
            self.hangup()
