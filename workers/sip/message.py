"""SIP messages: bytes to objects and back.

Runs in: sip.
Owns: the grammar of start lines and headers (RFC 3261 section 7), what makes a message unusable, stream framing.

Rules
1. Whatever arrives, `parse` and `StreamFramer.feed` raise MessageError and nothing else, in time linear in the input.
2. Text is UTF-8 with surrogateescape both ways: foreign bytes survive a round trip. Strings that leave for another
   process go through `clean` first.
3. Header names are lower-case inside, compact forms expanded. `add`, `set` take any spelling and `encode` keeps it.
4. `parse` has checked the start line, the topmost Via, From, To, Call-ID, CSeq and Content-Length; the other headers are
   what the peer says. Caps: 64 KiB a message, 200 headers.
5. A malformed request is answered (`MessageError.status`) where its Via is sound, else dropped; responses and ACK always.

Not here: URIs -> `uri.py`; which answer a sound message gets -> `endpoint.py`.
"""

import re
import secrets

from workers.sip.names import NAMES, REASONS, SPELLING, TOKEN
from workers.sip.uri import (
    Params,
    format_host_port,
    format_params,
    parse_host_port,
    parse_params,
    split_address,
    split_list,
)

MAX_MESSAGE_BYTES = 65_535
MAX_HEADERS = 200
MAX_CSEQ = 2**31 - 1
_OTHER_VERSION = REASONS[505]
BRANCH_COOKIE = "z9hG4bK"  # RFC 3261 section 8.1.1.7

_LISTS = frozenset(("via", "route", "record-route", "contact", "path", "service-route"))
_SINGLE = frozenset(("call-id", "cseq", "from", "to", "content-length", "max-forwards", "content-type", "expires"))
_REQUIRED = ("from", "to", "call-id", "cseq")

_FOLD = re.compile(r"[ \t]*+\r\n[ \t]++")
_RESPONSE_LINE = re.compile(r"SIP/2\.0 ([1-6][0-9][0-9])(?: (.*+))?+", re.DOTALL | re.IGNORECASE)
_VERSION = re.compile(r"SIP/[0-9]++\.[0-9]++", re.IGNORECASE)
_REQUEST_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*+:[^\s<>\"]++")
_CSEQ = re.compile(r"([0-9]{1,10})[ \t]++([A-Za-z0-9.!%*_+`'~-]++)")
_VIA = re.compile(
    r"SIP[ \t]*+/[ \t]*+2\.0[ \t]*+/[ \t]*+([A-Za-z0-9-]++)[ \t]++"
    r"(\[[^\]]*+\]|[^\s:;,]++)(?:[ \t]*+:[ \t]*+([0-9]++))?+[ \t]*+(;.*+)?+",
    re.DOTALL | re.IGNORECASE,
)
_FRAME_LENGTH = re.compile(rb"\r\n(?:content-length|l)[ \t]*+:\s*+([^\r\n]*+)", re.IGNORECASE)
_FRAME_START = re.compile(rb"SIP/|[A-Za-z0-9.!%*_+`'~-]++ [^\r\n]* SIP/", re.IGNORECASE)


class MessageError(Exception):
    """What arrived is no SIP message we can use.

    `status` answers it (`respond(error.request, error.status, error.reason)`); 0 = cannot be answered: drop and count.
    """

    def __init__(self, status: int, reason: str, request: "Request | None" = None) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status
        self.reason = reason
        self.request = request


class Via:
    """One Via value. `host` without brackets; `params` may be changed and written back (`str`)."""

    __slots__ = ("host", "params", "port", "transport")

    def __init__(self, transport: str, host: str, port: int | None = None, params: Params | None = None) -> None:
        self.transport = transport
        self.host = host
        self.port = port
        self.params: Params = params or {}

    @classmethod
    def parse(cls, text: str) -> "Via":
        match = _VIA.fullmatch(text)
        if match is None:
            raise MessageError(0, "Bad Via")
        transport, host, port, params = match.groups()
        try:
            host, number = parse_host_port(f"{host}:{port}" if port else host)
            return cls(transport.upper(), host, number, parse_params(params or ""))
        except ValueError as error:
            raise MessageError(0, "Bad Via") from error

    def __str__(self) -> str:
        where = format_host_port(self.host, self.port)
        return f"SIP/2.0/{self.transport} {where}{format_params(self.params)}"

    @property
    def branch(self) -> str:
        return self.params.get("branch") or ""

    @property
    def sent_by(self) -> tuple[str, int]:
        """Host in lower case and port, 5060 or 5061 where none is named: part of a transaction's key."""
        return self.host.lower(), self.port or (5061 if self.transport in ("TLS", "WSS") else 5060)


