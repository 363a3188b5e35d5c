"""A dialog (RFC 3261 section 12) and its session timer (RFC 4028).

Runs in: sip.
Owns: tags, route set, remote target, both CSeq; how an in-dialog request is built and which one is accepted; who
refreshes the session and when it is over; how long to wait after a 491.

Rules
1. Pure: no clock, no socket, no randomness but the delay of section 14.1.
2. `call_id`, tags and route set never change; the target follows re-INVITE and UPDATE of either side.
3. URIs of From and To are kept as the header text without its tag, so that they go back exactly as they came.

Not here: Via and Contact, which depend on the flow -> `endpoint.py`; what a request means -> `call.py`.
"""

import secrets
from typing import Any, Self

from shm import messages as wire
from workers.sip.message import Message, MessageError, Request, Response, clean, integer
from workers.sip.uri import Uri, format_params, parse_params, split_address

MIN_SESSION_S = 90
MAX_TARGET = 2048  # characters of a Contact; a dialog must fit into one message between processes
EXPIRY_GRACE_S = 32.0  # contract/media.md section 7.2: expiry at interval + 32 s
SUCCESSOR_CSEQ_STEP = 100  # a successor cannot know what its predecessor sent last

_TEXTS = ("call_id", "local_tag", "remote_tag", "local_uri", "remote_uri", "remote_target")

DialogKey = tuple[str, str, str]  # Call-ID, our tag, theirs


class Dialog:
    """One peer-to-peer relation. `local_cseq` is the last we used, `remote_cseq` the last we accepted (-1: none)."""

    __slots__ = (
        "call_id",
        "invite_cseq",
        "is_caller",
        "local_cseq",
        "local_tag",
        "local_uri",
        "remote_cseq",
        "remote_tag",
        "remote_target",
        "remote_uri",
        "route_set",
    )

    def __init__(self, call_id: str, local_tag: str, remote_tag: str) -> None:
        self.call_id = call_id
        self.local_tag = local_tag
        self.remote_tag = remote_tag
        self.local_uri = ""
        self.remote_uri = ""
        self.remote_target = ""
        self.route_set: tuple[str, ...] = ()
        self.local_cseq = 0
        self.remote_cseq = -1
        self.invite_cseq = 0
        self.is_caller = False

    @classmethod
    def called(cls, invite: Request, local_tag: str) -> Self:
        """Section 12.1.1, we answer. Raises MessageError(400) without a usable Contact."""
        dialog = cls(invite.call_id, local_tag, invite.from_tag)
        dialog.local_uri = without_tag(invite.get("to"))
        dialog.remote_uri = without_tag(invite.get("from"))
        dialog.remote_target = contact_uri(invite)
        if not dialog.remote_target:
            raise MessageError(400, "Missing or Bad Contact", invite)
        dialog.route_set = tuple(invite.all("record-route"))
        dialog.remote_cseq = dialog.invite_cseq = invite.cseq[0]
        return dialog

    @classmethod
    def calling(cls, invite: Request, response: Response) -> Self:
        """Section 12.1.2, a 101-299 to our INVITE makes a dialog with whoever sent it."""
        dialog = cls(invite.call_id, invite.from_tag, response.to_tag)
        dialog.is_caller = True
        dialog.local_uri = without_tag(invite.get("from"))
        dialog.remote_uri = without_tag(response.get("to"))
        dialog.local_cseq = dialog.invite_cseq = invite.cseq[0]
        dialog.learn(response, invite.uri)
        return dialog

    def learn(self, response: Response, fallback_target: str = "") -> None:
        """Target and route set of a later response to the INVITE that makes this dialog: the 2xx has the last word."""
        self.remote_target = contact_uri(response) or self.remote_target or fallback_target
        self.route_set = tuple(reversed(response.all("record-route")))

    @property
    def key(self) -> DialogKey:
        return (self.call_id, self.local_tag, self.remote_tag)

    def next_hop(self) -> str:
        """The URI that decides where our requests go."""
        if not self.route_set:
            return self.remote_target
        return split_address(self.route_set[0])[1]

    def request(self, method: str) -> Request:
        """Section 12.2.1.1, with the next CSeq. Via, Contact and what the method needs are added by others."""
        self.local_cseq += 1
        return self._request(method, self.local_cseq)

    def acknowledge(self, cseq: int) -> Request:
        """The ACK to a 2xx of the INVITE with this CSeq (section 13.2.2.4): a request of its own branch."""
        return self._request("ACK", cseq)

    def _request(self, method: str, cseq: int) -> Request:
        routes = list(self.route_set)
        target = self.remote_target
        if routes and not _is_loose(routes[0]):
            # A strict router (RFC 2543) wants itself in the Request-URI and the target at the end of the list.
            target = split_address(routes.pop(0))[1]
            routes.append(f"<{self.remote_target}>")
        request = Request(method, target)
        request.headers += [("max-forwards", "70"), *(("route", route) for route in routes)]
        remote = f"{self.remote_uri};tag={self.remote_tag}" if self.remote_tag else self.remote_uri
        request.headers += [
            ("from", f"{self.local_uri};tag={self.local_tag}"),
            ("to", remote),
            ("call-id", self.call_id),
            ("cseq", f"{cseq} {method}"),
        ]
        return request

    def accepts(self, request: Request) -> bool:
        """Section 12.2.2: False for one that is out of order (answer 500). Remembers its CSeq."""
        number = request.cseq[0]
        if number <= self.remote_cseq:
            return False
        self.remote_cseq = number
        return True

    def refresh_target(self, message: Message) -> None:
        """The Contact of a re-INVITE, an UPDATE or a 2xx to ours."""
        self.remote_target = contact_uri(message) or self.remote_target

    def retry_delay_s(self) -> float:
        """Section 14.1, after a 491: the owner of the Call-ID waits 2.1-4 s, the other 0-2 s, in steps of 10 ms."""
        steps = 210 + secrets.randbelow(191) if self.is_caller else secrets.randbelow(201)
        return steps / 100

    def fields(self) -> dict[str, Any]:
        """What `shm.messages.Dialog` keeps of it, fit for UTF-8."""
        fields = {name: getattr(self, name) for name in Dialog.__slots__}
        for name in _TEXTS:
            fields[name] = clean(fields[name])
        fields["route_set"] = tuple(clean(route) for route in self.route_set)
        return fields

    @classmethod
    def restored(cls, saved: wire.Dialog) -> Self:
        dialog = cls(saved.call_id, saved.local_tag, saved.remote_tag)
        for name in Dialog.__slots__:
            setattr(dialog, name, getattr(saved, name))
        dialog.local_cseq += SUCCESSOR_CSEQ_STEP
        return dialog


