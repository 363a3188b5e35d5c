"""The real process: sockets on loopback, real banks, a room in the test, both ways of I/O."""

import os
import socket
import struct
import threading
import time
from contextlib import contextmanager

import msgspec
import numpy as np
import pytest
from bed import G722, L16, L16_48, PCMA, PCMU, Bed, Phone, free_ports, level_at, media, tone

from shm.clock import TICK_NS, monotonic_ns
from shm.messages import (
    CloseLeg,
    DetectSpeech,
    DigitReceived,
    Done,
    Failed,
    Hello,
    MediaTimedOut,
    OpenLeg,
    PlaceLeg,
    RtpInventoryPart,
    SendDigits,
    SetMedia,
    SpeechChanged,
)
from workers.audio import g711, l16
from workers.audio.g722 import G722Decoder, G722Encoder

ENCODE = {
    "PCMU": g711.ulaw_encode,
    "PCMA": g711.alaw_encode,
    "L16": l16.l16_encode,
    "G722": lambda samples: np.frombuffer(G722Encoder().encode(samples), np.uint8),
}
DECODE = {
    "PCMU": g711.ulaw_decode,
    "PCMA": g711.alaw_decode,
    "L16": l16.l16_decode,
    "G722": lambda payload: G722Decoder().decode(payload),
}
SILENCE = b"\xff" * 160


