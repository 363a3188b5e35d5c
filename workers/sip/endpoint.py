"""The SIP endpoint: from bytes to transactions, and what can be answered without a call.

Runs in: sip.
Owns: where a request belongs, what is refused before any call sees it, where responses go (RFC 3581).

Rules
1. A request that concerns no call is answered without a trace: no transaction, a To tag that is a keyed hash of the
   request, so that a repetition gets the same answer. A scan costs neither memory nor a leg.
2. Nothing from the wire raises out of here: what cannot be answered is dropped and counted in `refused`.
3. Order of checks: transaction, 483, 416, 420, dialog (481), method (405), merged (482).

Not here: calls and dialogs -> `calls.py`.
"""

import hashlib
import secrets
import ssl
from collections.abc import Callable
from typing import Protocol

from workers.sip.exchanges import MAX_SERVED, Exchanges
from workers.sip.identity import ALLOW, EXTENSIONS, Identity
from workers.sip.message import MessageError, Request, Response, integer, parse, respond
from workers.sip.resolver import Resolver
from workers.sip.server_exchange import ServerExchange
from workers.sip.transaction import client_key, server_key
from workers.sip.transport import Address, Flow, Transports, UdpFlow
from workers.sip.uri import Uri

_SCHEMES = ("sip:", "sips:", "tel:")
_NEED_DIALOG = frozenset(("BYE", "UPDATE", "REFER", "NOTIFY"))


class Core(Protocol):
    """Whoever keeps the calls. `source` is the flow a message came on, replies may go elsewhere."""

    def invited(self, exchange: ServerExchange, source: Flow) -> None: ...
    def requested(self, exchange: ServerExchange, source: Flow) -> None:
        """In a dialog that `knows` has confirmed."""

    def knows(self, request: Request) -> bool: ...
    def cancelled(self, exchange: ServerExchange) -> None: ...
    def acknowledged(self, ack: Request, source: Flow) -> None: ...
    def stray_response(self, response: Response, source: Flow) -> None:
        """No transaction knows it: the 2xx of a lost or finished INVITE perhaps."""


class Endpoint:
    def __init__(
        self,
        identity: Identity,
        resolver: Resolver,
        core: Core,
        *,
        client_tls: ssl.SSLContext | None = None,
        use_source_socket: bool = False,
    ) -> None:
        self.identity = identity
        self.transports = Transports(self.receive, self._lost, client_tls=client_tls)
        self.exchanges = Exchanges(identity, self.transports, resolver)
        self.use_source_socket = use_source_socket
        self.received = 0
        self.refused = 0
        self.trace: Callable[[bytes, Flow], None] | None = None  # SIP_DEBUG: sees all that arrives
        self._core = core
        self._tag_key = secrets.token_bytes(16)

    def _lost(self, transport: str, remote: Address) -> None:
        self.exchanges.lost(transport, remote)

    def receive(self, data: bytes, source: Flow) -> None:
        """One datagram or one message of a stream."""
        self.received += 1
        if self.trace is not None:
            self.trace(data, source)
        try:
            message = parse(data)
        except MessageError as error:
            self.refused += 1
            if error.status and error.request is not None:
                self._refuse(error.request, source, error)
            return
        if isinstance(message, Request):
            self._requested(message, source)
        else:
            exchange = self.exchanges.clients.get(client_key(message))
            if exchange is None:
                self._core.stray_response(message, source)
            else:
                exchange.receive(message)

    def _refuse(self, request: Request, source: Flow, error: MessageError) -> None:
        try:
            self._reply_statelessly(request, self._reply_flow(request, source), error.status, reason=error.reason)
        except (MessageError, ValueError):
            return  # too broken even for its own error message

    def _reply_flow(self, request: Request, source: Flow) -> Flow:
        """Where the response goes (RFC 3261 section 18.2.2, RFC 3581); writes received and rport into the Via."""
        via = request.via
        host, port = source.remote
        has_rport = "rport" in via.params
        if has_rport or via.host != host:
            via.params["received"] = host
            if has_rport:
                via.params["rport"] = str(port)
            request.replace_first("via", str(via))
        if not isinstance(source, UdpFlow) or has_rport or self.use_source_socket:
            return source
        return source.towards((host, via.port or 5060))

    def _requested(self, request: Request, source: Flow) -> None:
        method = request.method
        exchanges = self.exchanges
        key = server_key(request)
        known = exchanges.servers.get(key)
        if method == "ACK":
            if known is None or not known.acknowledge():
                self._core.acknowledged(request, source)
            return
        if known is not None:
            known.receive_again()
            return
        flow = self._reply_flow(request, source)
        if method == "CANCEL":
            invite = exchanges.servers.get((*key[:3], "INVITE", *key[4:]))
            if invite is None:
                self._reply_statelessly(request, flow, 481)
                return
            self._reply_statelessly(request, flow, 200, to_tag=invite.to_tag)
            if invite.is_pending:
                self._core.cancelled(invite)
            return
        if self._refused_early(request, flow):
            return
        if not request.to_tag and method != "INVITE":
            self._answer_outside(request, flow)
        elif request.to_tag and not self._core.knows(request):
            self._reply_statelessly(request, flow, 481)
        elif not request.to_tag and exchanges.merged(request):
            self._reply_statelessly(request, flow, 482)
        elif len(exchanges.servers) >= MAX_SERVED:
            self._reply_statelessly(request, flow, 503, ("retry-after", "5"))
        else:
            exchange = exchanges.serve(request, flow, key)
            if request.to_tag:
                self._core.requested(exchange, source)
            else:
                self._core.invited(exchange, source)

    def _refused_early(self, request: Request, flow: Flow) -> bool:
        if integer(request.get("max-forwards", "70")) == 0:
            self._reply_statelessly(request, flow, 483)
        elif not request.uri.lower().startswith(_SCHEMES) or not _is_sound(request.uri):
            self._reply_statelessly(request, flow, 416)
        elif unknown := [tag for tag in request.tokens("require") if tag not in EXTENSIONS]:
            self._reply_statelessly(request, flow, 420, ("unsupported", ", ".join(unknown)))
        else:
            return False
        return True

    def _answer_outside(self, request: Request, flow: Flow) -> None:
        """No dialog and none wanted. REGISTER is refused until there is a registrar."""
        if request.method == "OPTIONS":
            headers = (("allow", ALLOW), ("accept", "application/sdp"), ("supported", "timer"))
            self._reply_statelessly(request, flow, 200, *headers)
        elif request.method in _NEED_DIALOG:
            self._reply_statelessly(request, flow, 481)
        else:
            self._reply_statelessly(request, flow, 405, ("allow", ALLOW))

    def _reply_statelessly(
        self, request: Request, flow: Flow, status: int, *headers: tuple[str, str], reason: str = "", to_tag: str = ""
    ) -> None:
        response = respond(request, status, reason, to_tag or self._tag_for(request))
        response.headers += headers
        response.add("server", self.identity.product)
        try:
            data = response.encode()
        except ValueError:
            return  # copies a header that cannot be written
        if self.exchanges.trace is not None:
            self.exchanges.trace(data, flow)
        flow.send(data)

    def _tag_for(self, request: Request) -> str:
        """Section 8.2.7: a stateless answer repeats its tag."""
        text = f"{request.call_id}\n{request.get('from')}\n{request.get('cseq')}"
        return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8, key=self._tag_key).hexdigest()


def _is_sound(uri: str) -> bool:
    try:
        Uri.parse(uri)
    except ValueError:
        return False
    return True
