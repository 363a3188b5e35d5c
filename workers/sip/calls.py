"""All calls of the process: whose message is this, what does control want, may another one ring.

Runs in: sip.
Owns: the tables of legs and dialogs, the limits on ringing calls, the meaning of control's commands.

Rules
1. A leg is in `legs` from its INVITE to its end; its dialogs stay in `dialogs` until nothing can cross them any more.
2. What leaves for control is UTF-8 and small: an INVITE heavier than HEAVY_BYTES is refused (513), for a dialog and its
   2xx must fit into one message between processes.
3. Commands are idempotent: what is already so is Done; an unknown leg is the caller's fault, but for Hangup and Reject,
   which may cross its end.

Not here: one call's life -> `call.py`, `incoming.py`, `outgoing.py`; command ids -> `main.py`.
"""

import uuid
from collections import Counter
from collections.abc import Callable, Iterator

from shm import messages as wire
from shm.errors import CallerError, PeerError
from workers.sip import sdp
from workers.sip.call import HEAVY_BYTES, Call, is_heavy, is_sdp
from workers.sip.dialog import Dialog, DialogKey
from workers.sip.endpoint import Endpoint
from workers.sip.identity import ALLOW, Identity
from workers.sip.incoming import IncomingCall
from workers.sip.message import MessageError, Request, Response, clean
from workers.sip.outgoing import OutgoingCall
from workers.sip.resolver import Resolver
from workers.sip.server_exchange import ServerExchange
from workers.sip.survival import restore, snapshot
from workers.sip.transport import Flow, client_context
from workers.sip.uri import NameAddr, Uri, format_host_port

RETRY_AFTER_S = "5"

Reply = Callable[[wire.Done | wire.Failed], None]
Command = (
    wire.Dial | wire.Ring | wire.Progress | wire.Answer | wire.Reject | wire.Hangup | wire.Hold | wire.RestoreDialog
)


