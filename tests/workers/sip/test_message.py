"""Tests of workers/sip/message.py, the hostile corpus (tests/data/sip) among them."""

import contextlib
import time
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.sip.message import (
    MAX_MESSAGE_BYTES,
    MessageError,
    Request,
    StreamFramer,
    Via,
    clean,
    integer,
    new_branch,
    new_call_id,
    new_tag,
    parse,
    respond,
)

CORPUS = Path(__file__).parents[2] / "data" / "sip"
INDEX = tomllib.loads((CORPUS / "index.toml").read_text("utf-8"))
INVITE = (
    b"INVITE sip:room@192.0.2.1 SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.7:5062;branch=z9hG4bKtop;rport, SIP/2.0/TCP p.example.com;branch=z9hG4bKlow\r\n"
    b"Record-Route: <sip:p1.example.com;lr>, <sip:p2.example.com;lr>\r\n"
    b'f: "A, <B>" <sip:a@192.0.2.7>;tag=ours\r\n'
    b"t: <sip:room@192.0.2.1>\r\n"
    b"i: one@192.0.2.7\r\n"
    b"CSeq: 7 INVITE\r\n"
    b"Supported: timer, 100rel\r\nk: Replaces\r\n"
    b"X-Custom-ID: \xff\xfe\r\n"
    b"Timestamp: 54\r\n"
    b"c: application/sdp\r\nl: 4\r\n\r\nv=0\n trailing"
)


def corpus(name):
    return (CORPUS / f"{name}.bin").read_bytes()


def test_the_index_names_every_file_and_no_other():
    assert {path.stem for path in CORPUS.glob("*.bin")} == set(INDEX)


@pytest.mark.parametrize("name", INDEX)
def test_corpus(name):
    data = corpus(name)
    begin = time.process_time()
    outcome = _tried(data)
    # Generous, for a busy machine: a quadratic pattern takes seconds on the flood cases.
    assert time.process_time() - begin < 0.5
    assert outcome == INDEX[name]["parse"], INDEX[name]["about"]


def _tried(data):
    """What becomes of `data`, in the words of the index; asserts what holds for every input."""
    try:
        message = parse(data)
    except MessageError as error:
        refusal = error
    else:
        once = message.encode()
        again = parse(once)
        assert again.encode() == once
        assert again.body == message.body
        return "accept"
    if not refusal.status:
        assert refusal.request is None
        return "drop"
    answer = respond(refusal.request, refusal.status, refusal.reason, new_tag())
    assert answer.encode().startswith(b"SIP/2.0 %d " % refusal.status)
    assert answer.via.sent_by == refusal.request.via.sent_by
    return refusal.status


def test_a_request_is_read():
    message = parse(INVITE)
    assert isinstance(message, Request)
    assert (message.method, message.uri) == ("INVITE", "sip:room@192.0.2.1")
    assert message.all("via")[1] == "SIP/2.0/TCP p.example.com;branch=z9hG4bKlow"
    assert message.all("record-route") == ["<sip:p1.example.com;lr>", "<sip:p2.example.com;lr>"]
    assert (message.via.transport, message.via.branch, message.via.sent_by) == (
        "UDP",
        "z9hG4bKtop",
        ("192.0.2.7", 5062),
    )
    assert message.via.params["rport"] is None
    assert (message.cseq, message.call_id) == ((7, "INVITE"), "one@192.0.2.7")
    assert (message.from_tag, message.to_tag) == ("ours", "")
    assert message.tokens("supported") == ["timer", "100rel", "replaces"]
    assert message.body == b"v=0\n"
    assert message.spelling("x-custom-id") == "X-Custom-ID"
    assert clean(message.get("x-custom-id")) == "\ufffd\ufffd"


def test_foreign_bytes_and_spelling_survive():
    wire = parse(INVITE).encode()
    assert b"X-Custom-ID: \xff\xfe\r\n" in wire
    assert b"\r\nCall-ID: one@192.0.2.7\r\n" in wire
    assert wire.endswith(b"Content-Length: 4\r\n\r\nv=0\n")


def test_a_response_copies_what_the_rfc_says():
    request = parse(INVITE)
    ringing = respond(request, 180, to_tag="mine")
    assert ringing.reason == "Ringing"
    assert ringing.all("via") == request.all("via")
    assert ringing.all("record-route") == request.all("record-route")
    assert (ringing.from_tag, ringing.to_tag, ringing.cseq, ringing.call_id) == (
        "ours",
        "mine",
        (7, "INVITE"),
        request.call_id,
    )
    trying, refused = respond(request, 100), respond(request, 486, "Nobody In")
    assert (trying.get("timestamp"), refused.get("timestamp")) == ("54", "")
    assert not trying.all("record-route")
    assert not refused.all("record-route")
    assert refused.encode().startswith(b"SIP/2.0 486 Nobody In\r\n")
    tagged = parse(INVITE.replace(b"t: <sip:room@192.0.2.1>", b"t: <sip:room@192.0.2.1>;tag=there"))
    assert respond(tagged, 200, to_tag="mine").to_tag == "there"


