"""Placement, against a reference that follows the rules one packet at a time, and what adaptation does."""

from math import ceil, gcd

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from workers.rtp.playout import Playout, pace

BANK_HZ = 16000


class Reference:
    """The rules of playout.py for one leg, in the plainest words."""

    def __init__(self, frame, clock_hz, phase, margin_ms=8.0):
        self.frame, self.ratio = frame, frame * 50 / clock_hz
        self.phase, self.margin_ms, self.clock_hz = phase, margin_ms, clock_hz
        self.anchor = None
        self.strikes = self.run = 0
        self.late_wake = None

    def first_tick(self, wake):
        tick = wake // 4
        return tick if self.phase >= wake % 4 else tick + 1

    def place(self, timestamp, units, wake, after_gap):
        anew = self.anchor is None or after_gap
        outside = late = False
        if self.anchor is not None:
            delta = (timestamp - self.anchor[1] + (1 << 31)) % (1 << 32) - (1 << 31)
            position = self.anchor[0] + int(delta * self.ratio // 1)
            slack = position // self.frame * 4 + self.phase - wake
            outside = slack < -200 or slack > 100
            self.strikes = self.strikes + 1 if outside else 0
            late = slack < 0 and not outside
            if late:
                self.run += 4 * (self.late_wake != wake)
                self.late_wake = wake
            else:
                self.run = max(self.run - 1, 0)
            anew = anew or self.strikes >= 2 or self.run >= 12
        if anew:
            within_ms = 20 - gcd(units, self.clock_hz // 50) * 1000 / self.clock_hz
            mixed_after = 5 * wake - 2.5 + self.margin_ms + within_ms  # ms; tick T is mixed at 20 T + 5 phase + 2
            tick = max(ceil((mixed_after - 2 - 5 * self.phase) / 20), self.first_tick(wake))
            position = tick * self.frame
            self.anchor = position, timestamp
            self.strikes = self.run = 0
            late = False
        first = self.first_tick(wake)
        kept = position // self.frame - first <= 28 and position + int(units * self.ratio) > first * self.frame
        return position, kept and (position // self.frame * 4 + self.phase - wake) // 4 <= 28, late


@st.composite
def streams(draw):
    """A stream of packets: (timestamp, wake-up that sees it, after a gap)."""
    clock_hz = draw(st.sampled_from([8000, 16000, 48000]))
    ptime_ms = draw(st.sampled_from([10, 20, 30, 40, 60]))
    drift = draw(st.sampled_from([-2e-3, -2e-4, 0, 2e-4, 2e-3]))
    units = clock_hz * ptime_ms // 1000
    timestamp = draw(st.one_of(st.integers(0, 2**32 - 1), st.just(2**32 - 5 * units)))
    now_ms = float(draw(st.integers(100_000, 100_100)))
    packets = []
    for _ in range(draw(st.integers(5, 60))):
        event = draw(st.integers(0, 40))
        jitter_ms = draw(st.sampled_from([0, 0, 0, 1, 4, 12, 45]))
        if event == 0:
            timestamp += draw(st.integers(-(2**31), 2**31))
        elif event == 1:
            now_ms += draw(st.integers(0, 3000))
        if event != 2:  # 2: lost
            packets.append((now_ms + jitter_ms, timestamp % 2**32, event == 3))
        timestamp += units
        now_ms += ptime_ms * (1 + drift)
    packets.sort(key=lambda p: p[0])
    return clock_hz, units, [(t, ceil(at / 5), gap) for at, t, gap in packets]


@settings(max_examples=300, deadline=None)
@example([(8000, 80, [(160, 20005, False), (80, 20005, False), (240, 20009, False), (0, 20010, False)])], 8000, 0)
@given(st.lists(streams(), min_size=1, max_size=4), st.sampled_from([8000, 16000, 48000]), st.integers(0, 3))
def test_placement_follows_the_rules(legs, bank_hz, phase):
    clock_hz, units = legs[0][0], legs[0][1]
    legs = [leg for leg in legs if leg[:2] == (clock_hz, units)]
    counts = pace(bank_hz, clock_hz)
    playout = Playout(8, 0, 300)
    references = []
    for index in range(len(legs)):
        playout.start(index, bank_hz, clock_hz, (phase + index) % 4)
        references.append(Reference(counts.frame_samples, clock_hz, (phase + index) % 4))
    for wake in sorted({wake for leg in legs for _t, wake, _g in leg[2]}):
        queues = [[p for p in leg[2] if p[1] == wake] for leg in legs]
        while any(queues):
            batch = [(index, queue.pop(0)) for index, queue in enumerate(queues) if queue]
            gaps = np.array([gap for _i, (_t, _w, gap) in batch])
            placed = playout.place(
                np.array([index for index, _p in batch]),
                np.array([timestamp for _i, (timestamp, _w, _g) in batch], np.uint32),
                units,
                counts,
                wake,
                gaps if gaps.any() else None,
            )
            for row, (index, (timestamp, _w, gap)) in enumerate(batch):
                position, kept, late = references[index].place(timestamp, units, wake, gap)
                assert placed.position[row] == position
                assert (placed.is_kept is None or placed.is_kept[row]) == kept
                assert (placed.is_late is not None and placed.is_late[row]) == late


def stream(playout, wakes, leg=0, timestamp=0, units=160):
    """Feed one 20 ms packet for each wake-up given; returns (slack of each, late of each)."""
    counts = pace(BANK_HZ, 8000)
    slacks, lates = [], []
    for number, wake in enumerate(wakes):
        placed = playout.place(
            np.array([leg]), np.array([timestamp + number * units], np.uint32), units, counts, int(wake)
        )
        slacks.append(int(placed.tick[0]) * 4 + int(playout.phase[leg]) - int(wake))
        lates.append(placed.is_late is not None and bool(placed.is_late[0]))
    return slacks, lates


def started(phase=0, floor_ms=0, ceiling_ms=300):
    playout = Playout(4, floor_ms, ceiling_ms)
    playout.start(0, BANK_HZ, 8000, phase)
    return playout


def test_the_first_packet_plays_at_the_first_mix_a_margin_after_its_arrival():
    for phase in range(4):
        for wake in range(1000, 1004):
            slack = stream(started(phase), [wake])[0][0]
            delay_ms = 5 * slack + 2 + 2.5  # from an arrival in the middle between two wake-ups
            assert 8 <= delay_ms < 28


def test_every_slack_within_the_limits_can_be_remembered():
    """A jump of the timestamp decides the slack of the next packet: the peer chooses it."""
    for ahead_wakes in range(-210, 111):
        playout = started()
        stream(playout, [1000], timestamp=1 << 20)
        stream(playout, [1004], timestamp=(1 << 20) + 160 + 40 * ahead_wakes)


def test_old_anchors_move_along_their_line():
    playout = started()
    stream(playout, [1000])
    before = int(playout.anchor_sample[0]) - 2 * int(playout.anchor_timestamp[0])
    playout.review(np.array([0]), 1000 + 4 * 50 * 3600)
    assert playout.anchor_timestamp[0] > 0
    assert int(playout.anchor_sample[0]) - 2 * int(playout.anchor_timestamp[0]) == before


def test_too_many_late_packets_move_a_leg_later_and_a_calm_line_earlier():
    playout = started()
    legs = np.array([0])
    rng = np.random.default_rng(1)
    jitter = rng.integers(0, 10, 3000)  # up to 45 ms
    late_share = []
    for second in range(60):
        wakes = [1000 + 4 * n + jitter[n] for n in range(50 * second, 50 * second + 50)]
        _slacks, lates = stream(playout, wakes, timestamp=second * 50 * 160)
        late_share.append(np.mean(lates))
        by = int(playout.review(legs, wakes[-1])[0])
        if by:
            playout.shift(0, by * 320)
    assert np.mean(late_share[20:]) < 0.005
    assert 20 < playout.margin_ms[0] < 60
    assert 5 < playout.jitter_ms[0] < 25

    for second in range(60, 160):
        slacks, lates = stream(
            playout, [1000 + 4 * n for n in range(50 * second, 50 * second + 50)], timestamp=second * 8000
        )
        assert not any(lates)
        by = int(playout.review(legs, 1000 + 200 * second)[0])
        if by:
            playout.shift(0, by * 320)
    assert 0 <= max(slacks) < 6  # less than a tick and a half of delay is left


def test_a_drifting_sender_is_followed_before_anything_is_late():
    for direction in (+1, -1):
        playout = started()
        legs = np.array([0])
        for second in range(300):
            wakes = [int(1000 + 4 * (50 * second + n) * (1 + direction * 2e-4)) for n in range(50)]
            slacks, lates = stream(playout, wakes, timestamp=second * 8000)
            assert not any(lates)
            assert max(slacks) < 10
            by = int(playout.review(legs, wakes[-1])[0])
            if by:
                playout.shift(0, by * 320)


def test_floor_and_ceiling_bound_the_delay():
    playout = started(floor_ms=100)
    slacks, _ = stream(playout, range(1000, 1400, 4))
    assert 100 <= 5 * slacks[-1] + 4.5 < 120
    assert playout.review(np.array([0]), 1400)[0] == 0
    playout = started(ceiling_ms=40)
    stream(playout, [1000 + 4 * n + 30 * (n % 5 == 4) for n in range(200)])
    by = int(playout.review(np.array([0]), 1900)[0])
    assert by <= 2


def test_another_phase_keeps_the_delay_above_zero_and_below_a_tick():
    for old in range(4):
        for new in range(4):
            playout = started(phase=old)
            stream(playout, range(1000, 1200, 4))
            playout.change_phase(0, new)
            slacks, lates = stream(playout, range(1200, 1400, 4), timestamp=50 * 160)
            assert not any(lates)
            assert all(0 <= slack < 4 for slack in slacks)


def test_another_phase_keeps_the_floor():
    for new in range(4):
        playout = started(phase=1, floor_ms=100)
        stream(playout, range(1000, 1200, 4))
        playout.change_phase(0, new)
        slacks, lates = stream(playout, range(1200, 1400, 4), timestamp=50 * 160)
        assert not any(lates)
        assert all(100 <= 5 * slack + 4.5 < 125 for slack in slacks)
