"""Session descriptions: what is offered, what is agreed.

Runs in: sip.
Owns: RFC 8866 as far as one audio stream needs it, RFC 3264 offer and answer, our payload types.

Rules
1. `parse` raises SdpError and nothing else (400); what can be read but not agreed on is NotAcceptable (488). Lines and
   attributes that nobody here needs are skipped, whatever is in them.
2. Our answer takes the first audio stream that has a codec of ours, one codec (our order of preference, the offer's
   payload types) and telephone-event. Every other m= line is answered in its place with port 0.
3. RTP/AVP and RTP/AVPF are plain RTP and answered as offered (we send no feedback, which AVPF allows); SAVP is not plain.
4. A codec name that is not in `_RATES` (opus, until it is built) is left out of offers and answers.
5. c=0.0.0.0 and c=:: mean "do not send to me" (RFC 2543 hold): `remote_host` is empty then.

Not here: when to offer -> `calls.py`; SRTP (a=crypto), opus and its fmtp belong here once they exist.
"""

import ipaddress
import re
from dataclasses import dataclass, field

import msgspec

from shm.errors import PeerError
from shm.messages import Codec, Direction, LocalMedia, Media, OfferedCodec

MAX_LINES = 2_000
MAX_STREAMS = 32
MAX_PACKET_BYTES = 1_920  # payload that rtp has receive buffers for: L16/48000 at 20 ms
DEFAULT_PTIME_MS = 20
EVENT_TYPE = 101
EVENT_CLOCK_HZ = 8_000

# Codec -> audio rates, best first. L16/16000 leads: it is the room's usual rate and fits an Ethernet frame.
_RATES = {"PCMU": (8_000,), "PCMA": (8_000,), "G722": (16_000,), "L16": (16_000, 48_000, 8_000)}
_BYTES_PER_SAMPLE = {"PCMU": 1.0, "PCMA": 1.0, "G722": 0.5, "L16": 2.0}
_OUR_TYPES = {("PCMU", 8_000): 0, ("PCMA", 8_000): 8, ("G722", 16_000): 9}
_OUR_TYPES |= {("L16", rate_hz): 112 + index for index, rate_hz in enumerate(_RATES["L16"])}
_STATIC = {0: ("PCMU", 8_000, 1), 8: ("PCMA", 8_000, 1), 9: ("G722", 8_000, 1)}
# Every codec the API has a word for, by its name in rtpmap.
_API_NAMES = {"PCMU": "PCMU", "PCMA": "PCMA", "G722": "G722", "L16": "L16", "OPUS": "opus"}
_API_NAMES |= {"AMR-WB": "AMR-WB", "AMR": "AMR-NB"}
_PLAIN = frozenset(("RTP/AVP", "RTP/AVPF"))
_DIRECTIONS: dict[str, Direction] = {d: d for d in ("sendrecv", "sendonly", "recvonly", "inactive")}
_WORDS = re.compile(r"[!-~]++(?: [!-~]++)*+")
_RTPMAP = re.compile(r"([0-9]{1,3})[ \t]++([!-.0-~]{1,64})/([0-9]{1,6})(?:/([0-9]{1,2}))?+")


class SdpError(ValueError):
    """Not a session description."""


class NotAcceptable(PeerError):
    """A description we can read but not agree to: 488."""


@dataclass(slots=True)
class Stream:
    """One m= line with what belongs to it. `host` is the text of c=, unchecked."""

    kind: str
    port: int
    protocol: str
    formats: list[str]
    host: str
    direction: Direction
    rtpmaps: dict[int, tuple[str, int, int]] = field(default_factory=dict)  # type -> NAME, clock_hz, channels
    ptime_ms: int = 0
    maxptime_ms: int = 0
    rtcp_mux: bool = False
    rtcp_port: int = 0
    rtcp_host: str = ""

    def codec(self, payload_type: str) -> Codec | None:
        """The codec behind an entry of the m= line; None where it is not one of ours."""
        number = _number(payload_type, 127)
        if number is None:
            return None
        name, clock_hz, channels = self.rtpmaps.get(number) or _STATIC.get(number) or ("", 0, 0)
        if name == "G722" and clock_hz in (8_000, 16_000):  # some phones write the audio rate for the clock
            clock_hz, rate_hz = 8_000, 16_000
        else:
            rate_hz = clock_hz
        if channels != 1 or rate_hz not in _RATES.get(name, ()):
            return None
        return Codec(name=name, payload_type=number, clock_hz=clock_hz, rate_hz=rate_hz)

    def codecs(self) -> list[Codec]:
        return [codec for text in self.formats if (codec := self.codec(text))]

    def event(self, clock_hz: int) -> tuple[int, int] | None:
        """Payload type and clock of telephone-event: the one that runs on the audio's clock, else 8000, else None."""
        clocks: dict[int, int] = {}
        for text in self.formats:
            number = _number(text, 127)
            if number is not None and self.rtpmaps.get(number, ("",))[0] == "TELEPHONE-EVENT":
                clocks.setdefault(self.rtpmaps[number][1], number)
        for candidate_hz in (clock_hz, EVENT_CLOCK_HZ):
            if candidate_hz in clocks:
                return clocks[candidate_hz], candidate_hz
        return None