def test_headers_are_changed():
    message = Request("OPTIONS", "sip:h")
    message.add("X-Mine", "1")
    message.add("Via", "SIP/2.0/UDP h;branch=z9hG4bKa")
    message.prepend("Via", "SIP/2.0/TLS [::1];branch=z9hG4bKb")
    assert message.via.sent_by == ("::1", 5061)
    top = message.via
    top.params |= {"received": "192.0.2.9", "rport": "99"}
    message.replace_first("via", str(top))
    assert message.all("via") == [
        "SIP/2.0/TLS [::1];branch=z9hG4bKb;received=192.0.2.9;rport=99",
        "SIP/2.0/UDP h;branch=z9hG4bKa",
    ]
    message.set("via", "SIP/2.0/UDP only")
    assert message.all("via") == ["SIP/2.0/UDP only"]
    assert message.via.host == "only"
    message.set("Subject", "s")
    message.remove("x-mine")
    assert (
        message.encode() == b"OPTIONS sip:h SIP/2.0\r\nVia: SIP/2.0/UDP only\r\nSubject: s\r\nContent-Length: 0\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("name", "value"), [("X-A", "1\r\nVia: x"), ("X-A", "1\n2"), ("X A", "1"), ("X-A:", "1"), ("", "1"), ("X\r\nB", "")]
)
def test_nothing_is_smuggled_into_what_we_send(name, value):
    message = Request("OPTIONS", "sip:h")
    with pytest.raises(ValueError, match=r".+"):  # noqa: PT012  either step may refuse
        message.add(name, value)
        message.encode()


@pytest.mark.parametrize(
    ("text", "sent_by"),
    [
        ("SIP/2.0/UDP H.example", ("h.example", 5060)),
        ("sip / 2.0 / tls  h : 7", ("h", 7)),
        ("SIP/2.0/TCP [2001:DB8::1]", ("2001:db8::1", 5060)),
    ],
)
def test_via(text, sent_by):
    assert Via.parse(text).sent_by == sent_by


def test_numbers_of_the_wire():
    assert [integer(text) for text in ("0", "007", "4294967295")] == [0, 7, 4294967295]
    assert {integer(text) for text in ("", "-1", "+1", "1_0", "²", "٣", " 1", "1.0", "4294967296", "9" * 5000)} == {
        None
    }


def test_identifiers_are_new_each_time():
    for new in (new_tag, new_branch, new_call_id):
        assert len({new() for _ in range(100)}) == 100
    assert new_branch().startswith("z9hG4bK")


# ------------------------------------------------------------------------------------------------ streams


def test_a_stream_is_cut_wherever_the_segments_end():
    whole = parse(INVITE).encode()
    stream = b"\r\n\r\n" + whole + b"\r\n" + whole + b"\r\n\r\n" + whole
    expected = [None, whole, whole, None, whole]
    for size in (1, 2, 3, 7, 64, len(stream)):
        framer = StreamFramer()
        frames = [f for at in range(0, len(stream), size) for f in framer.feed(stream[at : at + size])]
        assert frames == expected, size


def test_a_message_without_length_has_no_body():
    framer = StreamFramer()
    bare = b"OPTIONS sip:h SIP/2.0\r\nVia: x\r\n\r\n"
    assert framer.feed(bare + bare) == [bare, bare]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes.fromhex("1603010200"),
        b"\0",
        b"x" * (MAX_MESSAGE_BYTES + 1),
        b"OPTIONS sip:h SIP/2.0\r\nContent-Length: 70000\r\n\r\n",
        b"OPTIONS sip:h SIP/2.0\r\nContent-Length: -1\r\n\r\n",
        b"OPTIONS sip:h SIP/2.0\r\nl: 1\r\nContent-Length: 2\r\n\r\n",
        b"OPTIONS sip:h SIP/2.0\r\nContent-Length:\r\nVia: x\r\n\r\n",
    ],
)
def test_a_lost_stream_is_said_so(data):
    with pytest.raises(MessageError):
        StreamFramer().feed(data)


def test_a_slow_stream_costs_linear_time():
    body = b"x" * 30_000
    head = b"OPTIONS sip:h SIP/2.0\r\n" + b"X-Filler: y\r\n" * 2_000 + b"Content-Length: %d\r\n\r\n" % len(body)
    framer = StreamFramer()
    begin = time.process_time()
    frames = [frame for byte in head + body for frame in framer.feed(bytes([byte]))]
    assert frames == [head + body]
    assert time.process_time() - begin < 2


# ------------------------------------------------------------------------------------------------ properties

SEEDS = [corpus(name) for name, case in INDEX.items() if case["parse"] == "accept" and len(corpus(name)) < 3_000] + [
    INVITE
]


@given(st.binary())
def test_random_bytes_never_raise_anything_else(data):
    _tried(data)
    _tried(b"OPTIONS sip:h SIP/2.0\r\n" + data + b"\r\n\r\n")
    with contextlib.suppress(MessageError):
        StreamFramer().feed(data)


@given(
    st.sampled_from(SEEDS), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(max_size=6)), max_size=6)
)
def test_mutated_messages_never_raise_anything_else_and_stay_stable(seed, cuts):
    data = seed
    for where, removed, inserted in cuts:
        at = int(where * len(data))
        data = data[:at] + inserted + data[at + removed :]
    _tried(data)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["Via", "Contact", "X-Thing", "Subject", "Route", "From"]),
            st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=30),
        ),
        max_size=8,
    ),
    st.binary(max_size=50),
)
def test_what_we_build_is_read_back(headers, body):
    message = Request("MESSAGE", "sip:h")
    for name, value in [
        ("Via", "SIP/2.0/UDP h"),
        ("From", "<sip:a@h>"),
        ("To", "<sip:b@h>"),
        ("Call-ID", "c"),
        ("CSeq", "1 MESSAGE"),
    ]:
        message.add(name, value)
    for name, value in headers:
        if name not in ("From", "Via"):
            message.add(name, value)
    message.body = body
    _tried(message.encode())
