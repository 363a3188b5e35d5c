"""The four transaction machines of RFC 3261 section 17 with RFC 6026, and the repetition of a 2xx until its ACK.

Runs in: sip.
Owns: what is retransmitted when, and when a transaction is over. Pure: no clock, no socket.

Rules
1. Every method takes `now` (seconds, monotonic) and returns actions for the caller to carry out in order;
   `deadline` says when `tick` wants to be called next.
2. A finished transaction keeps the bytes it may have to repeat, never a message.
3. A machine that has returned `ENDED` is dead: it answers everything with no action.

Not here: which machine a message belongs to -> `client_key`, `server_key`; flows and tables -> `exchanges.py`.
"""

from enum import Enum
from typing import Literal, NamedTuple

from workers.sip.message import BRANCH_COOKIE, Message, Request, Response
from workers.sip.timers import NEVER

T1_S = 0.5
T2_S = 4.0
T4_S = 5.0
PATIENCE_S = 64 * T1_S  # timers B, D, F, H, J, L, M

Key = tuple[str, ...]


class Send(NamedTuple):
    """Put these bytes on the transaction's flow."""

    data: bytes


class Deliver(NamedTuple):
    """Hand a response to the transaction's user."""

    response: Response


class Signal(Enum):
    TIMED_OUT = "timed out"  # no final response (timers B, F) or no ACK (timer H, 2xx never acknowledged)
    ENDED = "ended"  # forget this transaction


TIMED_OUT: Literal[Signal.TIMED_OUT] = Signal.TIMED_OUT
ENDED: Literal[Signal.ENDED] = Signal.ENDED
Action = Send | Deliver | Signal


def client_key(message: Message) -> Key:
    """Section 17.1.3: branch of the topmost Via and method of the CSeq."""
    return (message.via.branch, message.cseq[1])


def server_key(request: Request) -> Key:
    """Section 17.2.3: branch, sent-by and method (ACK counts as INVITE); without the cookie by what RFC 2543 had."""
    via = request.via
    method = "INVITE" if request.method == "ACK" else request.method
    host, port = via.sent_by
    if via.branch.startswith(BRANCH_COOKIE):
        return (via.branch, host, str(port), method)
    number, _method = request.cseq
    return ("", host, str(port), method, request.call_id, str(number), request.from_tag)


class Machine:
    __slots__ = ("_give_up_at", "_interval_s", "_last", "_repeat_at", "reliable", "state")

    def __init__(self, state: str, *, reliable: bool) -> None:
        self.state = state
        self.reliable = reliable
        self._last = b""
        self._interval_s = T1_S
        self._repeat_at = NEVER
        self._give_up_at = NEVER

    @property
    def deadline(self) -> float:
        return min(self._repeat_at, self._give_up_at)

    def _end(self) -> list[Action]:
        self.state = "terminated"
        self._last = b""
        self._repeat_at = self._give_up_at = NEVER
        return [ENDED]

    def _linger(self, state: str, seconds: float, now: float, actions: list[Action]) -> list[Action]:
        """Enter a state that only absorbs what the network repeats, for a while."""
        self.state = state
        self._repeat_at = NEVER
        self._give_up_at = now + seconds
        return actions if seconds else actions + self._end()


class InviteClient(Machine):
    """Section 17.1.1 and RFC 6026 section 8.4. Every 2xx is delivered, forked ones and repetitions too."""

    __slots__ = ("_request",)

    def __init__(self, request: Request, *, reliable: bool) -> None:
        super().__init__("calling", reliable=reliable)
        self._request: Request | None = request

    def start(self, now: float) -> list[Action]:
        assert self._request is not None
        self._last = self._request.encode()
        self._give_up_at = now + PATIENCE_S
        if not self.reliable:
            self._repeat_at = now + self._interval_s
        return [Send(self._last)]

    def tick(self, now: float) -> list[Action]:
        if now >= self._give_up_at:
            gave_up = self.state in ("calling", "proceeding")
            return [TIMED_OUT, *self._end()] if gave_up else self._end()
        if now >= self._repeat_at:
            self._interval_s *= 2
            self._repeat_at = now + self._interval_s
            return [Send(self._last)]
        return []

    def receive(self, response: Response, now: float) -> list[Action]:
        if response.status < 200:
            if self.state not in ("calling", "proceeding"):
                return []
            if self.state == "calling":
                self._give_up_at = NEVER  # a ringing phone rings until somebody decides
            self.state = "proceeding"
            self._repeat_at = NEVER
            return [Deliver(response)]
        if response.status < 300:
            if self.state in ("calling", "proceeding"):
                self._linger("accepted", PATIENCE_S, now, [])
                self._request, self._last = None, b""
            return [Deliver(response)] if self.state == "accepted" else []
        if self.state == "completed":
            return [Send(self._last)]
        if self.state not in ("calling", "proceeding"):
            return []
        self._last = self._ack(response)
        self._request = None
        actions: list[Action] = [Send(self._last), Deliver(response)]
        return self._linger("completed", 0 if self.reliable else PATIENCE_S, now, actions)

    def cancelled(self, now: float) -> None:
        """Section 9.1: after a CANCEL the final response is waited for no longer than 64*T1."""
        if self.state == "proceeding":
            self._give_up_at = now + PATIENCE_S

    def _ack(self, response: Response) -> bytes:
        """Section 17.1.1.3: same branch, same Route, To of the response."""
        request = self._request
        assert request is not None
        ack = Request("ACK", request.uri)
        ack.add("via", request.get("via"))
        ack.add("max-forwards", "70")
        for route in request.all("route"):
            ack.add("route", route)
        ack.add("from", request.get("from"))
        ack.add("to", response.get("to"))
        ack.add("call-id", request.call_id)
        ack.add("cseq", f"{request.cseq[0]} ACK")
        return ack.encode()


