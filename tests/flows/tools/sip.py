"""SIP messages and SDP bodies as text: built, parsed, nothing sent (RFC 3261, RFC 4566).

The parser is lenient on purpose: a test phone shall show what the server sent, not refuse it.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field

COMPACT = {
    "i": "call-id", "m": "contact", "e": "content-encoding", "l": "content-length", "c": "content-type", "f": "from",
    "s": "subject", "k": "supported", "t": "to", "v": "via", "x": "session-expires", "r": "refer-to",
}  # fmt: skip
REASONS = {
    100: "Trying", 180: "Ringing", 181: "Call Is Being Forwarded", 183: "Session Progress", 200: "OK", 302: "Moved",
    401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 407: "Proxy Authentication Required", 408: "Timeout",
    480: "Temporarily Unavailable", 481: "Call Does Not Exist", 486: "Busy Here", 487: "Request Terminated",
    488: "Not Acceptable Here", 491: "Request Pending", 500: "Server Error", 503: "Service Unavailable", 603: "Decline",
}  # fmt: skip
LISTS = frozenset({"via", "route", "record-route", "contact"})


@dataclass
class Message:
    """A request (`method`, `uri`) or a response (`status`, `reason`)."""

    method: str = ""
    uri: str = ""
    status: int = 0
    reason: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: str = ""

    def get(self, name: str, default: str = "") -> str:
        return next((value for key, value in self.headers if key.lower() == name.lower()), default)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def cseq(self) -> tuple[int, str]:
        number, _, method = self.get("CSeq").partition(" ")
        return int(number), method.strip()

    @property
    def branch(self) -> str:
        return parameter(self.get("Via"), "branch")

    def is_response(self, method: str, low: int, high: int | None = None) -> bool:
        return low <= self.status <= (high or low) and self.cseq[1] == method

    def encode(self) -> bytes:
        start = f"{self.method} {self.uri} SIP/2.0" if self.method else f"SIP/2.0 {self.status} {self.reason}"
        lines = [start, *(f"{key}: {value}" for key, value in self.headers)]
        body = self.body.encode()
        if not self.get("Content-Length"):
            lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    def __str__(self) -> str:
        return f"{self.method} {self.uri}" if self.method else f"{self.status} {self.reason} ({self.get('CSeq')})"


def parse(data: bytes) -> Message | None:
    head, separator, body = data.decode("utf-8", "replace").partition("\r\n\r\n")
    lines = re.sub(r"\r\n[ \t]+", " ", head).split("\r\n")
    if not separator or not lines[0]:
        return None
    message = Message(body=body)
    if lines[0].startswith("SIP/2.0 "):
        _, status, message.reason = (*lines[0].split(" ", 2), "")[:3]
        message.status = int(status)
    else:
        message.method, message.uri, _ = (*lines[0].split(" "), "", "")[:3]
    for line in lines[1:]:
        key, _, value = line.partition(":")
        key = COMPACT.get(key.strip().lower(), key.strip())
        values = split_list(value) if key.lower() in LISTS else [value.strip()]
        message.headers += [(key, each) for each in values]
    return message


def split_list(value: str) -> list[str]:
    """Split at commas outside quotes and angle brackets."""
    return [part.strip() for part in re.findall(r'(?:"(?:\\.|[^"\\])*"|<[^>]*>|[^,"<])+', value)]


def parameter(value: str, name: str) -> str:
    """A header parameter such as `tag` or `branch`; parameters inside <…> belong to the URI and do not count."""
    found = re.search(rf"[;\s]{name}\s*=\s*([^;,\s>]+)", re.sub(r"<[^>]*>", "", value), re.IGNORECASE)
    return found[1] if found else ""


def address_uri(value: str) -> str:
    """The URI of a name-addr or addr-spec."""
    found = re.search(r"<([^>]*)>", value)
    return found[1] if found else value.partition(";")[0].strip()


def uri_address(uri: str) -> tuple[str, int]:
    """Host and port of a SIP URI (brackets removed)."""
    found = re.match(r"sips?:(?:[^@]*@)?(\[[^\]]+\]|[^:;?>]+)(?::(\d+))?", uri)
    assert found, f"not a SIP URI: {uri}"
    return found[1].strip("[]"), int(found[2] or 5060)


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def token() -> str:
    return secrets.token_hex(6)


# --- SDP --------------------------------------------------------------------------------------------------------


@dataclass
class Sdp:
    """One audio section and whatever else the body holds."""

    address: str = ""
    port: int = 0
    protocol: str = "RTP/AVP"
    payload_types: list[int] = field(default_factory=list)
    rtpmap: dict[int, str] = field(default_factory=dict)
    direction: str = "sendrecv"
    ptime_ms: int = 20
    rtcp_mux: bool = False
    version: int = 0
    media_lines: list[str] = field(default_factory=list)

    @property
    def event_payload_type(self) -> int | None:
        return next((pt for pt, name in self.rtpmap.items() if name.lower().startswith("telephone-event")), None)

    @property
    def audio_names(self) -> list[str]:
        """Codec names in order, as `PCMU/8000`."""
        static = {0: "PCMU/8000", 8: "PCMA/8000", 9: "G722/8000"}
        names = (self.rtpmap.get(pt, static.get(pt, "?")) for pt in self.payload_types)
        return [name for name in names if not name.lower().startswith("telephone-event")]


def parse_sdp(body: str) -> Sdp:
    sdp = Sdp()
    section = ""
    for line in body.replace("\r\n", "\n").split("\n"):
        key, _, value = line.partition("=")
        if key == "m":
            sdp.media_lines.append(value)
            kind, port, protocol, *formats = value.split()
            section = kind if kind != "audio" or sdp.payload_types == [] else "other"
            if section == "audio":
                sdp.port, sdp.protocol = int(port.split("/")[0]), protocol
                sdp.payload_types = [int(f) for f in formats if f.isdigit()]
        elif key == "o":
            sdp.version = int(value.split()[2])
        elif section not in ("", "audio"):
            continue
        elif key == "c":
            sdp.address = value.split()[2].split("/")[0]
        elif key == "a":
            name, _, rest = value.partition(":")
            if name == "rtpmap":
                number, _, encoding = rest.partition(" ")
                sdp.rtpmap[int(number)] = encoding.strip()
            elif name in ("sendrecv", "sendonly", "recvonly", "inactive"):
                sdp.direction = name
            elif name == "ptime":
                sdp.ptime_ms = int(rest)
            elif name == "rtcp-mux":
                sdp.rtcp_mux = True
    return sdp


def build_sdp(
    host: str,
    port: int,
    codecs: list[tuple[int, str]],
    *,
    direction: str = "sendrecv",
    ptime_ms: int | None = 20,
    rtcp_mux: bool = True,
    version: int = 1,
    event_payload_type: int | None = 101,
    extra: str = "",
) -> str:
    """`codecs` are (payload type, `NAME/clock`) in order of preference; `extra` is appended as it is."""
    family = "IP6" if ":" in host else "IP4"
    formats = [pt for pt, _ in codecs] + ([event_payload_type] if event_payload_type is not None else [])
    lines = [
        "v=0", f"o=phone 1 {version} IN {family} {host}", "s=-", f"c=IN {family} {host}", "t=0 0",
        f"m=audio {port} RTP/AVP {' '.join(map(str, formats))}", *(f"a=rtpmap:{pt} {name}" for pt, name in codecs),
    ]  # fmt: skip
    if event_payload_type is not None:
        lines += [f"a=rtpmap:{event_payload_type} telephone-event/8000", f"a=fmtp:{event_payload_type} 0-15"]
    if ptime_ms is not None:
        lines.append(f"a=ptime:{ptime_ms}")
    lines += ["a=rtcp-mux"] * rtcp_mux + [f"a={direction}"]
    return "\r\n".join(lines) + "\r\n" + extra
