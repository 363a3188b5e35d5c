"""Tests of workers/sip/sdp.py: reading, choosing, answering, and that both sides agree."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shm.messages import Codec, LocalMedia
from workers.sip import sdp

OURS = LocalMedia(host="192.0.2.1", port=5000, codecs=("PCMU", "PCMA", "G722", "opus"))
IDS = {"session_id": 5, "version": 1}
HEAD = "v=0\r\no=- 1 1 IN IP4 192.0.2.7\r\ns=-\r\nc=IN IP4 192.0.2.7\r\nt=0 0\r\n"
AUDIO = "m=audio 4000 RTP/AVP 0\r\n"


def session(media=AUDIO, head=HEAD):
    return sdp.parse((head + media).encode())


def answered(media=AUDIO, local=OURS, head=HEAD, **options):
    body, agreed = sdp.make_answer(session(media, head), local, **IDS, **options)
    return body.decode().split("\r\n"), agreed


def streams(lines):
    return [line for line in lines if line.startswith("m=")]


def test_our_offer():
    lines = sdp.make_offer(OURS, session_id=5, version=3).decode().split("\r\n")
    assert lines[:6] == [
        *("v=0", "o=- 5 3 IN IP4 192.0.2.1", "s=-", "c=IN IP4 192.0.2.1", "t=0 0"),
        "m=audio 5000 RTP/AVP 0 8 9 101",
    ]
    assert "a=rtpmap:9 G722/8000" in lines  # RFC 3551: the clock is not the audio rate
    assert {"a=rtpmap:101 telephone-event/8000", "a=fmtp:101 0-15", "a=rtcp-mux", "a=sendrecv", "a=ptime:20"} <= set(
        lines
    )
    assert "opus" not in "".join(lines)


def test_an_offer_over_ipv6_and_on_hold():
    lines = sdp.make_offer(
        LocalMedia(host="2001:db8::1", port=6, codecs=("L16",), direction="sendonly"), **IDS
    ).decode()
    assert "c=IN IP6 2001:db8::1\r\n" in lines
    assert "m=audio 6 RTP/AVP 112 113 114 101\r\n" in lines
    assert "a=sendonly\r\n" in lines
    assert "a=maxptime:20\r\n" in lines  # L16/48000: no longer packet fits rtp's buffers


def test_nothing_to_offer():
    with pytest.raises(sdp.NotAcceptable):
        sdp.make_offer(LocalMedia(host="h", port=1, codecs=("opus",)), **IDS)


def test_static_types_need_no_rtpmap_and_our_order_decides():
    lines, media = answered("m=audio 4000 RTP/AVP 8 9 0\r\n")
    assert streams(lines) == ["m=audio 5000 RTP/AVP 0"]
    assert media.send == Codec(name="PCMU", payload_type=0, clock_hz=8000, rate_hz=8000)
    assert media.receive == (media.send,)
    assert (media.remote_host, media.remote_port, media.direction) == ("192.0.2.7", 4000, "sendrecv")
    assert (media.event_send_type, media.event_receive_type) == (None, None)


def test_one_codec_can_be_asked_for():
    _, media = answered("m=audio 4000 RTP/AVP 0 9\r\n", codec="G722")
    assert (media.send.name, media.send.clock_hz, media.send.rate_hz) == ("G722", 8000, 16000)
    for codec in ("PCMA", "L16", "opus"):
        with pytest.raises(sdp.NotAcceptable):
            answered("m=audio 4000 RTP/AVP 0 9\r\n", codec=codec)


def test_dynamic_types_of_the_peer_are_kept():
    lines, media = answered(
        "m=audio 4000 RTP/AVP 98 99 100\r\na=rtpmap:98 l16/8000\r\na=rtpmap:99 L16/16000/1\r\n"
        "a=rtpmap:100 telephone-event/8000\r\n",
        LocalMedia(host="192.0.2.1", port=5000, codecs=("L16",)),
    )
    assert streams(lines) == ["m=audio 5000 RTP/AVP 99 100"]
    assert "a=rtpmap:99 L16/16000" in lines
    assert (media.send.payload_type, media.send.rate_hz) == (99, 16000)
    assert (media.event_send_type, media.event_receive_type, media.event_clock_hz) == (100, 100, 8000)


def test_telephone_event_on_the_clock_of_the_audio():
    local = LocalMedia(host="192.0.2.1", port=5000, codecs=("L16",))
    offer = "m=audio 4000 RTP/AVP 96 97 98\r\na=rtpmap:96 L16/48000\r\na=rtpmap:97 telephone-event/8000\r\n"
    _, media = answered(offer + "a=rtpmap:98 Telephone-Event/48000\r\n", local)
    assert (media.event_send_type, media.event_clock_hz) == (98, 48000)
    _, media = answered(offer + "a=rtpmap:98 telephone-event/44100\r\n", local)
    assert (media.event_send_type, media.event_clock_hz) == (97, 8000)


@pytest.mark.parametrize(
    "rtpmap",
    [
        "a=rtpmap:96 PCMU/16000",
        "a=rtpmap:96 PCMU/8000/2",
        "a=rtpmap:96 opus/48000/2",
        "a=rtpmap:96 x",
        "a=rtpmap:200 PCMU/8000",
    ],
)
def test_codecs_that_only_look_like_ours(rtpmap):
    with pytest.raises(sdp.NotAcceptable):
        answered(f"m=audio 4000 RTP/AVP 96\r\n{rtpmap}\r\n")


def test_a_static_number_that_the_peer_gave_another_meaning():
    _, media = answered("m=audio 4000 RTP/AVP 0 8\r\na=rtpmap:0 speex/8000\r\n")
    assert media.send.name == "PCMA"


def test_g722_with_its_audio_rate_for_a_clock():
    _, media = answered("m=audio 4000 RTP/AVP 9\r\na=rtpmap:9 G722/16000\r\n")
    assert (media.send.clock_hz, media.send.rate_hz) == (8000, 16000)


def test_every_other_stream_is_answered_with_port_0_in_its_place():
    offer = (
        "m=video 4002 RTP/AVP 97 98\r\nm=audio 0 RTP/AVP 0\r\nm=audio 4004 RTP/SAVP 0\r\nm=audio 4006 RTP/AVPF 0\r\n"
        "m=audio 4008 RTP/AVP 0\r\nm=image 4010 udptl t38\r\nm=application 4012 UDP/BFCP *\r\n"
    )
    lines, media = answered(offer)
    assert streams(lines) == [
        *("m=video 0 RTP/AVP 97 98", "m=audio 0 RTP/AVP 0", "m=audio 0 RTP/SAVP 0", "m=audio 5000 RTP/AVPF 0"),
        *("m=audio 0 RTP/AVP 0", "m=image 0 udptl t38", "m=application 0 UDP/BFCP *"),
    ]
    assert media.remote_port == 4006
    lines, _ = answered(offer, every_stream=False)
    assert streams(lines) == ["m=audio 5000 RTP/AVPF 0"]


@pytest.mark.parametrize(
    "media",
    [
        *("", "m=video 4000 RTP/AVP 0\r\n", "m=audio 0 RTP/AVP 0\r\n", "m=audio 4000 RTP/AVP 18\r\n"),
        *("m=audio 4000 RTP/SAVP 0\r\n", "m=audio 4000 RTP/SAVPF 0\r\n", "m=audio 4000 UDP/TLS/RTP/SAVPF 0\r\n"),
        *(
            AUDIO + "c=IN IP4 224.2.1.1/127\r\n",
            AUDIO + "c=IN IP4 255.255.255.255\r\n",
            AUDIO + "c=IN IP4 h.example\r\n",
        ),
        *(AUDIO + "c=IN IP6 ff02::1\r\n", AUDIO + "c=IN IP6 fe80::1%eth0\r\n"),
    ],
)
def test_not_acceptable(media):
    offer = session(media)
    assert not sdp.acceptable(offer, OURS.codecs)
    with pytest.raises(sdp.NotAcceptable):
        sdp.make_answer(offer, OURS, **IDS)
    with pytest.raises(sdp.NotAcceptable):
        sdp.read_answer(offer, OURS)


@pytest.mark.parametrize(
    "body",
    [
        *("", "hello", "v=1\r\n", "{}", HEAD + "m=audio 99999 RTP/AVP 0\r\n", HEAD + "m=audio -1 RTP/AVP 0\r\n"),
        *(HEAD + "m=audio x RTP/AVP 0\r\n", HEAD + "m=audio 4000 RTP/AVP\r\n", HEAD + "m=\r\n", HEAD + "c=IN IP4\r\n"),
        *(
            "v=0\r\n" + AUDIO,
            HEAD + "m=audio 4000 RTP/\x01 0\r\n",
            HEAD + "m=a 1 x 0\r\n" * 33,
            HEAD + "a=x\r\n" * 2001,
        ),
    ],
)
def test_unreadable(body):
    with pytest.raises(sdp.SdpError):
        sdp.parse(body.encode())


@pytest.mark.parametrize("ending", ["\n", "\r", "\r\n"])
def test_line_endings_and_what_nobody_needs(ending):
    text = HEAD.replace("\r\n", ending) + ending.join(
        ["b=AS:64", "junk", "", "a=x:\u00e9", "k=clear:x", "m=audio 4000/2 RTP/AVP 0", "i=y"]
    )
    assert sdp.parse(b"\r\n" + text.encode() + b"\0").streams[0].port == 4000
    assert sdp.parse(text.encode("latin-1")).origin == "- 1 1 IN IP4 192.0.2.7"


# ------------------------------------------------------------------------------------------------ direction, hold

REVERSED = {"sendrecv": "sendrecv", "sendonly": "recvonly", "recvonly": "sendonly", "inactive": "inactive"}


@pytest.mark.parametrize("theirs", REVERSED)
@pytest.mark.parametrize("at", ["session", "media"])
def test_direction_of_the_answer(theirs, at):
    line = f"a={theirs}\r\n"
    lines, media = answered(AUDIO + line) if at == "media" else answered(AUDIO, head=HEAD + line)
    assert media.direction == REVERSED[theirs]
    assert f"a={media.direction}" in lines
    assert sdp.is_hold(media) == (theirs in ("sendonly", "inactive"))


def test_media_level_direction_and_address_win():
    lines, media = answered(AUDIO + "c=IN IP4 192.0.2.8\r\na=sendrecv\r\n", head=HEAD + "a=inactive\r\n")
    assert (media.direction, media.remote_host) == ("sendrecv", "192.0.2.8")
    assert "a=sendrecv" in lines


def test_our_own_hold_and_theirs():
    held = LocalMedia(host="192.0.2.1", port=5000, codecs=OURS.codecs, direction="sendonly")
    expected = {"sendrecv": "sendonly", "recvonly": "sendonly", "sendonly": "inactive", "inactive": "inactive"}
    for theirs, ours in expected.items():
        _, media = answered(AUDIO + f"a={theirs}\r\n", held)
        assert media.direction == ours
        assert sdp.read_answer(session(AUDIO + f"a={theirs}\r\n"), held).direction == ours
    assert not sdp.is_hold(sdp.read_answer(session(AUDIO + "a=recvonly\r\n"), held))


@pytest.mark.parametrize("connection", ["c=IN IP4 0.0.0.0", "c=IN IP6 ::"])
def test_hold_of_rfc_2543(connection):
    lines, media = answered(f"{AUDIO}{connection}\r\n")
    assert (media.remote_host, media.direction) == ("", "recvonly")
    assert "a=recvonly" in lines
    assert sdp.is_hold(media)


# ------------------------------------------------------------------------------------------------ RTCP, ptime


@pytest.mark.parametrize(
    ("attributes", "mux", "port"),
    [
        ("a=rtcp-mux\r\n", True, 4000),
        ("", False, 4001),
        ("a=rtcp:4711\r\n", False, 4711),
        ("a=rtcp:4711 IN IP4 192.0.2.7\r\n", False, 4711),
        ("a=rtcp:4711 IN IP4 192.0.2.99\r\n", False, 0),
        ("a=rtcp:4711\r\na=rtcp-mux\r\n", True, 4000),
        ("a=rtcp:99999\r\n", False, 4001),
    ],
)
def test_rtcp(attributes, mux, port):
    lines, media = answered(AUDIO + attributes)
    assert (media.rtcp_mux, media.remote_rtcp_port) == (mux, port)
    assert ("a=rtcp-mux" in lines) == mux
    assert sdp.read_answer(session(AUDIO + attributes), OURS).remote_rtcp_port == port


def test_no_rtcp_beyond_the_last_port():
    assert answered("m=audio 65535 RTP/AVP 0\r\n")[1].remote_rtcp_port == 0


@pytest.mark.parametrize(
    ("attributes", "ptime_ms"),
    [
        *(("", 20), ("a=ptime:20\r\n", 20), ("a=ptime:40\r\n", 40), ("a=ptime:60\r\n", 60), ("a=ptime:30\r\n", 20)),
        *(("a=ptime:10\r\n", 20), ("a=ptime:0\r\n", 20), ("a=ptime:-1\r\n", 20), ("a=ptime:9999999\r\n", 20)),
        *(("a=ptime:60\r\na=maxptime:40\r\n", 40), ("a=maxptime:10\r\n", 10), ("a=maxptime:x\r\n", 20)),
    ],
)
def test_ptime(attributes, ptime_ms):
    lines, media = answered(AUDIO + attributes)
    assert media.ptime_ms == ptime_ms
    assert f"a=ptime:{ptime_ms}" in lines


def test_ptime_within_our_packets():
    local = LocalMedia(host="192.0.2.1", port=5000, codecs=("L16",))
    _, media = answered("m=audio 4000 RTP/AVP 96\r\na=rtpmap:96 L16/48000\r\na=ptime:60\r\n", local)
    assert media.ptime_ms == 20


# ------------------------------------------------------------------------------------------------ answers, the API


def test_an_answer_with_other_payload_types_and_several_codecs():
    media = sdp.read_answer(
        session("m=audio 4000 RTP/AVP 97 8 0 98\r\na=rtpmap:97 G722/8000\r\na=rtpmap:98 telephone-event/8000\r\n"), OURS
    )
    assert (media.send.name, media.send.payload_type) == ("G722", 97)
    assert [(codec.name, codec.payload_type) for codec in media.receive] == [("G722", 9), ("PCMA", 8), ("PCMU", 0)]
    assert (media.event_send_type, media.event_receive_type) == (98, 101)


def test_an_answer_with_a_codec_we_did_not_offer():
    narrow = LocalMedia(host="192.0.2.1", port=5000, codecs=("PCMA",))
    with pytest.raises(sdp.NotAcceptable):
        sdp.read_answer(session(AUDIO), narrow)


def test_offered_codecs_are_those_the_api_has_words_for():
    offer = session(
        "m=video 4002 RTP/AVP 97\r\nm=audio 4000 RTP/AVP 111 18 9 0 96 101\r\na=rtpmap:111 opus/48000/2\r\n"
        "a=rtpmap:96 AMR/8000\r\na=rtpmap:101 telephone-event/8000\r\n"
    )
    assert [(c.name, c.payload_type, c.clock_rate, c.priority) for c in sdp.offered_codecs(offer)] == [
        ("opus", 111, 48000, 1),
        ("G722", 9, 8000, 2),
        ("PCMU", 0, 8000, 3),
        ("AMR-NB", 96, 8000, 4),
    ]
    assert sdp.offered_codecs(session("")) == ()


# ------------------------------------------------------------------------------------------------ properties

DIRECTIONS = st.sampled_from(list(REVERSED))
LOCALS = st.builds(
    LocalMedia,
    host=st.sampled_from(["192.0.2.1", "2001:db8::1"]),
    port=st.integers(1024, 65534),
    codecs=st.lists(st.sampled_from(["PCMU", "PCMA", "G722", "L16", "opus"]), max_size=5).map(tuple),
    direction=DIRECTIONS,
)


@given(LOCALS, LOCALS)
def test_offerer_and_answerer_agree(a, b):
    try:
        offer = sdp.make_offer(a, **IDS)
        answer, at_b = sdp.make_answer(sdp.parse(offer), b, **IDS)
    except sdp.NotAcceptable:
        assert not set(a.codecs) & set(b.codecs) - {"opus"}
        return
    at_a = sdp.read_answer(sdp.parse(answer), a)
    assert at_a.direction == REVERSED[at_b.direction]
    assert (at_a.send, at_a.receive) == (at_b.send, at_b.receive)
    assert (at_a.remote_host, at_a.remote_port) == (b.host, b.port)
    assert (at_b.remote_host, at_b.remote_port) == (a.host, a.port)
    assert at_a.rtcp_mux
    assert at_b.rtcp_mux
    assert (at_a.event_send_type, at_a.event_clock_hz) == (at_b.event_receive_type, at_b.event_clock_hz)
    assert (at_b.send.name, at_a.ptime_ms) == (
        next(c for c in b.codecs if c in a.codecs and c != "opus"),
        at_b.ptime_ms,
    )


@given(st.binary(), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 5), st.binary(max_size=5)), max_size=5))
def test_nothing_else_is_ever_raised(noise, cuts):
    mutated = sdp.make_offer(OURS, **IDS) + b"m=video 5 RTP/AVP 97\r\na=rtcp:1 IN IP4 192.0.2.1\r\n"
    for where, removed, inserted in cuts:
        at = int(where * len(mutated))
        mutated = mutated[:at] + inserted + mutated[at + removed :]
    for body in (
        noise,
        b"v=0\r\n" + noise,
        HEAD.encode() + noise,
        HEAD.encode() + b"m=audio 1 RTP/AVP 0\r\na=" + noise,
        mutated,
    ):
        with contextlib.suppress(sdp.SdpError, sdp.NotAcceptable):
            offer = sdp.parse(body)
            sdp.offered_codecs(offer)
            sdp.acceptable(offer, OURS.codecs)
            with contextlib.suppress(sdp.NotAcceptable):
                sdp.read_answer(offer, OURS)
            answer, media = sdp.make_answer(offer, OURS, **IDS)
            reread = sdp.parse(answer)
            assert len(reread.streams) == len(offer.streams)
            assert sum(stream.port == OURS.port for stream in reread.streams) == 1
            assert 0 < media.remote_port < 65536