class Calls:
    """`post` takes numbered events, `tell` what is not numbered. Must be made inside a running loop."""

    def __init__(
        self,
        start: wire.SipStart,
        post: Callable[[wire.Event], None],
        tell: Callable[[wire.Wire], None],
        resolver: Resolver | None = None,
    ) -> None:
        self.start = start
        self.post = post
        self.tell = tell
        self.identity = Identity(start)
        self.endpoint = Endpoint(
            self.identity,
            resolver or Resolver(has_ipv6=bool(start.bind_ipv6)),
            self,
            client_tls=client_context(start.tls_ca_file, insecure=start.tls_insecure),
            use_source_socket=start.use_source_socket,
        )
        self.exchanges = self.endpoint.exchanges
        self.transports = self.endpoint.transports
        self.legs: dict[str, Call] = {}
        self._dialogs: dict[DialogKey, tuple[Call, Dialog]] = {}
        self._keys: dict[Call, list[DialogKey]] = {}
        self._ringing: dict[str, str] = {}  # leg_id -> source address where it is not trusted, else ""
        self._ringing_from: Counter[str] = Counter()
        if start.debug:
            self.exchanges.trace = lambda data, flow: self._trace("sip sent", data, flow)
            self.endpoint.trace = lambda data, flow: self._trace("sip received", data, flow)

    # ---- tables

    def remember_dialog(self, dialog: Dialog, call: Call) -> None:
        self._dialogs[dialog.key] = (call, dialog)
        self._keys.setdefault(call, []).append(dialog.key)

    def forget_dialog(self, dialog: Dialog) -> None:
        entry = self._dialogs.pop(dialog.key, None)
        if entry is not None:
            self._keys[entry[0]].remove(dialog.key)

    def forget_dialogs(self, call: Call) -> None:
        """Nothing of this call is expected any more."""
        for key in self._keys.pop(call, ()):
            self._dialogs.pop(key, None)

    def forget_leg(self, call: Call) -> None:
        if self.legs.get(call.leg_id) is call:
            del self.legs[call.leg_id]

    def no_longer_ringing(self, call: Call) -> None:
        host = self._ringing.pop(call.leg_id, "")
        if host:
            self._ringing_from[host] -= 1
            if not self._ringing_from[host]:
                del self._ringing_from[host]

    def save(self, dialog: wire.Dialog) -> None:
        self.tell(wire.DialogSaved(dialog=dialog))

    def inventory(self) -> Iterator[wire.SipCall]:
        for call in self.legs.values():
            if call.state in ("answered", "confirmed"):
                yield wire.SipCall(leg_id=call.leg_id, state=call.state, dialog=snapshot(call))
            elif call.state != "ended":
                yield wire.SipCall(leg_id=call.leg_id, state=call.state)

    def leave(self) -> int:
        """BYE, CANCEL or 503 to everything; how many calls there were."""
        calls = list(self.legs.values())
        for call in calls:
            call.leave()
        return len(calls)

    @property
    def is_busy(self) -> bool:
        """Something still waits for a peer's answer."""
        return bool(self._dialogs)

    # ---- from the wire

    def knows(self, request: Request) -> bool:
        return _dialog_key(request) in self._dialogs

    def requested(self, exchange: ServerExchange, source: Flow) -> None:
        if is_heavy(exchange.request):
            exchange.answer(513)
            return
        call, _dialog = self._dialogs[_dialog_key(exchange.request)]
        call.requested(exchange, source)

    def acknowledged(self, ack: Request, source: Flow) -> None:
        entry = self._dialogs.get(_dialog_key(ack))
        if entry is not None:
            entry[0].acknowledged(ack, source)

    def cancelled(self, exchange: ServerExchange) -> None:
        request = exchange.request
        entry = self._dialogs.get((request.call_id, exchange.to_tag, request.from_tag))
        if entry is not None and isinstance(entry[0], IncomingCall):
            entry[0].cancelled()

    def stray_response(self, response: Response, source: Flow) -> None:  # noqa: ARG002  the protocol of Core
        """A 2xx repeated after its transaction, or to a predecessor's re-INVITE, needs an ACK or it never ends."""
        try:
            number, method = response.cseq
        except MessageError:
            return
        entry = self._dialogs.get((response.call_id, response.from_tag, response.to_tag))
        if entry is not None and method == "INVITE" and 200 <= response.status < 300:
            entry[0].acknowledge(number)

    def invited(self, exchange: ServerExchange, source: Flow) -> None:
        request = exchange.request
        if is_heavy(request):
            exchange.answer(513)
            return
        is_trusted = self.identity.trusts(source.remote[0])
        if self._rings_too_much(source.remote[0], is_trusted=is_trusted):
            exchange.answer(503, ("retry-after", RETRY_AFTER_S))
            return
        if request.body and not is_sdp(request):
            exchange.answer(415, ("accept", "application/sdp"))
            return
        leg_id = str(uuid.uuid4())
        try:
            offer = sdp.parse(request.body) if request.body else None
            if offer is not None and not sdp.acceptable(offer, self.start.codecs):
                exchange.answer(488)
                return
            call = IncomingCall(self, leg_id, exchange, source, offer)
        except sdp.SdpError:
            exchange.answer(400, reason="Bad SDP")
            return
        except MessageError as error:
            exchange.answer(error.status or 400, reason=error.reason)
            return
        if call.timer.too_small(request):
            exchange.answer(422, ("min-se", "90"))
            return
        local_host = self._host_for(offer, source)
        if not local_host:
            exchange.answer(488)
            return
        assert call.dialog is not None
        self.legs[leg_id] = call
        self.remember_dialog(call.dialog, call)
        self._ringing[leg_id] = "" if is_trusted else source.remote[0]
        if not is_trusted:
            self._ringing_from[source.remote[0]] += 1
        exchange.answer(100, ("allow", ALLOW))
        if self.start.auto_ringing:
            call.ring()
        self.post(
            wire.CallReceived(
                leg_id=leg_id,
                from_user=_user(request.get("from")),
                to_user=_user(request.get("to")) or _uri_user(request.uri),
                headers=_own_headers(request),
                offered_codecs=sdp.offered_codecs(offer) if offer is not None else (),
                has_offer=offer is not None,
                source_address=format_host_port(*source.remote),
                trusted=is_trusted,
                local_host=local_host,
            )
        )

    def _rings_too_much(self, host: str, *, is_trusted: bool) -> bool:
        return len(self._ringing) >= self.start.ringing_limit or (
            not is_trusted and self._ringing_from[host] >= self.start.untrusted_ringing_limit
        )

    def _host_for(self, offer: sdp.Session | None, source: Flow) -> str:
        """Our address of the family that the offer uses; "" when we have none of it."""
        host = source.remote[0]
        stream = next((s for s in offer.streams if s.kind == "audio" and s.port), None) if offer else None
        if stream is not None and (":" in stream.host or stream.host[-1:].isdigit()):
            host = stream.host  # else a name: the packet's family is the best guess
        if ":" in host:
            return self.start.bind_ipv6 or (self.start.bind_ip if ":" in self.start.bind_ip else "")
        return self.start.bind_ip

    def _trace(self, event: str, data: bytes, flow: Flow) -> None:
        fields: dict[str, str | int | float | bool | None] = {
            "peer": format_host_port(*flow.remote),
            "transport": flow.transport,
            "message": data[:HEAVY_BYTES].decode("utf-8", "replace"),
        }
        self.tell(wire.LogLine(level="info", event=event, fields=fields))

    # ---- from control

    def execute(self, command: Command, reply: Reply) -> None:
        """Carry out one command; exactly one reply, perhaps later (Hold)."""
        command_id = command.command_id
        try:
            if isinstance(command, wire.Hold):
                self._hold(command, reply)
                return
            media = self._carry_out(command)
        except CallerError as error:
            reply(wire.Failed(command_id=command_id, error=str(error), blame="caller"))
        except PeerError as error:
            reply(wire.Failed(command_id=command_id, error=str(error), blame="peer"))
        except ValueError as error:  # what cannot be written into a message
            reply(wire.Failed(command_id=command_id, error=str(error), blame="caller"))
        else:
            reply(wire.Done(command_id=command_id, media=media))

    def _carry_out(self, command: Command) -> wire.Media | None:
        match command:
            case wire.Dial():
                if command.leg_id not in self.legs:
                    call = OutgoingCall(self, command)
                    self.legs[command.leg_id] = call
                    call.start()
            case wire.Ring():
                self._incoming(command.leg_id).ring()
            case wire.Progress():
                return self._incoming(command.leg_id).progress(command.media, command.codec)
            case wire.Answer():
                return self._incoming(command.leg_id).answer(command.media, command.codec)
            case wire.Reject():
                leg = self.legs.get(command.leg_id)
                if isinstance(leg, IncomingCall):
                    leg.reject(command.status, command.reason, command.retry_after_s)
            case wire.Hangup():
                if leg := self.legs.get(command.leg_id):
                    leg.hangup()
            case wire.RestoreDialog():
                self._restore(command.dialog)
            case wire.Hold():
                raise AssertionError
        return None

    def _incoming(self, leg_id: str) -> IncomingCall:
        call = self.legs.get(leg_id)
        if not isinstance(call, IncomingCall):
            raise CallerError("no such incoming call", 404)
        return call

    def _hold(self, command: wire.Hold, reply: Reply) -> None:
        call = self.legs.get(command.leg_id)
        if call is None or call.state != "confirmed":
            raise CallerError("not connected", 409)

        def report(error: str) -> None:
            if error:
                reply(wire.Failed(command_id=command.command_id, error=error, blame="peer"))
            else:
                reply(wire.Done(command_id=command.command_id))

        call.offers.hold(command.held, report)

    def _restore(self, saved: wire.Dialog) -> None:
        if saved.leg_id in self.legs:
            return
        call = Call(self, saved.leg_id)
        try:
            restore(call, saved)
        except ValueError as error:
            raise CallerError(f"dialog cannot be restored: {error}") from error
        assert call.dialog is not None
        self.legs[saved.leg_id] = call
        self.remember_dialog(call.dialog, call)


def _dialog_key(request: Request) -> DialogKey:
    return (request.call_id, request.to_tag, request.from_tag)


def _user(address: str) -> str:
    try:
        return NameAddr.parse(address).uri.user_text
    except ValueError:
        return ""


def _uri_user(uri: str) -> str:
    try:
        return Uri.parse(uri).user_text
    except ValueError:
        return ""


def _own_headers(request: Request) -> dict[str, str]:
    """The X-* headers with the spelling received; the first of equal names counts."""
    headers: dict[str, str] = {}
    for name, value in request.headers:
        if name.startswith("x-"):
            headers.setdefault(request.spelling(name), clean(value))
    return headers