def talk(phone, codec, hz, ms=600, ptime_ms=20):
    """Say a sine."""
    data = ENCODE[codec.name](tone(codec.rate_hz, hz, ms)).tobytes()
    size = len(data) * ptime_ms // ms
    phone.payload_type = codec.payload_type
    phone.say([data[at : at + size] for at in range(0, len(data), size)], codec.clock_hz * ptime_ms // 1000, ptime_ms)


@contextmanager
def talking(phone, *arguments):
    """`talk` beside what the test does."""
    speaker = threading.Thread(target=talk, args=(phone, *arguments))
    speaker.start()
    yield
    speaker.join()


def heard(phone, codec, skip=15):
    """What a phone has got, from the 15th packet on, as samples."""
    return DECODE[codec.name](np.frombuffer(b"".join(p[6] for p in phone.rtp(codec.payload_type)[skip:]), np.uint8))


@pytest.mark.parametrize(
    ("codec", "rate_hz", "ptime_ms"),
    [
        (PCMU, 16000, 20),
        (PCMA, 8000, 20),
        (G722, 16000, 20),
        (L16, 16000, 20),
        (L16_48, 48000, 20),
        (PCMU, 48000, 30),
        (PCMA, 16000, 10),
        (G722, 8000, 60),
        (L16_48, 16000, 10),
        (PCMU, 16000, 40),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_two_legs_hear_each_other(bed, phones, rooms, codec, rate_hz, ptime_ms):  # noqa: PLR0917 - fixtures and cases
    a, b = phones(), phones()
    bed.open_leg("a", 0, a, codec=codec, rate_hz=rate_hz)
    bed.open_leg("b", 1, b, rate_hz=rate_hz, codec=codec, phase=0, ptime_ms=ptime_ms)
    rooms([0, 1], rate_hz)
    talk(a, codec, 600, 900, ptime_ms)
    time.sleep(0.1)
    samples = heard(b, codec, 10 * 20 // max(ptime_ms, 20))
    best = max(
        level_at(samples[at : at + codec.rate_hz // 5], codec.rate_hz, 600)
        for at in range(0, len(samples) - codec.rate_hz // 5, 800)
    )
    assert 7000 < best < 9000
    assert level_at(heard(a, codec), codec.rate_hz, 600) < 20  # not itself
    packets = b.rtp()
    assert {x[3] for x in packets} == set(range(packets[0][3], packets[0][3] + len(packets))) or packets[-1][
        3
    ] < packets[0][3]
    frames = max(ptime_ms // 20, 1) if codec is not L16_48 else 1
    steps = np.diff([p[4] for p in packets]) % 2**32
    assert not (steps % (codec.clock_hz // 50 * frames)).any()  # a tick that a busy machine skipped leaves its place
    assert np.median(steps) == codec.clock_hz // 50 * frames
    markers = [p[2] for p in packets]
    assert markers[0]  # once, and again only after ticks that a busy machine skipped
    assert sum(markers) <= 1 + np.count_nonzero(steps > np.median(steps))


def test_a_leg_in_no_room_hears_silence(bed, phones):
    phone = phones()
    bed.open_leg("a", 0, phone, phase=None)
    packets = phone.wait_packets(20)
    assert {p[6] for p in packets} == {SILENCE}
    gaps = np.diff([p[0] for p in packets])
    assert 0.018 < np.median(gaps) < 0.022


def test_a_room_that_stands_still_leaves_the_stream_going(bed, phones):
    phone = phones()
    bed.open_leg("a", 0, phone, phase=2)
    packets = phone.wait_packets(20)
    assert {p[6] for p in packets} == {SILENCE}
    deadline = time.monotonic() + 2
    while not bed.instance.stats.row(0)["frames_missing"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_many_hear_one_row(bed, phones):
    """tx_from: one row encoded, all legs hear it; a leg that hears nothing is sent silence."""
    made = [phones() for _ in range(5)]
    for index, phone in enumerate(made):
        bed.open_leg(f"l{index}", index, phone)
    bank = bed.instance.banks[16000]
    wave = tone(16000, 1000, 20)
    for _ in range(40):
        tick = monotonic_ns() // TICK_NS + 1
        for at in (tick, tick + 1, tick + 2):
            bank.tx[3, at % 4] = wave
            bank.tx_from[:5, at % 4] = [3, 3, -1, 3, 3]
            bank.tx_tick[:5, at % 4] = at
        time.sleep(0.01)
    for index, phone in enumerate(made):
        samples = heard(phone, PCMU, 5)[:1600]
        assert (level_at(samples, 8000, 1000) > 6000) == (index != 2)


class TestDoor:
    def test_strangers_are_never_heard_and_never_sent_to(self, bed, phones, rooms):
        a, b, stranger = phones(), phones(), phones()
        bed.open_leg("a", 0, a)
        bed.open_leg("b", 1, b)
        rooms([0, 1])
        a.send(SILENCE)
        a.wait_packets(3)
        stranger.target, stranger.ssrc = a.target, 999
        loud = ENCODE["PCMU"](tone(8000, 440, 20)).tobytes()
        for _ in range(30):
            stranger.send(loud)
            a.send(SILENCE)
            time.sleep(0.02)
        assert np.abs(heard(b, PCMU, 0)).max() < 50
        assert not stranger.got

    def test_a_peer_behind_nat_is_found(self, bed, phones):
        """SDP names an address where nobody is; media comes from elsewhere and goes there."""
        phone, nobody = phones(), phones()
        port = free_ports(2)
        bed.command(
            OpenLeg(
                leg_id="a", row=bed.row(0), host="127.0.0.1", port=port, media=media(nobody, remote_host="127.0.0.9")
            )
        )
        phone.target = ("127.0.0.1", port)
        phone.say([SILENCE] * 10)
        phone.wait_packets(5)

    def test_after_a_quiet_second_the_door_opens(self, bed, phones):
        phone, moved = phones(), phones()
        bed.open_leg("a", 0, phone)
        phone.say([SILENCE] * 5)
        phone.wait_packets(5)
        moved.target, moved.sequence = phone.target, 5000
        deadline = time.monotonic() + 5
        while not moved.got:
            assert time.monotonic() < deadline
            moved.send(SILENCE)
            time.sleep(0.02)

    def test_an_icmp_unreachable_does_not_end_reception(self, bed, phones):
        phone = phones()
        port = bed.open_leg("a", 0, phone)
        address = phone.sock.getsockname()
        phone.say([SILENCE] * 5)
        phone.wait_packets(5)
        phone.close()
        time.sleep(0.3)  # what is sent meanwhile comes back as ICMP
        again = phones()
        again.sock.close()
        again.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        again.sock.bind(address)
        again.sock.settimeout(0.1)
        again.target, again.sequence, again.timestamp = ("127.0.0.1", port), 200, 400_000
        before = int(bed.instance.stats.row(0)["packets_received"])
        again.say([SILENCE] * 20)
        time.sleep(0.2)
        assert int(bed.instance.stats.row(0)["packets_received"]) - before >= 18

    def test_ipv6(self, bed, phones):
        phone = phones(host="::1")
        bed.open_leg("a", 0, phone, host="::1")
        phone.wait_packets(3)
        phone.say([SILENCE] * 5)
        phone.wait_packets(10)
        assert bed.instance.banks[16000].leg["address_family"][0] == 6

    @pytest.mark.parametrize("host", ["0.0.0.0", "224.0.0.5", "255.255.255.255", "::", "junk", ""])
    def test_nothing_is_sent_where_nothing_may_be(self, bed, phones, host):
        phone = phones()
        bed.open_leg("a", 0, phone, remote_host=host)
        other = phones()
        bed.open_leg("b", 1, other)
        other.wait_packets(10)
        assert int(bed.instance.banks[16000].leg["send_sequence"][0]) == _sequence_at_start(bed, 0)


def _sequence_at_start(bed, row):
    time.sleep(0.1)
    return int(bed.instance.banks[16000].leg["send_sequence"][row])


def test_hostile_packets_hurt_nobody(bed, phones, rooms):
    a, b = phones(), phones()
    bed.open_leg("a", 0, a)
    bed.open_leg("b", 1, b)
    rooms([0, 1])
    a.say([SILENCE] * 3)
    rng = np.random.default_rng(5)
    head = struct.pack("!BBHII", 0x80, 0, 1, 1, a.ssrc)
    junk = [
        b"",
        b"\x80",
        head[:11],
        head,
        b"\xff" * 300,
        head + bytes(1900),
        head + bytes(3000),
        bytes([0xBF]) + head[1:] + b"\xff",
    ]
    junk += [
        bytes([0x90]) + head[1:] + b"\0\0\xff\xff",
        b"\x81\xc8\xff\xff" + bytes(4),
        b"\x80\xc8\0\0",
        b"\x9f\xc9\0\x01" + bytes(24),
    ]
    junk += [rng.bytes(int(rng.integers(1, 400))) for _ in range(200)]
    junk += [head[:1] + bytes([101]) + head[2:] + rng.bytes(int(rng.integers(0, 9))) for _ in range(20)]
    for data in junk:
        a.sock.sendto(data, a.target)
        b.sock.sendto(data, b.target)
    time.sleep(0.3)
    a.sequence, a.timestamp, a.ssrc = 7000, 9_000_000, 77
    talk(a, PCMU, 500, 800)
    time.sleep(0.1)
    samples = heard(b, PCMU)
    assert max(level_at(samples[at : at + 1600], 8000, 500) for at in range(0, len(samples) - 1600, 800)) > 7000
    assert bed.instance.stats.row(0)["packets_refused"] > 0


class TestDigits:
    def test_received_once(self, bed, phones):
        phone = phones()
        bed.open_leg("a", 0, phone)
        phone.say([SILENCE] * 3)
        for digit in (5, 11):
            start = phone.timestamp
            for step in range(7):
                flags = 0x8A if step > 3 else 10
                phone.send(
                    struct.pack("!BBH", digit, flags, 160 * min(step + 1, 4)), 0, payload_type=101, timestamp=start
                )
                time.sleep(0.02)
            phone.timestamp = start + 7 * 160
        bed.wait_event(DigitReceived, digit="5")
        bed.wait_event(DigitReceived, digit="#")
        bed.poll(0.2)
        assert not bed.events
        assert bed.instance.banks[16000].leg["digits_received"][0] == 2

    def test_sent_in_place_of_audio(self, bed, phones):
        phone = phones()
        bed.open_leg("a", 0, phone)
        phone.wait_packets(5)
        assert isinstance(bed.command(SendDigits(leg_id="a", digits="19")), Done)
        phone.wait_packets(14, payload_type=101)
        phone.wait_packets(50)
        packets = phone.rtp()
        events = [p for p in packets if p[1] == 101]
        assert [struct.unpack("!BBH", p[6]) for p in events[:7]] == [(1, 10, 160 * n) for n in (1, 2, 3, 4)] + [
            (1, 138, 640)
        ] * 3
        assert [p[2] for p in events] == [True] + [False] * 6 + [True] + [False] * 6
        assert len({p[4] for p in events}) == 2
        assert [p[3] for p in packets] == [(packets[0][3] + n) % 65536 for n in range(len(packets))]
        between = packets[packets.index(events[6]) + 1 : packets.index(events[7])]
        assert len(between) == 3
        audio = [p for p in packets if p[1] == 0]
        assert {(p[4] - audio[0][4]) % 160 for p in audio} == {0}

    def test_refused_where_not_agreed(self, bed, phones):
        phone = phones()
        bed.open_leg("a", 0, phone, event_send_type=None)
        reply = bed.command(SendDigits(leg_id="a", digits="1"))
        assert isinstance(reply, Failed)
        assert reply.blame == "caller"


class TestMedia:
    def test_the_same_again_disturbs_nothing(self, bed, phones):
        phone = phones()
        bed.open_leg("a", 0, phone)
        phone.wait_packets(10)
        bed.command(SetMedia(leg_id="a", media=media(phone)))
        packets = phone.wait_packets(30)
        assert sum(p[2] for p in packets) == 1
        assert set(np.diff([p[3] for p in packets]) % 65536) == {1}

    def test_hold_and_back(self, bed, phones):
        phone = phones()
        bed.open_leg("a", 0, phone)
        phone.say([SILENCE] * 5)
        phone.wait_packets(5)
        bed.command(SetMedia(leg_id="a", media=media(phone, direction="inactive")))
        time.sleep(0.05)
        count = len(phone.rtp())
        time.sleep(0.2)
        assert len(phone.rtp()) == count
        bed.command(SetMedia(leg_id="a", media=media(phone)))
        packets = phone.wait_packets(count + 10)
        steps = np.diff([p[4] for p in packets]) % 2**32
        assert steps.max() > 160 * 8  # time went on
        assert packets[count][2]  # and a marker says so
        assert packets[count][3] == (packets[count - 1][3] + 1) % 65536

    def test_another_address(self, bed, phones):
        old, new = phones(), phones()
        bed.open_leg("a", 0, old)
        old.say([SILENCE] * 5)
        bed.command(SetMedia(leg_id="a", media=media(new)))
        new.wait_packets(5)
        new.target = old.target
        new.say([SILENCE] * 5)
        new.wait_packets(20)

    def test_another_codec(self, bed, phones, rooms):
        a, b = phones(), phones()
        bed.open_leg("a", 0, a)
        bed.open_leg("b", 1, b)
        rooms([0, 1])
        a.say([SILENCE] * 10)
        bed.command(SetMedia(leg_id="b", media=media(b, G722)))
        talk(a, PCMU, 700, 800)
        time.sleep(0.1)
        samples = heard(b, G722)
        assert max(level_at(samples[at : at + 3200], 16000, 700) for at in range(0, len(samples) - 3200, 1600)) > 6500
        assert set(np.diff([p[4] for p in b.rtp()]) % 2**32) == {160}


def held_back(bed):
    """Frames that a busy machine kept from being in time: the phone's or the room's, not ours."""
    stats = bed.instance.stats.row(0)
    return int(stats["packets_late"] + stats["frames_missing"])


class TestPlacement:
    def test_a_move_to_another_rate_loses_no_frame(self, bed, phones, rooms):
        a, b = phones(), phones()
        bed.open_leg("a", 0, a)
        bed.open_leg("b", 1, b)
        rooms([0, 1])
        rooms([0, 1], 48000, 2)
        a.say([SILENCE] * 5)
        with talking(a, PCMU, 500, 1200):
            time.sleep(0.5)
            before = held_back(bed)
            tick = monotonic_ns() // TICK_NS + 3
            for leg_id, row in (("a", 0), ("b", 1)):
                reply = bed.command(PlaceLeg(leg_id=leg_id, row=bed.row(row, 48000), phase=2, at_tick=tick))
                assert isinstance(reply, Done)
        packets = b.wait_packets(60)
        assert set(np.diff([p[3] for p in packets]) % 65536) == {1}
        assert set(np.diff([p[4] for p in packets]) % 2**32) == {160}
        samples = heard(b, PCMU, 0)
        frames = [level_at(samples[at : at + 160], 8000, 500) for at in range(0, len(samples), 160)]
        loud = [index for index, level in enumerate(frames) if level > 4000]
        assert len(loud) > 50
        assert loud[-1] - loud[0] + 1 - len(loud) <= 1 + held_back(bed) - before  # the seam

    def test_another_phase_sends_each_tick_once(self, bed, phones):
        phone = phones()
        bed.open_leg("a", 0, phone, phase=3)
        phone.wait_packets(10)
        for phase in (0, 2, 1, None, 3, 0):
            tick = monotonic_ns() // TICK_NS + 3
            bed.command(PlaceLeg(leg_id="a", row=bed.row(0), phase=phase, at_tick=tick))
            time.sleep(0.15)
        packets = phone.rtp()
        assert set(np.diff([p[3] for p in packets]) % 65536) == {1}
        steps = (np.diff([p[4] for p in packets]) % 2**32).tolist()
        assert steps.count(160) >= len(steps) - 2
        assert set(steps) <= {160, 320}

    def test_late_placements_apply_at_once_and_are_counted(self, bed, phones):
        phone = phones()
        bed.open_leg("a", 0, phone)
        bed.command(PlaceLeg(leg_id="a", row=bed.row(0), phase=1, at_tick=1))
        time.sleep(0.1)
        assert bed.instance.stats.row(0)["commands_late"] == 1


class TestRtcp:
    def test_reports_and_bye(self, bed, phones):
        phone = phones()
        bed.open_leg("a", 0, phone)
        phone.say([SILENCE] * 5)
        bed.command(CloseLeg(leg_id="a"))
        time.sleep(0.1)
        reports = [d for _t, d, _s in phone.got if 192 <= d[1] <= 223]
        assert reports
        first, kind, _words, _ssrc, _ntp, _time, packets, octets = struct.unpack_from("!BBHIQIII", reports[-1])
        assert (first & 31, kind) == (1, 200)
        assert packets > 3
        assert octets == packets * 160
        assert struct.unpack_from("!I", reports[-1], 28)[0] == phone.ssrc
        assert reports[-1][-8:-4] == b"\x81\xcb\x00\x01"  # BYE

    def test_on_port_plus_one_where_the_peer_does_not_multiplex(self, bed, phones):
        phone, control = phones(), phones()
        bed.open_leg("a", 0, phone, rtcp_mux=False, remote_rtcp_port=control.sock.getsockname()[1])
        phone.say([SILENCE] * 5)
        bed.command(CloseLeg(leg_id="a"))
        time.sleep(0.1)
        assert [d[1] for _t, d, _s in control.got] == [200]
        assert control.got[0][2][1] == phone.target[1] + 1
        assert not [d for _t, d, _s in phone.got if 192 <= d[1] <= 223]

    def test_the_round_trip_is_measured(self, bed, phones):
        phone = phones()
        bed.open_leg("a", 0, phone)
        phone.say([SILENCE] * 5)
        ssrc = phone.wait_packets(1)[0][5]
        now = (time.time_ns() + 2_208_988_800 * 10**9 << 32) // 10**9 >> 16
        block = struct.pack("!IIIIII", ssrc, 0, 0, 0, (now - 6554) & 0xFFFFFFFF, 0)
        phone.sock.sendto(struct.pack("!BBHI", 0x81, 201, 7, phone.ssrc) + block, phone.target)
        time.sleep(0.1)
        assert 90 < bed.instance.banks[16000].leg["round_trip_ms"][0] < 300


class TestLife:
    def test_speech_is_told_where_wanted(self, bed, phones):
        phone = phones()
        bed.open_leg("a", 0, phone)
        bed.command(DetectSpeech(leg_id="a", enabled=True))
        talk(phone, PCMU, 440, 300)
        bed.wait_event(SpeechChanged, leg_id="a", speaking=True)
        phone.say([SILENCE] * 20)
        bed.wait_event(SpeechChanged, leg_id="a", speaking=False)

    def test_silence_for_too_long_is_told_once(self, io, phones):
        bed = Bed(io=io, rtp_timeout_s=1)
        try:
            bed.open_leg("a", 0, phones())
            bed.wait_event(MediaTimedOut, leg_id="a", timeout_s=4)
            bed.poll(1.2)
            assert not bed.events
        finally:
            bed.close()

    def test_the_same_command_is_answered_again_and_done_once(self, bed, phones):
        phone = phones()
        port = free_ports(2)
        command = OpenLeg(
            leg_id="a", row=bed.row(0), host="127.0.0.1", port=port, media=media(phone), phase=0, command_id=77
        )
        assert bed.command(command) == bed.command(command) == Done(command_id=77)
        bed.channel.send(Hello(command_id=78))
        part = bed.wait(lambda m: isinstance(m, RtpInventoryPart))
        assert part.last
        assert [(leg.leg_id, leg.port) for leg in part.legs] == [("a", port)]

    def test_a_port_in_use_is_told(self, bed, phones):
        phone = phones()
        reply = bed.command(
            OpenLeg(leg_id="a", row=bed.row(0), host="127.0.0.1", port=phone.sock.getsockname()[1], media=media(phone))
        )
        assert isinstance(reply, Failed)
        assert reply.blame == "resource"

    def test_numbers_reach_the_leg_record(self, bed, phones):
        phone = phones()
        bed.open_leg("a", 0, phone)
        for number in range(20):
            if number == 10:
                phone.sequence += 2
            phone.send(SILENCE)
            time.sleep(0.02)
        bed.command(CloseLeg(leg_id="a"))
        record = bed.instance.banks[16000].leg[0]
        assert (record["packets_received"], record["packets_lost"]) == (20, 2)
        assert record["latched_port"] == phone.sock.getsockname()[1]

    def test_leaving_says_bye(self, bed, phones):
        phone = phones()
        bed.open_leg("a", 0, phone)
        phone.wait_packets(3)
        assert bed.leave() == 0
        time.sleep(0.05)
        assert phone.got[-1][1][-8:-4] == b"\x81\xcb\x00\x01"

    def test_without_master_and_legs_it_goes(self, bed):
        os.close(bed.instance.lifeline_write_fd)
        bed.instance.lifeline_write_fd = -1
        assert bed.wait_exit(5) == 0


def test_kill_and_resume(bed, phones, rooms):
    """kill -9: same port and row, sequence, timestamp and SSRC go on, the latch holds, no digit is told twice."""
    a, b, stranger = phones(), phones(), phones()
    command = {}
    for index, (name, phone) in enumerate((("a", a), ("b", b))):
        port = free_ports(2)
        phone.target = ("127.0.0.1", port)
        command[name] = OpenLeg(
            leg_id=name,
            row=bed.row(index),
            host="127.0.0.1",
            port=port,
            media=media(phone),
            phase=0,
            command_id=index + 500,
        )
        assert isinstance(bed.command(command[name]), Done)
    rooms([0, 1])
    wave = ENCODE["PCMU"](tone(8000, 500, 2400)).reshape(-1, 160)
    digit_at = a.timestamp
    a.send(struct.pack("!BBH", 7, 0x8A, 640), 0, payload_type=101, timestamp=digit_at)
    bed.wait_event(DigitReceived, digit="7")
    a.timestamp += 160
    began = time.monotonic()
    for number, payload in enumerate(wave):
        a.send(payload.tobytes())
        if number == 50:
            bed.kill()
            bed.launch()
            for name in ("a", "b"):
                reply = bed.command(msgspec.structs.replace(command[name], resume=True, command_id=0))
                assert isinstance(reply, Done)
            stranger.target = a.target
            stranger.send(payload.tobytes())
            a.send(struct.pack("!BBH", 7, 0x8A, 640), 0, payload_type=101, timestamp=digit_at)
        time.sleep(max(0, began + 0.02 * (number + 1) - time.monotonic()))  # a clock as steady as a phone's
    bed.poll(0.1)
    assert not [event for event in bed.events if isinstance(event, DigitReceived)]
    packets = b.rtp()
    assert len({p[5] for p in packets}) == 1
    assert set(np.diff([p[3] for p in packets]) % 65536) == {1}
    steps = np.diff([p[4] for p in packets]) % 2**32
    assert set(steps % 160) == {0}
    gap = int(steps.argmax())
    assert steps[gap] / 8000 == pytest.approx(packets[gap + 1][0] - packets[gap][0], abs=0.045)
    assert not stranger.got
    samples = heard(b, PCMU, len(packets) - 40)
    assert level_at(samples[:1600], 8000, 500) > 7000
    assert bed.instance.banks[16000].leg["digits_received"][0] == 1


def test_the_fallback_is_chosen_where_io_uring_is_refused(monkeypatch):
    from workers.rtp import main, uring

    class Refused:
        def __init__(self):
            raise OSError(1, "not here")

    monkeypatch.setattr(main, "Uring", Refused)

    sent = []

    class Sink:
        def send(self, message):
            sent.append(message)

    assert main.open_transport("auto", Sink()).name == "epoll"
    assert sent[0].event == "io_uring refused"
    with pytest.raises(OSError, match="not here"):
        main.open_transport("uring", Sink())
    assert uring.Uring.name == "uring"


def test_phone_and_bed_are_honest():
    """The test's own phone: what it sends is what arrives."""
    one, two = Phone(), Phone()
    one.target = two.sock.getsockname()
    one.send(b"abc")
    assert two.wait_packets(1)[0][6] == b"abc"
    one.close()
    two.close()
