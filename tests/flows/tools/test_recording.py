"""Layout of received packets by timestamp, and the measures taken from it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.flows.tools.codecs import CODECS, sine
from tests.flows.tools.recording import record
from tests.flows.tools.rtp import Digit, Packet, build, digits, dtmf_payload, parse, parse_rtcp, sender_report
from tests.flows.tools.spectrum import assert_hears, assert_silent, longest_gap_ms, longest_quiet_ms, onset_ms

PCMU = CODECS["PCMU"]


def packets(
    count: int, *, tone_hz: float = 440, first_sequence: int = 65530, lost: set[int] = frozenset()
) -> list[Packet]:
    encode = PCMU.encoder()
    return [
        Packet(
            i * 0.02,
            0,
            False,
            (first_sequence + i) & 0xFFFF,
            (2**32 - 800 + i * 160) & 0xFFFFFFFF,
            1,
            encode(sine(tone_hz, 8000, 160, start=160 * i)),
        )
        for i in range(count)
        if i not in lost
    ]


def test_wrap_of_sequence_and_timestamp_leaves_no_seam() -> None:
    recording = record(packets(50), {0: PCMU})
    assert recording.audio.size == 8000
    assert recording.lost == 0
    assert longest_gap_ms(recording, 440) == 0
    assert_hears(recording, {440}, not_={660}, only=True)


def test_loss_is_a_hole_of_its_length() -> None:
    recording = record(packets(50, lost={20, 21, 22}), {0: PCMU})
    assert recording.lost == 3
    assert np.count_nonzero(~recording.present) == 480
    assert 40 <= longest_gap_ms(recording, 440) <= 65
    assert longest_quiet_ms(recording) == pytest.approx(60, abs=5)
    assert recording.longest_arrival_gap_ms == pytest.approx(80)


def test_reordering_and_duplicates_change_nothing() -> None:
    straight = packets(20)
    mixed = [straight[1], straight[0], *straight[2:], straight[5]]
    assert np.array_equal(record(mixed, {0: PCMU}).audio, record(straight, {0: PCMU}).audio)


def test_onset_is_found() -> None:
    silence = [Packet(0, 0, False, i, i * 160, 1, b"\xff" * 160) for i in range(10)]
    encode = PCMU.encoder()
    tone = [Packet(0, 0, False, i, i * 160, 1, encode(sine(440, 8000, 160, start=160 * i))) for i in range(10, 20)]
    assert onset_ms(record(silence + tone, {0: PCMU}), 440) == pytest.approx(190, abs=10)
    assert_silent(record(silence, {0: PCMU}))


def test_absent_and_unexpected_tones_fail() -> None:
    recording = record(packets(50), {0: PCMU})
    with pytest.raises(AssertionError, match="660 Hz is not heard"):
        assert_hears(recording, {660})
    with pytest.raises(AssertionError, match="440 Hz should not be heard"):
        assert_hears(recording, set(), not_={440})
    with pytest.raises(AssertionError, match="not silent"):
        assert_silent(recording)


def test_a_digit_counts_once_and_a_digit_without_ends_counts_too() -> None:
    def event(sequence: int, timestamp: int, duration: int, digit: str, *, end: bool) -> Packet:
        return Packet(0, 101, False, sequence, timestamp, 1, dtmf_payload(digit, duration, end=end))

    one = [event(i, 100, 160 * (i + 1), "1", end=False) for i in range(4)] + [event(9, 100, 640, "1", end=True)] * 3
    lost_ends = [event(20 + i, 900, 160 * (i + 1), "#", end=False) for i in range(3)]
    assert digits(one + lost_ends, 101) == [Digit("1", 640, 100), Digit("#", 480, 900)]


def test_rtp_and_rtcp_bytes() -> None:
    packet = parse(build(96, 65536 + 7, 2**32 + 5, 99, b"abc", marker=True), 1.5)
    assert packet == Packet(1.5, 96, True, 7, 5, 99, b"abc")
    assert parse(b"\x80" * 11) is None
    assert parse(b"\x00" * 20) is None
    reports, types = parse_rtcp(sender_report(7, 1 << 40, 160, 3, 480))
    assert types == [200, 202]
    assert (reports[0].ssrc, reports[0].ntp, reports[0].timestamp, reports[0].packets) == (7, 1 << 40, 160, 3)


def test_a_g722_window_sounds_as_it_did_in_the_call() -> None:
    g722 = CODECS["G722"]
    encoded = g722.encoder()(sine(430, 16000, 32000, amplitude=6000))
    stream = [Packet(i * 0.02, 9, False, i, i * 160, 1, encoded[i * 160 : i * 160 + 160]) for i in range(100)]
    whole = record(stream, {9: g722}).audio
    window = record(stream[60:70], {9: g722}, before=stream[10:60])
    assert np.max(np.abs(window.audio.astype(int) - whole[60 * 320 : 70 * 320])) < 64