class Message:
    """What requests and responses share. `headers` may be read at will; change it through the methods."""

    __slots__ = ("_spelled", "_via", "body", "headers")

    def __init__(self) -> None:
        self.headers: list[tuple[str, str]] = []
        self.body = b""
        self._via: Via | None = None
        self._spelled: dict[str, str] | None = None  # names that `SPELLING` does not know, as they were written

    def get(self, name: str, default: str = "") -> str:
        """The first value of this name (lower-case)."""
        for key, value in self.headers:
            if key == name:
                return value
        return default

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    def tokens(self, name: str) -> list[str]:
        """The words of Allow, Supported, Require …, over all its headers, in lower case."""
        return [word for value in self.all(name) for part in value.split(",") if (word := part.strip(" \t").lower())]

    def add(self, name: str, value: str) -> None:
        """Append; ValueError when `name` is no token."""
        self.headers.append((self._enter(name), value))

    def set(self, name: str, value: str) -> None:
        """Replace all values of this name by one, at the place of the first."""
        key = self._enter(name)
        for index, (present, _) in enumerate(self.headers):
            if present == key:
                kept = [entry for entry in self.headers[index + 1 :] if entry[0] != key]
                self.headers[index:] = [(key, value), *kept]
                return
        self.headers.append((key, value))

    def replace_first(self, name: str, value: str) -> None:
        """Change the topmost value only (Via with received and rport)."""
        key = self._enter(name)
        for index, (present, _) in enumerate(self.headers):
            if present == key:
                self.headers[index] = (key, value)
                return
        self.headers.append((key, value))

    def prepend(self, name: str, value: str) -> None:
        """Put above all others (Via, Route)."""
        self.headers.insert(0, (self._enter(name), value))

    def remove(self, name: str) -> None:
        key = self._enter(name)
        self.headers = [entry for entry in self.headers if entry[0] != key]

    def spelling(self, name: str) -> str:
        """How the header is written on the wire: as known, else as received or added, else in title case."""
        return SPELLING.get(name) or (self._spelled or {}).get(name) or name.title()

    def encode(self) -> bytes:
        """The wire form; Content-Length is always there, last. ValueError for a line break inside a header."""
        lines = [self._start_line()]
        known = SPELLING.get
        for name, value in self.headers:
            if name != "content-length":
                lines.append(f"{known(name) or self.spelling(name)}: {value}")
        lines.append(f"Content-Length: {len(self.body)}")
        head = "\r\n".join(lines)
        if not head.count("\n") == head.count("\r") == len(lines) - 1:
            raise ValueError("line break in a header")
        return head.encode("utf-8", "surrogateescape") + b"\r\n\r\n" + self.body

    @property
    def via(self) -> Via:
        """The topmost Via; MessageError when there is none to be read."""
        if self._via is None:
            self._via = Via.parse(self.get("via"))
        return self._via

    @property
    def cseq(self) -> tuple[int, str]:
        match = _CSEQ.fullmatch(self.get("cseq"))
        if match is None or int(match[1]) > MAX_CSEQ:
            raise MessageError(400, "Bad CSeq")
        return int(match[1]), match[2]

    @property
    def call_id(self) -> str:
        return self.get("call-id")

    @property
    def from_tag(self) -> str:
        return _tag(self.get("from"))

    @property
    def to_tag(self) -> str:
        return _tag(self.get("to"))

    def _start_line(self) -> str:
        raise NotImplementedError

    def _enter(self, name: str) -> str:
        key = NAMES.get(name)
        if key is None:
            key = _plain_name(name)
            if key not in SPELLING and key != name:
                if self._spelled is None:
                    self._spelled = {}
                self._spelled[key] = name
        if key == "via":
            self._via = None
        return key


class Request(Message):
    __slots__ = ("method", "uri")

    def __init__(self, method: str, uri: str) -> None:
        super().__init__()
        self.method = method
        self.uri = uri

    def __repr__(self) -> str:
        return f"<{self.method} {self.uri}>"

    def _start_line(self) -> str:
        return f"{self.method} {self.uri} SIP/2.0"