@dataclass(slots=True)
class Session:
    """A parsed description. `origin` is the o= line: unchanged means an unchanged description (RFC 3264 section 8)."""

    origin: str
    streams: list[Stream]


def parse(body: bytes) -> Session:
    """Any line ending, session-level c= and direction as defaults of the streams."""
    lines = body.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").strip("\n \0").split("\n")
    if lines[0].strip() != "v=0":
        raise SdpError("no v=0")
    if len(lines) > MAX_LINES:
        raise SdpError("too many lines")
    origin = host = ""
    direction: Direction = "sendrecv"
    streams: list[Stream] = []
    stream: Stream | None = None
    for line in lines:
        kind, value = line[:2], line[2:].strip()
        if kind == "a=":
            if value in _DIRECTIONS:
                if stream is None:
                    direction = _DIRECTIONS[value]
                else:
                    stream.direction = _DIRECTIONS[value]
            elif stream is not None and stream.kind == "audio":
                _read_attribute(stream, value)
        elif kind == "m=":
            stream = _parse_stream(value, host, direction)
            streams.append(stream)
            if len(streams) > MAX_STREAMS:
                raise SdpError("too many m= lines")
        elif kind == "c=" and stream is None:
            host = _parse_connection(value)
        elif kind == "c=" and stream is not None:
            stream.host = _parse_connection(value)
        elif kind == "o=":
            origin = value
    if any(stream.port and not stream.host for stream in streams if stream.kind == "audio"):
        raise SdpError("no c= line")
    return Session(origin, streams)


def make_offer(local: LocalMedia, *, session_id: int, version: int) -> bytes:
    """One audio stream with all codecs of `local` that are built; NotAcceptable when there is none."""
    codecs = _our_codecs(local.codecs)
    if not codecs:
        raise NotAcceptable("no codec to offer")
    lines = _session_lines(local, session_id, version)
    lines += _audio_lines(
        local.port,
        "RTP/AVP",
        codecs,
        event=(EVENT_TYPE, EVENT_CLOCK_HZ),
        direction=local.direction,
        ptime_ms=DEFAULT_PTIME_MS,
        maxptime_ms=min(_longest_ptime(codec) for codec in codecs),
        mux=True,
    )
    return _join(lines)


def make_answer(
    offer: Session,
    local: LocalMedia,
    *,
    session_id: int,
    version: int,
    codec: str = "",
    every_stream: bool = True,
) -> tuple[bytes, Media]:
    """The answer and what it agrees to. `codec` narrows the choice to one name; raises NotAcceptable.

    `every_stream` False leaves unused m= lines out instead of answering them with port 0 (SIP_SDP_STRICT_MLINE_ANSWER).
    """
    chosen, agreed = _choose(offer, local.codecs, codec)
    media = _agree(chosen, local, agreed, (agreed,), chosen.event(agreed.clock_hz))
    event = None if media.event_receive_type is None else (media.event_receive_type, media.event_clock_hz)
    lines = _session_lines(local, session_id, version)
    for stream in offer.streams:
        if stream is chosen:
            lines += _audio_lines(
                local.port,
                stream.protocol,
                [agreed],
                event=event,
                direction=media.direction,
                ptime_ms=media.ptime_ms,
                maxptime_ms=_longest_ptime(agreed),
                mux=media.rtcp_mux,
            )
        elif every_stream:
            lines.append(f"m={stream.kind} 0 {stream.protocol} {' '.join(stream.formats)}")
    return _join(lines), media


