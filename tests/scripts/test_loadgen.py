"""The load generator as a SIP and RTP peer: each test is a server of one socket that calls it."""

import itertools
import re
import select
import socket
import struct
import subprocess
import time

import numpy as np
import pytest

FRAME_SAMPLES = 160
BURST_HZ = {0: 600.0, 1: 700.0}  # by room, with one talker a room


def decode_ulaw(payload: bytes) -> np.ndarray:
    code = ~np.frombuffer(payload, np.uint8)
    magnitude = (((code & 15).astype(int) << 3) + 132 << ((code >> 4) & 7)) - 132
    return np.where(code & 128, -magnitude, magnitude)


def readable(sock: socket.socket, seconds: float) -> bool:
    return bool(select.select([sock], [], [], seconds)[0])


class Caller:
    """Dials, and reads what comes back, on blocking sockets with a timeout."""

    def __init__(self, binary, *options: str) -> None:
        self.process = subprocess.Popen(
            [binary, "--calls", "4", "--room-size", "2", "--rtp-base", "26000", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self.process.stdout.readline().split("=")[1])
        self.sip, self.rtp = self.udp(), self.udp()

    @staticmethod
    def udp() -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(3)
        return sock

    def sdp(self, rtp: socket.socket | None = None, codecs: str = "0", direction: str = "sendrecv") -> str:
        port = (rtp or self.rtp).getsockname()[1]
        lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "c=IN IP4 127.0.0.1", "t=0 0"]
        return "\r\n".join([*lines, f"m=audio {port} RTP/AVP {codecs}", f"a={direction}", ""])

    def send(self, method: str, user: str = "0-0", call: str = "call-1", cseq: int = 1, sdp: str = "") -> None:
        port = self.sip.getsockname()[1]
        self.sip.sendto(
            f"{method} sip:{user}@127.0.0.1:{self.port} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bK{call}{cseq}{method};rport\r\n"
            f"v: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKbelow\r\nRecord-Route: <sip:192.0.2.1;lr>\r\nMax-Forwards: 70\r\n"
            f"f: <sip:server@127.0.0.1>;tag=ours\r\nTo: <sip:{user}@127.0.0.1>\r\nCall-ID: {call}\r\nCSeq: {cseq} {method}\r\n"
            f"Contact: <sip:server@127.0.0.1:{port}>\r\nContent-Length: {len(sdp)}\r\n\r\n{sdp}".encode(),
            ("127.0.0.1", self.port),
        )

    def reply(self) -> str:
        return self.sip.recv(8192).decode()

    def ask(self, method: str, **parts) -> str:
        self.send(method, **parts)
        return self.reply()

    def answered(self, **parts) -> str:
        """The 200 to an INVITE with our description, acknowledged."""
        parts.setdefault("sdp", self.sdp())
        reply = self.ask("INVITE", **parts)
        assert reply.startswith("SIP/2.0 200 OK\r\n")
        self.send("ACK", **{**parts, "sdp": ""})
        return reply

    def end(self) -> None:
        self.process.stdin.close()
        assert self.process.wait(5) == 0


@pytest.fixture
def caller(loadgen):
    caller = Caller(loadgen)
    yield caller
    if caller.process.poll() is None:
        caller.end()


def test_a_200_repeats_the_headers_of_the_request_and_describes_one_audio_stream(caller):
    reply = caller.answered()
    port = caller.sip.getsockname()[1]
    assert f"rport={port};received=127.0.0.1" in reply.split("\r\n")[1]
    assert re.findall(r"Via: .*branch=([\w-]+)", reply) == ["z9hG4bKcall-11INVITE", "z9hG4bKbelow"]
    assert "Record-Route: <sip:192.0.2.1;lr>\r\n" in reply
    assert re.search(r"\r\nTo: <sip:0-0@127.0.0.1>;tag=\w+\r\n", reply)
    head, _, body = reply.partition("\r\n\r\n")
    assert int(re.search(r"Content-Length: (\d+)", head)[1]) == len(body)
    lines = body.split("\r\n")
    assert [line.split(maxsplit=2)[::2] for line in lines if line[:2] == "m="] == [["m=audio", "RTP/AVP 0"]]
    assert {"a=rtpmap:0 PCMU/8000", "a=ptime:20", "a=sendrecv"} <= set(lines)


def test_the_200_is_repeated_after_t1_and_twice_t1_until_the_ack(caller):
    began = time.monotonic()
    first = caller.ask("INVITE", sdp=caller.sdp())
    assert [caller.reply(), caller.reply()] == [first, first]
    assert 1.4 < time.monotonic() - began < 2.9
    caller.send("ACK")
    caller.sip.settimeout(2.3)  # the next repetition would come 2 s after the last
    with pytest.raises(TimeoutError):
        caller.reply()


def test_a_repeated_invite_gets_the_same_answer(caller):
    assert caller.ask("INVITE", sdp=caller.sdp()) == caller.ask("INVITE", sdp=caller.sdp())


def test_bye_is_confirmed_as_often_as_it_comes_and_frees_the_place(caller):
    caller.answered()
    assert caller.ask("BYE", cseq=2).startswith("SIP/2.0 200 ")
    assert caller.ask("BYE", cseq=2).startswith("SIP/2.0 200 ")
    caller.answered(call="call-2")


