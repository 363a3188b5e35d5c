"""The queue between a bursty speaker and the tick."""

import numpy as np

from workers.stream.playout import Playout

FRAME = 640
LOUD = (np.ones(320, np.int16) * 1000).tobytes()
QUIET = (np.ones(320, np.int16) * 10).tobytes()


def taken(playout, ticks):
    return [playout.take() for _ in range(ticks)]


def test_a_burst_comes_out_frame_by_frame():
    playout = Playout(FRAME, limit_bytes=10 * FRAME)
    sound = bytes(range(256)) * 10
    assert playout.push(sound)
    assert b"".join(taken(playout, 4)) == sound
    assert playout.take() is None


def test_pieces_of_any_length_become_frames():
    playout = Playout(FRAME, limit_bytes=10 * FRAME)
    for start in range(0, 2 * FRAME, 100):
        playout.push((LOUD + QUIET)[start : start + 100])
    assert taken(playout, 2) == [LOUD, QUIET]


def test_a_partial_frame_waits_60_ms_and_is_filled_up():
    playout = Playout(FRAME, limit_bytes=10 * FRAME)
    playout.push(LOUD[:100])
    assert taken(playout, 3) == [None, None, LOUD[:100] + bytes(540)]
    playout.push(LOUD[:100])
    assert playout.take() is None
    playout.push(LOUD[100:])
    assert playout.take() == LOUD


def test_what_does_not_fit_is_dropped_as_a_whole():
    playout = Playout(FRAME, limit_bytes=3 * FRAME)
    assert playout.push(LOUD * 2)
    assert not playout.push(QUIET * 2)
    assert playout.push(QUIET)
    assert playout.dropped_pieces == 1
    assert taken(playout, 4) == [LOUD, LOUD, QUIET, None]


def test_quiet_frames_are_left_out_while_too_much_waits():
    playout = Playout(FRAME, limit_bytes=100 * FRAME, trim_bytes=10 * FRAME)
    playout.push(QUIET * 15 + LOUD * 10 + QUIET * 5)
    # 30 wait: all quiet ones in front go until 10 wait; loud ones are never left out.
    assert taken(playout, 11) == [LOUD] * 10 + [QUIET]


def test_a_lead_is_built_up_before_it_begins():
    playout = Playout(FRAME, limit_bytes=100 * FRAME, lead_bytes=3 * FRAME)
    playout.push(LOUD)
    assert playout.take() is None
    playout.push(LOUD * 2)
    assert taken(playout, 4) == [LOUD, LOUD, LOUD, None]
    playout.push(LOUD)  # the rest never comes: it is played after the time of the lead
    assert taken(playout, 5) == [None, None, None, LOUD, None]


def test_flushed_it_is_silent():
    playout = Playout(FRAME, limit_bytes=100 * FRAME)
    playout.push(LOUD * 5)
    playout.take()
    playout.flush()
    assert playout.take() is None
    assert len(playout) == 0