class PlainClient(Machine):
    """Section 17.1.2: everything but INVITE."""

    __slots__ = ()

    def __init__(self, request: Request, *, reliable: bool) -> None:
        super().__init__("trying", reliable=reliable)
        self._last = request.encode()

    def start(self, now: float) -> list[Action]:
        self._give_up_at = now + PATIENCE_S
        if not self.reliable:
            self._repeat_at = now + self._interval_s
        return [Send(self._last)]

    def give_up_by(self, when: float) -> None:
        self._give_up_at = min(self._give_up_at, when)

    def tick(self, now: float) -> list[Action]:
        if now >= self._give_up_at:
            return self._end() if self.state == "completed" else [TIMED_OUT, *self._end()]
        if now >= self._repeat_at:
            self._interval_s = T2_S if self.state == "proceeding" else min(2 * self._interval_s, T2_S)
            self._repeat_at = now + self._interval_s
            return [Send(self._last)]
        return []

    def receive(self, response: Response, now: float) -> list[Action]:
        if self.state not in ("trying", "proceeding"):
            return []
        if response.status < 200:
            self.state = "proceeding"
            return [Deliver(response)]
        self._last = b""
        return self._linger("completed", 0 if self.reliable else T4_S, now, [Deliver(response)])


class InviteServer(Machine):
    """Section 17.2.1 and RFC 6026 section 8.5: after a 2xx it only absorbs; repeating the 2xx is `Repeated2xx`."""

    __slots__ = ()

    def __init__(self, *, reliable: bool) -> None:
        super().__init__("proceeding", reliable=reliable)

    def respond(self, status: int, data: bytes, now: float) -> list[Action]:
        if self.state != "proceeding":
            return []
        if status < 200:
            self._last = data
            return [Send(data)]
        if status < 300:
            self._last = b""
            return self._linger("accepted", PATIENCE_S, now, [Send(data)])
        self.state, self._last = "completed", data
        self._give_up_at = now + PATIENCE_S
        if not self.reliable:
            self._repeat_at = now + self._interval_s
        return [Send(data)]

    def receive_again(self) -> list[Action]:
        return [Send(self._last)] if self._last and self.state in ("proceeding", "completed") else []

    def acknowledge(self, now: float) -> list[Action]:
        """The ACK to a final response of 300 and more; one to a 2xx is not the transaction's business."""
        if self.state != "completed":
            return []
        self._last = b""
        return self._linger("confirmed", 0 if self.reliable else T4_S, now, [])

    def tick(self, now: float) -> list[Action]:
        if now >= self._give_up_at:
            return [TIMED_OUT, *self._end()] if self.state == "completed" else self._end()
        if now >= self._repeat_at:
            self._interval_s = min(2 * self._interval_s, T2_S)
            self._repeat_at = now + self._interval_s
            return [Send(self._last)]
        return []


class PlainServer(Machine):
    """Section 17.2.2: everything but INVITE and ACK."""

    __slots__ = ()

    def __init__(self, *, reliable: bool) -> None:
        super().__init__("trying", reliable=reliable)

    def respond(self, status: int, data: bytes, now: float) -> list[Action]:
        if self.state == "completed":
            return []
        self._last = data
        if status < 200:
            self.state = "proceeding"
            return [Send(data)]
        return self._linger("completed", 0 if self.reliable else PATIENCE_S, now, [Send(data)])

    def receive_again(self) -> list[Action]:
        return [Send(self._last)] if self._last else []

    def acknowledge(self, now: float) -> list[Action]:  # noqa: ARG002  an ACK never matches: the keys differ
        return []

    def tick(self, now: float) -> list[Action]:
        return self._end() if now >= self._give_up_at else []


class Repeated2xx(Machine):
    """Section 13.3.1.4: the 2xx to an INVITE goes out again at T1, 2*T1 … T2, over any transport, until its ACK or 64*T1."""

    __slots__ = ()

    def __init__(self, data: bytes, now: float) -> None:
        super().__init__("unacknowledged", reliable=False)
        self._last = data
        self._repeat_at = now + T1_S
        self._give_up_at = now + PATIENCE_S

    def acknowledge(self) -> None:
        self._end()

    def tick(self, now: float) -> list[Action]:
        if now >= self._give_up_at:
            return [TIMED_OUT, *self._end()]
        if now >= self._repeat_at:
            self._interval_s = min(2 * self._interval_s, T2_S)
            self._repeat_at = now + self._interval_s
            return [Send(self._last)]
        return []