@pytest.mark.parametrize("method", ["BYE", "CANCEL", "UPDATE"])
def test_requests_in_an_unknown_dialog_get_481(caller, method):
    assert caller.ask(method, call="never-heard-of").startswith("SIP/2.0 481 ")


def test_cancel_after_the_final_answer_is_confirmed_without_effect(caller):
    caller.answered()
    assert caller.ask("CANCEL").startswith("SIP/2.0 200 ")
    assert caller.rtp.recv(2048)


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ({"user": "2-0"}, "404"),
        ({"user": "0-2"}, "404"),
        ({"user": "alice"}, "404"),
        ({"user": "-1-0"}, "404"),
        ({"user": "0-0"}, "486"),
    ],
)
def test_invites_to_no_place_or_a_taken_one_are_refused(caller, parts, status):
    caller.answered()
    assert caller.ask("INVITE", call="other", sdp=caller.sdp(), **parts).startswith(f"SIP/2.0 {status} ")


def test_an_offer_without_the_codec_gets_488(caller):
    assert caller.ask("INVITE", sdp=caller.sdp(codecs="9 18")).startswith("SIP/2.0 488 ")


def test_options_and_unknown_methods(caller):
    assert caller.ask("OPTIONS").startswith("SIP/2.0 200 ")
    caller.answered()
    assert caller.ask("INFO", cseq=2).startswith("SIP/2.0 501 ")


def test_an_offerless_invite_gets_an_offer_and_the_ack_brings_the_address(caller):
    assert re.search(r"m=audio \d+ RTP/AVP 0\r\n", caller.ask("INVITE"))
    caller.send("ACK", sdp=caller.sdp())
    assert len(caller.rtp.recv(2048)) == 12 + FRAME_SAMPLES


def test_a_reinvite_moves_the_audio_and_a_held_call_is_quiet(caller):
    caller.answered()
    caller.rtp.recv(2048)
    elsewhere = caller.udp()
    assert "a=sendrecv" in caller.answered(cseq=2, sdp=caller.sdp(elsewhere))
    elsewhere.recv(2048)
    assert "a=recvonly" in caller.answered(cseq=3, sdp=caller.sdp(elsewhere, direction="sendonly"))
    elsewhere.setblocking(False)
    while readable(elsewhere, 0):  # what was sent before the hold
        elsewhere.recv(2048)
    assert not readable(elsewhere, 0.2)


def test_garbage_is_ignored(caller):
    for data in (
        b"",
        b"\0" * 40,
        b"INVITE\r\n\r\n",
        b"SIP/2.0 200 OK\r\n\r\n",
        b"A" * 9000,
        b"INVITE sip:0-0@x SIP/2.0\r\n",
    ):
        caller.sip.sendto(data, ("127.0.0.1", caller.port))
    assert caller.ask("OPTIONS").startswith("SIP/2.0 200 ")


@pytest.mark.parametrize("room", [0, 1])
def test_a_talker_sends_bursts_of_its_tone_at_minus_10_dbfs_over_silence(caller, room):
    caller.answered(user=f"{room}-0", call=f"call-{room}")
    packets = [caller.rtp.recv(2048) for _ in range(60)]
    headers = [struct.unpack("!BBHII", packet[:12]) for packet in packets]
    assert [h[1] for h in headers] == [0x80, *[0] * 59]  # marker bit on the first only
    assert {(b[2] - a[2]) & 0xFFFF for a, b in itertools.pairwise(headers)} == {1}
    assert {(b[3] - a[3]) & 0xFFFFFFFF for a, b in itertools.pairwise(headers)} == {FRAME_SAMPLES}
    is_loud = [packet[12:] != b"\xff" * FRAME_SAMPLES for packet in packets]
    starts = [i for i in range(1, 60) if is_loud[i] and not is_loud[i - 1]]
    assert len(starts) >= 2
    assert starts[1] - starts[0] == 25
    assert is_loud[starts[0] : starts[0] + 25] == [True] * 5 + [False] * 20
    burst = np.concatenate([decode_ulaw(packet[12:]) for packet in packets[starts[0] : starts[0] + 5]])
    spectrum = np.abs(np.fft.rfft(burst)) / (len(burst) / 2)
    assert np.argmax(spectrum) * 8000 / len(burst) == BURST_HZ[room]
    assert 20 * np.log10(spectrum.max() / 32768) == pytest.approx(-10, abs=0.2)


def test_others_send_silence(caller):
    caller.answered(user="0-1")
    assert {caller.rtp.recv(2048)[12:] for _ in range(30)} == {b"\xff" * FRAME_SAMPLES}


def test_pcma_is_offered_and_sent_when_chosen(loadgen):
    caller = Caller(loadgen, "--codec", "PCMA")
    assert "RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\n" in caller.answered(user="0-1", sdp=caller.sdp(codecs="0 8"))
    packet = caller.rtp.recv(2048)
    assert packet[1:2] + packet[12:] == b"\x88" + b"\xd5" * FRAME_SAMPLES
    caller.end()


@pytest.mark.parametrize(
    "wrong",
    [["--talkers", "4"], ["--calls", "0"], ["--phase-ms", "20"], ["--ip", "::1"], ["--codec", "G722"], ["--nonsense"]],
)
def test_wrong_options_end_with_a_usage_line(loadgen, wrong):
    ended = subprocess.run([loadgen, *wrong], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert ended.returncode == 2
    assert "usage: loadgen" in ended.stderr
