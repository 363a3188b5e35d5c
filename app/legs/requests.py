"""What callers may ask of legs: the request bodies, and every check a body can be given by itself.

Runs in: control. Pure.
Owns: field names, defaults and the 400s of contract legs.md sections 4 and 5.

Rule: a check raises CallerError and changes nothing. Types, null and "" have been dealt with in `app/api/body.py`.
"""

import re
from typing import Any

import msgspec

from shm.errors import CallerError

ROOM_ID_LIMIT = 1024
DIALLED_CODECS = ("PCMU", "PCMA", "G722", "opus", "L16", "AMR-WB", "AMR-NB")
LATER_TYPES = ("websocket", "whatsapp", "livekit_room")
# Headers sip writes itself; the compact forms too.
OWN_HEADERS = frozenset(
    ("via", "v", "from", "f", "to", "t", "call-id", "i", "cseq", "contact", "m", "max-forwards", "c", "l", "e")
)
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_SIP_URI = re.compile(
    r"sips?:(?:[^@\s<>\"]+@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>\d{1,5}))?(?:[;?][^\s<>\"]*)?",
    re.IGNORECASE,
)
_DIGITS = re.compile(r"[0-9A-Da-d*#]+")


class Carried:
    """Marks a request that goes on to a worker, in one message (`shm/channel.py` has a limit for those)."""

    __slots__ = ()


class Auth(msgspec.Struct, kw_only=True):
    username: str = ""
    password: str = ""


class CreateLeg(msgspec.Struct, Carried, kw_only=True):
    type: str = ""
    to: str = ""
    uri: str = ""
    from_: str = msgspec.field(default="", name="from")
    privacy: str = ""
    ring_timeout: int = 0
    max_duration: int = 0
    codecs: list[str] | None = None
    headers: dict[str, str] = {}
    room_id: str = ""
    auth: Auth | None = None
    webhook_url: str = ""
    webhook_secret: str = ""
    amd: dict[str, Any] | None = None
    accept_dtmf: bool = True
    app_id: str = ""
    speech_detection: bool | None = None
    rtt: bool = False
    outbound_proxy: str = ""
    streams: list[dict[str, Any]] = []


class DeleteLeg(msgspec.Struct, kw_only=True):
    reason: str = ""


class AnswerLeg(msgspec.Struct, kw_only=True):
    codec: str = ""
    speech_detection: bool | None = None
    streams: list[dict[str, Any]] = []


class EarlyMedia(msgspec.Struct, kw_only=True):
    codec: str = ""


class Digits(msgspec.Struct, Carried, kw_only=True):
    digits: str = ""


def check_room_id(room_id: str) -> None:
    if len(room_id) > ROOM_ID_LIMIT:
        raise CallerError(f"room id longer than {ROOM_ID_LIMIT} characters")


def check_new_leg(request: CreateLeg) -> None:
    """Everything of a dialled SIP leg that can be told without looking anywhere else."""
    if not request.type:
        raise CallerError("type is required")
    if request.type in LATER_TYPES:
        raise CallerError(f"legs of type {request.type} are not implemented", 501)
    if request.type not in ("sip", "sip_outbound"):
        raise CallerError(f"unknown leg type {request.type!r}")
    target = request.to or request.uri
    if not target:
        raise CallerError("to is required")
    host_of_sip_uri("to", target)
    if request.outbound_proxy:
        host_of_sip_uri("outbound_proxy", request.outbound_proxy)
    check_room_id(request.room_id)
    for name in request.codecs or ():
        if name not in DIALLED_CODECS:
            raise CallerError(f"unknown codec {name!r}")
    for field, text in (("from", request.from_), ("privacy", request.privacy)):
        if _CONTROL.search(text):
            raise CallerError(f"{field}: control characters are not allowed")
    if request.auth is not None and (not request.auth.username or _CONTROL.search(request.auth.username)):
        raise CallerError("auth: username is required")
    _check_headers(request.headers)
    for field, present in (("amd", request.amd is not None), ("rtt", request.rtt), ("streams", request.streams)):
        if present:
            raise CallerError(f"{field} is not implemented", 501)


def host_of_sip_uri(field: str, text: str) -> str:
    """The host of a SIP URI with scheme, IPv6 in brackets. Raises CallerError."""
    match = _SIP_URI.fullmatch(text)
    if match is None or not 0 < int(match["port"] or 5060) <= 65535:
        raise CallerError(f"{field}: not a SIP URI")
    return match["host"]


def _check_headers(headers: dict[str, str]) -> None:
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name):
            raise CallerError(f"headers: {name!r} is not a header name")
        if name.lower() in OWN_HEADERS or name.lower().startswith("content-"):
            raise CallerError(f"headers: {name} is not yours to set")
        if _CONTROL.search(value):
            raise CallerError(f"headers: {name} contains control characters")


def check_digits(digits: str) -> str:
    """The digits in capitals. Raises CallerError."""
    if not digits:
        raise CallerError("digits is required")
    if not _DIGITS.fullmatch(digits):
        raise CallerError("digits: only 0-9, *, # and A-D")
    return digits.upper()