class Response(Message):
    __slots__ = ("reason", "status")

    def __init__(self, status: int, reason: str = "") -> None:
        super().__init__()
        self.status = status
        self.reason = reason

    def __repr__(self) -> str:
        return f"<{self.status} {self.reason}>"

    def _start_line(self) -> str:
        return f"SIP/2.0 {self.status} {self.reason}"


def parse(data: bytes) -> Request | Response:
    """One datagram, or one message that `StreamFramer` cut out. The body ends where Content-Length says."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise MessageError(0, "Message Too Large")
    data = data.lstrip(b"\r\n")
    end = data.find(b"\r\n\r\n")
    if end < 0:
        raise MessageError(0, "No End of Headers")
    head = data[:end].decode("utf-8", "surrogateescape")
    if "\r\n " in head or "\r\n\t" in head:
        head = _FOLD.sub(" ", head)
    lines = head.split("\r\n")
    message, fault = _parse_start_line(lines[0])
    message.body = data[end + 4 :]
    if not head.count("\n") == head.count("\r") == len(lines) - 1:
        fault = fault or "Bare Line Break"
        lines = [line.replace("\r", " ").replace("\n", " ") for line in lines]
    # The first fault is remembered and reading goes on: an answer needs the headers below it.
    fault = _read_headers(message, lines) or fault
    fault = fault or _check(message)
    if fault:
        raise _refusal(message, fault)
    return message


def respond(request: Request, status: int, reason: str = "", to_tag: str = "") -> Response:
    """A response with all that RFC 3261 section 8.2.6 copies; `to_tag` is added where To has none."""
    response = Response(status, reason or REASONS.get(status, "Unknown"))
    headers = response.headers
    copied = set()
    for name, value in request.headers:
        if name == "via" or (name == "record-route" and 100 < status < 300):
            headers.append((name, value))
        elif name in _REQUIRED and name not in copied:
            copied.add(name)  # of a refused request with two of them, the first
            needs_tag = name == "to" and to_tag and not _tag(value)
            headers.append((name, f"{value};tag={to_tag}" if needs_tag else value))
        elif name == "timestamp" and status == 100:
            headers.append((name, value))
    return response


class StreamFramer:
    """Cuts a TCP or TLS stream into messages. Holds at most one message (64 KiB) and what came with it."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0  # no end of headers starts before this offset
        self._size = 0  # of the message at the front, once its headers are in

    def feed(self, data: bytes) -> list[bytes | None]:
        """Whole messages; None = a double CRLF, to be answered with one (RFC 5626 section 4.4.1).

        Raises MessageError on nonsense and on oversize: framing is lost, the connection must be closed.
        """
        buffer = self._buffer
        buffer += data
        frames: list[bytes | None] = []
        while buffer:
            if buffer[0] in b"\r\n":
                if buffer.startswith(b"\r\n\r\n"):
                    frames.append(None)
                    del buffer[:4]
                elif b"\r\n\r\n".startswith(buffer):
                    break
                else:
                    del buffer[:1]
                continue
            if not self._size:
                self._size = self._measure()
            if not 0 < self._size <= len(buffer):
                break
            frames.append(bytes(buffer[: self._size]))
            del buffer[: self._size]
            self._scanned = self._size = 0
        return frames

    def _measure(self) -> int:
        """Size of the message at the front, 0 while its headers are not complete."""
        buffer = self._buffer
        end = buffer.find(b"\r\n\r\n", self._scanned)
        if end < 0:
            self._scanned = max(0, len(buffer) - 3)
            if len(buffer) > MAX_MESSAGE_BYTES or not 0x20 < buffer[0] < 0x7F:
                raise MessageError(0, "Not a SIP Stream")
            return 0
        size = end + 4 + self._body_length(bytes(buffer[:end]))
        if size > MAX_MESSAGE_BYTES:
            raise MessageError(0, "Message Too Large")
        return size

    @staticmethod
    def _body_length(head: bytes) -> int:
        if _FRAME_START.match(head) is None:
            raise MessageError(0, "Not a SIP Stream")
        lengths = _FRAME_LENGTH.findall(head)
        if not lengths:
            return 0  # must be there on streams (RFC 3261 section 18.3); without it there is no body to be found
        length = integer(lengths[0].decode("ascii", "replace").strip(" \t"))
        if length is None or len(lengths) > 1:
            raise MessageError(0, "Bad Content-Length")
        return length


def integer(text: str) -> int | None:
    """A non-negative decimal below 2^32 from the wire, or None. (`int` takes signs, underscores and other scripts.)"""
    if not text or len(text) > 10 or not text.isascii() or not text.isdigit():
        return None
    number = int(text)
    return number if number < 2**32 else None