def read_answer(answer: Session, local: LocalMedia) -> Media:
    """What the peer's answer to `make_offer(local)` agrees to; raises NotAcceptable."""
    stream = next((s for s in answer.streams if s.kind == "audio" and s.port), None)
    if stream is None:
        raise NotAcceptable("no audio in the answer")
    if stream.protocol.upper() not in _PLAIN:
        raise NotAcceptable("not the profile we offered")
    offered = {(codec.name, codec.rate_hz): codec for codec in _our_codecs(local.codecs)}
    theirs = [codec for codec in stream.codecs() if (codec.name, codec.rate_hz) in offered]
    if not theirs:
        raise NotAcceptable("no common codec")
    receive = tuple(offered[codec.name, codec.rate_hz] for codec in theirs)
    event = stream.event(EVENT_CLOCK_HZ)
    media = _agree(stream, local, theirs[0], receive, event if event and event[1] == EVENT_CLOCK_HZ else None)
    if media.event_send_type is None:
        return media
    return msgspec.structs.replace(media, event_receive_type=EVENT_TYPE)


def acceptable(offer: Session, codecs: tuple[str, ...]) -> bool:
    """Whether `make_answer` with these codecs would find a stream: the 488 before there is a leg."""
    try:
        stream, _ = _choose(offer, codecs, "")
        _remote_host(stream.host)
    except NotAcceptable:
        return False
    return True


def offered_codecs(offer: Session) -> tuple[OfferedCodec, ...]:
    """The known codecs of the first live audio stream, built or not, in its order (contract events.md)."""
    stream = next((s for s in offer.streams if s.kind == "audio" and s.port), None)
    offered: list[OfferedCodec] = []
    for text in stream.formats if stream else ():
        number = _number(text, 127)
        if number is None:
            continue
        name, clock_hz, _ = (stream and stream.rtpmaps.get(number)) or _STATIC.get(number) or ("", 0, 0)
        if name in _API_NAMES:
            priority = len(offered) + 1
            known = _API_NAMES[name]
            offered.append(OfferedCodec(name=known, payload_type=number, clock_rate=clock_hz, priority=priority))
    return tuple(offered)


def is_hold(media: Media) -> bool:
    """Whether the peer does not want to hear us: its sendonly, inactive or c=0.0.0.0."""
    return media.direction in ("recvonly", "inactive") or not media.remote_host


def _parse_stream(value: str, host: str, direction: Direction) -> Stream:
    words = value.split()
    if len(words) < 4 or not _WORDS.fullmatch(" ".join(words)):
        raise SdpError("bad m= line")
    port = _number(words[1].partition("/")[0], 65_535)
    if port is None:
        raise SdpError("bad port")
    return Stream(words[0].lower(), port, words[2], words[3:], host, direction)


def _parse_connection(value: str) -> str:
    words = value.split()
    if len(words) != 3 or words[0].upper() != "IN":
        raise SdpError("bad c= line")
    return words[2].partition("/")[0]


def _read_attribute(stream: Stream, text: str) -> None:
    name, _, value = text.partition(":")
    value = value.strip()
    match name:
        case "rtpmap":
            if found := _RTPMAP.fullmatch(value):
                mapped = (found[2].upper(), int(found[3]), int(found[4] or 1))
                stream.rtpmaps.setdefault(int(found[1]), mapped)
        case "ptime":
            stream.ptime_ms = _number(value.partition(".")[0], 1_000) or 0
        case "maxptime":
            stream.maxptime_ms = _number(value.partition(".")[0], 1_000) or 0
        case "rtcp-mux":
            stream.rtcp_mux = True
        case "rtcp":  # RFC 3605: port, and the address where it differs
            port, _, address = value.partition(" ")
            stream.rtcp_port = _number(port, 65_535) or 0
            stream.rtcp_host = address.split()[-1] if address.split() else ""


def _choose(offer: Session, codecs: tuple[str, ...], wanted: str) -> tuple[Stream, Codec]:
    """The first plain audio stream with a codec of ours, and the one of its codecs that we like best."""
    streams = [stream for stream in offer.streams if stream.kind == "audio" and stream.port]
    if not streams:
        raise NotAcceptable("no audio stream")
    plain = [stream for stream in streams if stream.protocol.upper() in _PLAIN]
    if not plain:
        raise NotAcceptable("only secure RTP offered")
    names = codecs if not wanted else (wanted,) if wanted in codecs else ()
    for stream in plain:
        theirs = stream.codecs()
        for name in names:
            for rate_hz in _RATES.get(name, ()):
                for codec in theirs:
                    if codec.name == name and codec.rate_hz == rate_hz:
                        return stream, codec
    raise NotAcceptable("no common codec")


