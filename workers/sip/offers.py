"""What we want to renegotiate in a running call: hold, unhold, session refresh.

Runs in: sip.
Owns: the queue of one call's offers, their retries (401/407 once each, 422 once, 491 after the delay of RFC 3261 section 14.1).

Rules
1. One offer is on its way at a time, none while a 2xx of ours waits for its ACK; at most QUEUE_LIMIT wait.
2. A refused hold leaves the call as it was. An answer of 481 ends it: the peer does not know the call any more.

Not here: the peer's offers -> `call.py`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from workers.sip import sdp
from workers.sip.dialog import MIN_SESSION_S
from workers.sip.message import Request, Response, integer
from workers.sip.timers import NEVER, Alarm

if TYPE_CHECKING:
    from workers.sip.call import Call
    from workers.sip.transport import Flow

QUEUE_LIMIT = 4
GLARE_RETRIES = 6

Report = Callable[[str], None]  # "" = agreed, else why not


class Offer:
    """`held` None: a session refresh, nothing changes."""

    __slots__ = ("body", "credentials", "cseq", "glares", "held", "is_update", "raised", "report", "request")

    def __init__(self, held: bool | None, report: Report) -> None:
        self.held = held
        self.report = report
        self.is_update = False
        self.body = b""
        self.cseq = 0
        self.request: Request | None = None
        self.glares = 0
        self.raised = False
        self.credentials: dict[str, str] = {}


class Offers:
    def __init__(self, call: Call) -> None:
        self._call = call
        self._queue: deque[Offer] = deque()
        self._current: Offer | None = None
        self._retry = Alarm(self._send)
        self._update_refused = False

    @property
    def is_pending(self) -> bool:
        """An offer of ours waits for its answer (one that waits for its retry after 491 does not)."""
        return self._current is not None and self._retry.deadline == NEVER

    def hold(self, held: bool, report: Report) -> None:
        self._add(Offer(held, report))

    def refresh(self) -> None:
        if not any(offer.held is None for offer in (*self._queue, self._current) if offer is not None):
            self._add(Offer(None, lambda _error: None))

    def _add(self, offer: Offer) -> None:
        if len(self._queue) >= QUEUE_LIMIT:
            offer.report("too many changes wait")
            return
        self._queue.append(offer)
        self.go_on()

    def go_on(self) -> None:
        """Start the next one when nothing is in its way."""
        call = self._call
        if self._current is None and call.state == "confirmed" and call.unacknowledged is None and self._queue:
            self._current = self._queue.popleft()
            self._send()

    def abandon(self) -> None:
        """The call is over."""
        left = [*self._queue] if self._current is None else [self._current, *self._queue]
        self._queue.clear()
        self._current = None
        self._retry.cancel()
        for offer in left:
            offer.report("the call is over")

    def _send(self) -> None:
        call, offer = self._call, self._current
        assert offer is not None
        assert call.dialog is not None
        if call.unacknowledged is not None:  # the peer was first meanwhile
            self._try_later(offer)
            return
        offer.is_update = offer.held is None and call.peer_takes_update and not self._update_refused
        request = call.dialog.request("UPDATE" if offer.is_update else "INVITE")
        offer.cseq = call.dialog.local_cseq
        call.calls.identity.sign_request(request)
        request.headers += call.timer.refresh_headers()
        request.headers += offer.credentials.items()
        if not offer.is_update:
            local = call.wished_local(offer.held)
            # A refresh repeats what is in force, version and all.
            offer.body = call.offer_sdp(local) if offer.held is not None or not call.local_sdp else call.local_sdp
            request.add("content-type", "application/sdp")
            request.body = offer.body
        call.save()

        def responded(response: Response, flow: Flow) -> None:
            self._responded(offer, response, flow)

        def failed(_why: str) -> None:
            self._no_answer(offer)

        offer.request = request
        call.ask(request, responded, failed)

    def _responded(self, offer: Offer, response: Response, flow: Flow) -> None:
        call = self._call
        if 200 <= response.status < 300 and not offer.is_update:
            call.flow = flow
            if call.dialog is not None:
                call.dialog.refresh_target(response)
            call.acknowledge(offer.cseq)
        if offer is not self._current or response.status < 200 or offer.request is None:
            return
        if response.status < 300:
            self._agreed(offer, response)
        elif response.status == 491 and offer.glares < GLARE_RETRIES:
            offer.glares += 1
            self._try_later(offer)
        elif (header := call.credentials_for(response, offer.request)) and header[0] not in offer.credentials:
            offer.credentials[header[0]] = header[1]
            self._send()
        elif response.status == 422 and not offer.raised and call.timer.interval_s:
            offer.raised = True
            call.timer.interval_s = max(call.timer.interval_s, integer(response.get("min-se")) or MIN_SESSION_S)
            self._send()
        elif response.status in (404, 405, 501) and offer.is_update:
            self._update_refused = True
            self._send()
        elif response.status in (408, 481):
            self._no_answer(offer, is_unknown=response.status == 481)
        else:
            self._done(f"{response.status} {response.reason}")

    def _agreed(self, offer: Offer, response: Response) -> None:
        call = self._call
        assert call.dialog is not None
        call.dialog.refresh_target(response)
        call.timer.answered(response, call.timer.interval_s, time.monotonic())
        call.rearm()
        error = ""
        if not offer.is_update:
            try:
                media = sdp.read_answer(sdp.parse(response.body), call.wished_local(offer.held))
            except (sdp.SdpError, sdp.NotAcceptable) as refusal:
                error = str(refusal) or "unusable answer"
            else:
                if offer.held is not None:
                    call.held_locally = offer.held
                call.local_sdp = offer.body
                call.adopt(media, by_peer=False)
        call.save()
        self._done(error)

    def _no_answer(self, offer: Offer, *, is_unknown: bool = False) -> None:
        """No answer at all, or the peer does not know the call: a refresh that fails so ends it (RFC 4028 section 10)."""
        if offer is not self._current:
            return
        if is_unknown:
            self._call.give_up("remote_bye")
        elif offer.held is None:
            self._call.give_up("session_expired")
        else:
            self._done("no answer")

    def _try_later(self, offer: Offer) -> None:
        call = self._call
        assert call.dialog is not None
        assert offer is self._current
        self._retry.deadline = time.monotonic() + call.dialog.retry_delay_s()
        call.calls.exchanges.watch(self._retry)

    def _done(self, error: str) -> None:
        offer, self._current = self._current, None
        assert offer is not None
        offer.report(error)
        self.go_on()
