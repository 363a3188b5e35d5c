"""SIP URIs and the addresses of From, To, Contact and Route headers.

Runs in: sip.
Owns: RFC 3261 section 19.1 (URI) and 20.10 (name-addr), and the splitting of comma and semicolon lists.

Rules
1. Every function raises ValueError and nothing else, whatever the wire sends, and is linear in its input: patterns are
   possessive, an unclosed quote or bracket runs to the end of the text.
2. Parts keep the spelling of the wire (percent escapes, case), so that `str` gives back what was parsed.
3. IPv6 hosts are kept without brackets and written with them. A port is 1..65535 or None.
4. Schemes other than sip and sips are opaque: everything after the colon is `user`, `host` is empty.

Not here: which headers are lists -> `message.py`; names to addresses -> `resolver.py`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote_to_bytes

Params = dict[str, str | None]

MAX_PARAMS = 64
_QUOTED = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?+'
_LIST = re.compile(rf"{_QUOTED}|<[^>]*+>?+|,", re.DOTALL)
_SEMICOLONS = re.compile(rf"{_QUOTED}|;", re.DOTALL)
_ADDRESS = re.compile(r'[ \t]*+(?:"([^"\\]*+(?:\\.[^"\\]*+)*+)"[ \t]*+|([^"<]*+))<([^<>]*+)>[ \t]*+(;.*+)?+', re.DOTALL)
_HOST = r"\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,255})"
_HOST_PORT = re.compile(rf"(?:{_HOST})(?::([0-9]{{1,5}}))?+")
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*+):([^\x00-\x20\x7f<>\"]++)")
_TOKEN = re.compile(r"[A-Za-z0-9.!%*_+`'~:\[\]/@-]++")


def split_list(text: str) -> list[str]:
    """The entries of a comma list; commas in quotes and in angle brackets do not separate."""
    return list(_split(text, ",", _LIST))


def parse_params(text: str) -> Params:
    """`;a=1;b` -> {"a": "1", "b": None}; names lower-case, quoted values unquoted, the first of equal names counts."""
    params: Params = {}
    if not text:
        return params
    if text.count(";") > MAX_PARAMS:
        raise ValueError("too many parameters")
    for part in _split(text, ";", _SEMICOLONS) if '"' in text else text.split(";"):
        name, equals, value = part.partition("=")
        if name := name.strip(" \t").lower():
            params.setdefault(name, _unquoted(value.strip(" \t")) if equals else None)
    return params


def format_params(params: Params) -> str:
    return "".join(
        f";{name}" if value is None else f";{name}={value if _TOKEN.fullmatch(value) else quoted(value)}"
        for name, value in params.items()
    )


def parse_host_port(text: str) -> tuple[str, int | None]:
    """`host`, `host:port`, `[v6]:port` -> host without brackets and the port, where one is named."""
    match = _HOST_PORT.fullmatch(text)
    if match is None:
        raise ValueError("bad host or port")
    port = int(match[3]) if match[3] else None
    if port is not None and not 0 < port < 65536:
        raise ValueError("port out of range")
    return match[1] or match[2], port


def format_host_port(host: str, port: int | None = None) -> str:
    bracketed = f"[{host}]" if ":" in host else host
    return f"{bracketed}:{port}" if port else bracketed


def split_address(text: str) -> tuple[str, str, str]:
    """Display name (unquoted), URI text and parameter text (with its leading semicolon) of a name-addr or addr-spec."""
    if "<" in text:
        match = _ADDRESS.fullmatch(text)
        if match is None:
            raise ValueError("bad address")
        quoted_name, name, uri, params = match.groups()
        display = name.strip(" \t") if quoted_name is None else _unescaped(quoted_name)
        return display, uri.strip(" \t"), params or ""
    # Without brackets everything after the first semicolon belongs to the header (RFC 3261 section 20.10).
    uri, semicolon, rest = text.partition(";")
    if not uri or '"' in uri:
        raise ValueError("bad address")
    return "", uri.strip(" \t"), semicolon + rest


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@dataclass(slots=True)
class Uri:
    """A URI; `user`, `password`, `params` values and `headers` as on the wire, still escaped."""

    scheme: str
    user: str
    host: str
    port: int | None = None
    password: str = ""
    params: Params = field(default_factory=dict)
    headers: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        match = _URI.fullmatch(text)
        if match is None:
            raise ValueError("bad URI")
        scheme, rest = match[1].lower(), match[2]
        if scheme not in ("sip", "sips"):
            return cls(scheme, rest, "")
        # A user part may hold `;` and `?`; a raw `@` after it would make the host a matter of taste.
        userinfo, at, rest = rest.rpartition("@")
        user, _, password = userinfo.partition(":")
        if "@" in userinfo or (at and not user):
            raise ValueError("bad user in URI")
        rest, _, headers = rest.partition("?")
        where, _, params = rest.partition(";")
        host, port = parse_host_port(where)
        return cls(scheme, user, host, port, password, parse_params(params), headers)

    def __str__(self) -> str:
        if self.scheme not in ("sip", "sips"):
            return f"{self.scheme}:{self.user}"
        userinfo = f"{self.user}:{self.password}@" if self.password else f"{self.user}@" if self.user else ""
        # Not format_params: quoted strings do not exist in URIs.
        params = "".join(f";{name}" if value is None else f";{name}={value}" for name, value in self.params.items())
        headers = f"?{self.headers}" if self.headers else ""
        return f"{self.scheme}:{userinfo}{format_host_port(self.host, self.port)}{params}{headers}"

    @property
    def user_text(self) -> str:
        """The user part for people and the API: escapes resolved, what is not UTF-8 replaced."""
        return unquote_to_bytes(self.user.encode("utf-8", "surrogateescape")).decode("utf-8", "replace")

    @property
    def transport(self) -> str:
        """`udp`, `tcp`, `tls`, another word of the wire in lower case, or "" where the URI does not say."""
        named = (self.params.get("transport") or "").lower()
        return "tls" if self.scheme == "sips" and named in ("", "tcp") else named


@dataclass(slots=True)
class NameAddr:
    """One From, To, Contact, Route or Record-Route value."""

    display: str
    uri: Uri
    params: Params = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        display, uri, params = split_address(text)
        return cls(display, Uri.parse(uri), parse_params(params))

    def __str__(self) -> str:
        display = f"{quoted(self.display)} " if self.display else ""
        return f"{display}<{self.uri}>{format_params(self.params)}"


def _split(text: str, separator: str, pattern: re.Pattern[str]) -> Iterator[str]:
    begin = 0
    for match in pattern.finditer(text):
        if match[0] == separator:
            yield text[begin : match.start()].strip(" \t")
            begin = match.end()
    yield text[begin:].strip(" \t")


def _unquoted(text: str) -> str:
    return _unescaped(text[1:-1]) if len(text) > 1 and text[0] == text[-1] == '"' else text


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL) if "\\" in text else text