def _agree(
    stream: Stream, local: LocalMedia, send: Codec, receive: tuple[Codec, ...], event: tuple[int, int] | None
) -> Media:
    host = _remote_host(stream.host)
    sends = bool(host) and local.direction in ("sendrecv", "sendonly") and stream.direction in ("sendrecv", "recvonly")
    hears = local.direction in ("sendrecv", "recvonly") and stream.direction in ("sendrecv", "sendonly")
    if stream.rtcp_mux:
        rtcp_port = stream.port
    elif stream.rtcp_host not in ("", stream.host):
        rtcp_port = 0  # RTCP to a third host is not spoken
    else:
        rtcp_port = stream.rtcp_port or (stream.port + 1) % 65_536
    event_type, event_clock_hz = event or (None, EVENT_CLOCK_HZ)
    return Media(
        send=send,
        receive=receive,
        remote_host=host,
        remote_port=stream.port,
        direction=("sendrecv" if hears else "sendonly") if sends else ("recvonly" if hears else "inactive"),
        rtcp_mux=stream.rtcp_mux,
        remote_rtcp_port=rtcp_port,
        ptime_ms=_ptime(stream, send),
        event_send_type=event_type,
        event_receive_type=event_type,
        event_clock_hz=event_clock_hz,
    )


def _ptime(stream: Stream, codec: Codec) -> int:
    """What we send: the peer's ptime where it is 20, 40 or 60, else 20, within its maxptime and our packet size."""
    wished_ms = stream.ptime_ms if stream.ptime_ms in (20, 40, 60) else DEFAULT_PTIME_MS
    ceiling_ms = min(stream.maxptime_ms or 60, _longest_ptime(codec))
    return next((ptime_ms for ptime_ms in (60, 40, 20) if ptime_ms <= min(wished_ms, ceiling_ms)), 10)


def _longest_ptime(codec: Codec) -> int:
    """Longest packet that we take and send, in ms."""
    bytes_per_ms = _BYTES_PER_SAMPLE[codec.name] * codec.rate_hz / 1_000
    return min(60, int(MAX_PACKET_BYTES / bytes_per_ms))


def _our_codecs(names: tuple[str, ...]) -> list[Codec]:
    """Our payload types: the same for the same names, so that an answer can be read without the offer at hand."""
    return [
        Codec(
            name=name,
            payload_type=_OUR_TYPES[name, rate_hz],
            clock_hz=8_000 if name == "G722" else rate_hz,
            rate_hz=rate_hz,
        )
        for name in dict.fromkeys(names)
        for rate_hz in _RATES.get(name, ())
    ]


def _remote_host(text: str) -> str:
    """The address to send to; "" for the unspecified one. Names and groups are nothing to send a call's audio to."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise NotAcceptable("c= is no IP address") from error
    if address.is_multicast or text == "255.255.255.255" or "%" in text:
        raise NotAcceptable("c= is no address of one host")
    return "" if address.is_unspecified else str(address)


def _session_lines(local: LocalMedia, session_id: int, version: int) -> list[str]:
    where = f"IN IP{6 if ':' in local.host else 4} {local.host}"
    return ["v=0", f"o=- {session_id} {version} {where}", "s=-", f"c={where}", "t=0 0"]


def _audio_lines(
    port: int,
    protocol: str,
    codecs: list[Codec],
    *,
    event: tuple[int, int] | None,
    direction: Direction,
    ptime_ms: int,
    maxptime_ms: int,
    mux: bool,
) -> list[str]:
    maps = [(codec.payload_type, f"{codec.name}/{codec.clock_hz}") for codec in codecs]
    if event:
        maps.append((event[0], f"telephone-event/{event[1]}"))
    lines = [f"m=audio {port} {protocol} {' '.join(str(number) for number, _ in maps)}"]
    lines += [f"a=rtpmap:{number} {name}" for number, name in maps]
    if event:
        lines.append(f"a=fmtp:{event[0]} 0-15")
    lines += [f"a=ptime:{ptime_ms}", f"a=maxptime:{maxptime_ms}", f"a={direction}"]
    if mux:
        lines.append("a=rtcp-mux")
    return lines


def _join(lines: list[str]) -> bytes:
    return ("\r\n".join(lines) + "\r\n").encode()


def _number(text: str, maximum: int) -> int | None:
    if not text or len(text) > 5 or not text.isascii() or not text.isdigit():
        return None
    number = int(text)
    return number if number <= maximum else None