class SessionTimer:
    """RFC 4028. `interval_s` 0 = none runs; `is_ours`: we refresh."""

    __slots__ = ("interval_s", "is_ours", "refreshed_at")

    def __init__(self, interval_s: int = 0, is_ours: bool = False, refreshed_at: float = 0.0) -> None:
        self.interval_s = interval_s
        self.is_ours = is_ours
        self.refreshed_at = refreshed_at

    @property
    def refresh_at(self) -> float:
        """When we shall refresh; infinity when the peer does."""
        return self.refreshed_at + self.interval_s / 2 if self.interval_s and self.is_ours else float("inf")

    @property
    def expires_at(self) -> float:
        return self.refreshed_at + self.interval_s + EXPIRY_GRACE_S if self.interval_s else float("inf")

    def too_small(self, request: Request) -> bool:
        """Section 9: answer 422 with Min-SE. Only a peer that speaks the extension can be told."""
        interval_s, _ = session_expires(request)
        return 0 < interval_s < MIN_SESSION_S and "timer" in request.tokens("supported")

    def asked(self, request: Request, now: float) -> list[tuple[str, str]]:
        """The peer's INVITE or UPDATE decides anew; returns the headers of our 2xx (contract/legs.md section 8.5)."""
        interval_s, refresher = session_expires(request)
        self.refreshed_at = now
        self.interval_s = max(interval_s, MIN_SESSION_S) if interval_s else 0
        if not interval_s:
            return []
        refresher = refresher or "uac"
        self.is_ours = refresher == "uas"
        headers = [("session-expires", f"{self.interval_s};refresher={refresher}")]
        supports_timer = "timer" in request.tokens("supported")
        if supports_timer:
            headers.append(("supported", "timer"))
        if supports_timer and refresher == "uac":
            headers.append(("require", "timer"))  # section 9: the peer must know that it is its turn
        return headers

    def answered(self, response: Response, asked_s: int, now: float) -> None:
        """A 2xx to our INVITE or UPDATE that asked for `asked_s` (0 = for none)."""
        interval_s, refresher = session_expires(response)
        self.refreshed_at = now
        # A peer may shorten it, but not so far that we do nothing but refresh; less only where the leg itself asked for less.
        floor_s = min(asked_s or MIN_SESSION_S, MIN_SESSION_S)
        self.interval_s = max(interval_s, floor_s) if interval_s else asked_s
        # A peer without the extension says nothing: then it is on us alone (section 7.2).
        self.is_ours = refresher != "uas"

    def refresh_headers(self) -> list[tuple[str, str]]:
        """What our re-INVITE or UPDATE says to keep the session going."""
        if not self.interval_s:
            return []
        refresher = "uac" if self.is_ours else "uas"
        return [
            ("supported", "timer"),
            ("session-expires", f"{self.interval_s};refresher={refresher}"),
            ("min-se", str(MIN_SESSION_S)),
        ]


def session_expires(message: Message) -> tuple[int, str]:
    """Seconds (0 = header absent or unusable) and refresher (`uac`, `uas` or "")."""
    return parse_session_expires(message.get("session-expires"))


def parse_session_expires(text: str) -> tuple[int, str]:
    seconds, semicolon, params = text.partition(";")
    try:
        refresher = (parse_params(semicolon + params).get("refresher") or "").lower()
    except ValueError:
        refresher = ""
    return integer(seconds.strip()) or 0, refresher if refresher in ("uac", "uas") else ""


def without_tag(address: str) -> str:
    """A From or To value less its tag; the rest stays as it was written."""
    if ";" not in address:
        return address
    end = address.rfind(">") + 1
    if end and '"' not in address[end:] and address.startswith(";tag=", end) and ";" not in address[end + 5 :]:
        return address[:end]  # nearly every From and To
    _display, _uri, text = split_address(address)
    if not text:
        return address
    params = parse_params(text)
    if "tag" not in params:
        return address
    del params["tag"]
    return address[: len(address) - len(text)].rstrip() + format_params(params)


def contact_uri(message: Message) -> str:
    """The URI of the first Contact where it is a sip or sips URI with a host, else ""."""
    contact = message.get("contact")
    if not contact or contact == "*":
        return ""
    try:
        text = split_address(contact)[1]
        return text if len(text) <= MAX_TARGET and Uri.parse(text).host else ""
    except ValueError:
        return ""


def _is_loose(route: str) -> bool:
    try:
        return "lr" in Uri.parse(split_address(route)[1]).params
    except ValueError:
        return True
