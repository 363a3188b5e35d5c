"""Latch, digits, reports, counters and addresses: the pure parts."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.rtp import address, rtcp
from workers.rtp.dtmf import DigitReader, DigitSender
from workers.rtp.latch import Latch
from workers.rtp.reception import Reception

SDP = address.pack("192.0.2.1", 4000)
NAT = address.pack("192.0.2.1", 4001)
STRANGER = address.pack("198.51.100.9", 4000)


class TestLatch:
    def test_the_agreed_address_is_believed_at_once(self):
        assert Latch(SDP).accepts(SDP, 1, 1)

    def test_the_one_latched_before_too(self):
        assert Latch(SDP, STRANGER).accepts(STRANGER, 1, 1)

    def test_another_port_of_the_agreed_host_needs_two_in_a_row(self):
        latch = Latch(SDP)
        assert [latch.accepts(NAT, 1, n) for n in (10, 11)] == [False, True]

    def test_anybody_else_needs_five_with_one_ssrc_and_running_numbers(self):
        latch = Latch(SDP)
        assert [latch.accepts(STRANGER, 1, 65534 + n) for n in range(5)] == [False] * 4 + [True]
        latch = Latch(SDP)
        assert not any(latch.accepts(STRANGER, 1, n * 100) for n in range(50))
        assert not any(latch.accepts(STRANGER, n, n) for n in range(50))

    def test_a_stranger_does_not_keep_the_peer_out(self):
        latch = Latch(SDP)
        for n in range(4):
            latch.accepts(STRANGER, 1, n)
        assert latch.accepts(SDP, 2, 500)


def event(digit, *, end=False, duration=160):
    return struct.pack("!BBH", "0123456789*#ABCD".index(digit), (0x80 if end else 0) | 10, duration)


class TestDigits:
    def test_each_digit_counts_once_at_its_first_end(self):
        reader = DigitReader()
        heard = [reader.read(1000, event("5")) for _ in range(4)]
        heard += [reader.read(1000, event("5", end=True)) for _ in range(3)]
        assert heard == [""] * 4 + ["5"] + [""] * 2

    def test_a_digit_without_ends_counts_when_the_next_begins(self):
        reader = DigitReader()
        assert reader.read(1000, event("1")) == ""
        assert reader.read(3000, event("2")) == "1"
        assert reader.read(1000, event("1", end=True)) == ""  # straggler
        assert reader.read(3000, event("2", end=True)) == "2"

    def test_timestamps_wrap(self):
        reader = DigitReader()
        assert reader.read(2**32 - 80, event("1", end=True)) == "1"
        assert reader.read(720, event("2", end=True)) == "2"

    def test_a_successor_does_not_report_again(self):
        assert DigitReader(reported=1000).read(1000, event("5", end=True)) == ""

    @given(st.binary(max_size=8))
    def test_junk_is_no_digit(self, payload):
        assert len(DigitReader().read(1, payload)) <= 1

    def test_sending_follows_the_contract(self):
        sender = DigitSender()
        assert sender.queue("1#")
        sent = [sender.next(n * 160, 160) for n in range(20)]
        first = sent[:7]
        assert [struct.unpack("!BBH", p) for _t, p, _m in first] == [
            (1, 10, 160), (1, 10, 320), (1, 10, 480), (1, 10, 640), (1, 138, 640), (1, 138, 640), (1, 138, 640),
        ]  # fmt: skip
        assert {t for t, _p, _m in first} == {0}
        assert [m for _t, _p, m in first] == [True] + [False] * 6
        assert sent[7:10] == [None] * 3  # 60 ms of audio
        assert {t for t, _p, _m in sent[10:17]} == {1600}
        assert sender.is_idle

    def test_the_queue_is_bounded_and_takes_digits_only(self):
        sender = DigitSender()
        assert sender.queue("1" * 256)
        assert not sender.queue("1")
        assert not DigitSender().queue("1x")


class TestRtcp:
    def test_a_report_reads_as_built(self):
        block = rtcp.Block(7, 25, -3, 70000, 12, 0xABCD0123, 65536)
        data = rtcp.build(42, rtcp.Sent(0x1122334455667788, 160, 5, 800), block)
        assert rtcp.parse(data) == [rtcp.Report(42, 0x1122334455667788, (block,))]
        assert len(data) % 4 == 0

    def test_a_bye_ends_the_compound(self):
        data = rtcp.build(42, None, None, bye=True)
        assert data[1] == rtcp.RECEIVER_REPORT
        assert data[-8:] == struct.pack("!BBHI", 0x81, rtcp.BYE, 1, 42)

    @given(st.binary(max_size=120))
    def test_junk_never_raises(self, data):
        rtcp.parse(data)
        rtcp.parse(b"\x81\xc8" + data)

    def test_round_trip(self):
        now = rtcp.ntp_middle(rtcp.ntp_now())
        block = rtcp.Block(1, 0, 0, 0, 0, (now - 65536) & 0xFFFFFFFF, 32768)
        assert rtcp.round_trip_ms(block, now) == pytest.approx(500, abs=0.1)
        assert rtcp.round_trip_ms(rtcp.Block(1, 0, 0, 0, 0, 0, 0), now) is None
        assert rtcp.round_trip_ms(rtcp.Block(1, 0, 0, 0, 0, now, 0xFFFFFF), now) is None


class TestReception:
    def feed(self, sequence, ssrc=7):
        reception, legs = Reception(2), np.array([1])
        reception.start(1, 0)
        begun = [
            len(reception.update(legs, np.array([ssrc]), np.array([number & 0xFFFF], np.uint16), 1))
            for number in sequence
        ]
        return reception, legs, begun

    def test_gaps_are_lost_until_filled(self):
        reception, legs, _ = self.feed([10, 11, 14, 13])
        assert (reception.received(legs)[0], reception.lost(legs)[0]) == (4, 1)

    def test_numbers_wrap(self):
        reception, legs, _ = self.feed(range(65530, 65550))
        assert reception.lost(legs)[0] == 0
        assert reception.highest[1] == 65549

    def test_a_jump_is_another_account_and_no_loss(self):
        reception, legs, begun = self.feed([10, 11, 30000, 30001, 30003])
        assert (reception.received(legs)[0], reception.lost(legs)[0]) == (5, 1)
        assert begun == [1, 0, 0, 0, 0]

    def test_a_new_ssrc_begins_a_stream_and_keeps_the_loss(self):
        reception, legs, _ = self.feed([1, 3])
        assert len(reception.update(legs, np.array([8]), np.array([900], np.uint16), 1)) == 1
        assert (reception.received(legs)[0], reception.lost(legs)[0]) == (3, 1)


class TestAddress:
    @pytest.mark.parametrize(
        "host", ["0.0.0.0", "224.0.0.1", "255.255.255.255", "example.org", "", "1.2.3.4.5", "::", "::1"]
    )
    def test_never_there(self, host):
        assert address.destination(host, 4000, address.pack("127.0.0.1", 9)) is None

    def test_never_to_ourselves(self):
        assert address.destination("127.0.0.1", 9, address.pack("127.0.0.1", 9)) is None
        assert address.destination("127.0.0.1", 9, address.pack("0.0.0.0", 9)) is None
        assert address.destination("127.0.0.1", 10, address.pack("127.0.0.1", 9)) == address.pack("127.0.0.1", 10)

    @pytest.mark.parametrize("port", [0, -1, 65536, 99999])
    def test_impossible_ports(self, port):
        assert address.destination("127.0.0.1", port, address.pack("127.0.0.1", 9)) is None

    @pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7"])
    def test_there_and_back(self, host):
        assert address.unpack(address.pack(host, 4567))[:2] == (host, 4567)