def clean(text: str) -> str:
    """Text for other processes and people: foreign bytes replaced, so that it is UTF-8 again."""
    return text if text.isascii() else text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def new_tag() -> str:
    return secrets.token_hex(8)


def new_branch() -> str:
    return BRANCH_COOKIE + secrets.token_hex(12)


def new_call_id() -> str:
    return secrets.token_hex(16)


def _parse_start_line(line: str) -> tuple[Request | Response, str]:
    if line[:4].upper() == "SIP/":
        match = _RESPONSE_LINE.fullmatch(line)
        if match is None:
            raise MessageError(0, "Bad Status Line")
        return Response(int(match[1]), match[2] or ""), ""
    method, _, rest = line.partition(" ")
    if not TOKEN.fullmatch(method) or "SIP/" not in rest.upper():
        raise MessageError(0, "Not SIP")
    uri, _, version = rest.partition(" ")
    if not _REQUEST_URI.fullmatch(uri):
        return Request(method, ""), "Bad Request-URI"
    if version.upper() != "SIP/2.0":
        return Request(method, uri), _OTHER_VERSION if _VERSION.fullmatch(version) else "Bad Request Line"
    return Request(method, uri), ""


def _read_headers(message: Request | Response, lines: list[str]) -> str:
    """Fill `message.headers`; returns the first fault found."""
    fault = ""
    headers = message.headers
    seen = set()
    if len(lines) > MAX_HEADERS + 1:
        fault = "Too Many Headers"
        del lines[MAX_HEADERS + 1 :]
    for line in lines[1:]:
        written, colon, value = line.partition(":")
        name = NAMES.get(written)
        if name is None or not colon:
            try:
                name = message._enter(written.rstrip(" \t") if colon else "")  # noqa: SLF001  same module
            except ValueError:
                fault = fault or "Bad Header Line"
                continue
        value = value.strip(" \t")
        if name in _SINGLE:
            if name in seen:
                fault = fault or f"Duplicate {SPELLING[name]}"
            seen.add(name)
        if name in _LISTS and "," in value:
            if value.count(",") > MAX_HEADERS:
                fault = fault or "Too Many Headers"
                continue
            entries = split_list(value)
            if name == "via" and "" in entries:
                fault = fault or "Bad Via"
            headers += [(name, entry) for entry in entries if entry]
        else:
            headers.append((name, value))
    if len(headers) > MAX_HEADERS:
        fault = fault or "Too Many Headers"
    return fault


def _check(message: Request | Response) -> str:
    """The headers every message needs, and the body's length; returns the fault found."""
    for name in _REQUIRED:
        if not message.get(name):
            return f"Missing {SPELLING[name]}"
    try:
        _, method = message.cseq
        for name in ("from", "to"):
            parse_params(split_address(message.get(name))[2])
    except MessageError as error:
        return error.reason
    except ValueError:
        return "Bad From or To"
    if isinstance(message, Request) and message.method != method:
        return "CSeq Names Another Method"
    if integer(message.get("max-forwards", "70")) is None:
        return "Bad Max-Forwards"
    length = message.get("content-length", "?")
    if length != "?":
        size = integer(length)
        if size is None:
            return "Bad Content-Length"
        if size > len(message.body):
            return "Body Too Short"
        message.body = message.body[:size]
    return "" if _has_sound_via(message) else "Bad Via"


def _refusal(message: Request | Response, fault: str) -> MessageError:
    if isinstance(message, Response) or message.method == "ACK" or not _has_sound_via(message):
        return MessageError(0, fault)
    if fault == _OTHER_VERSION:
        return MessageError(505, fault, message)
    return MessageError(400, fault, message)


def _has_sound_via(message: Message) -> bool:
    try:
        return bool(message.via)
    except MessageError:
        return False


def _plain_name(name: str) -> str:
    """Any spelling of a header's name -> the one used inside; ValueError when it is no token."""
    if not TOKEN.fullmatch(name):
        raise ValueError("bad header name")
    lower = name.lower()
    return NAMES.get(lower, lower)


def _tag(address: str) -> str:
    tail = address[address.rfind(">") + 1 :]
    if tail.startswith(";tag=") and ";" not in tail[5:] and '"' not in tail:
        return tail[5:].strip(" \t")  # nearly every From and To
    try:
        return parse_params(split_address(address)[2]).get("tag") or ""
    except ValueError:
        return ""
