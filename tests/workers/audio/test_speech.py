"""Speech detection against the contract's words, frame by frame."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from workers.audio.speech import SpeechDetector, rms

LOUD, QUIET = 300.0, 299.9


def told(detector, row, levels):
    """What a row is told after each of its frames: + started, - stopped, . nothing."""
    words = ""
    for level in levels:
        started, stopped = detector.update(np.array([row]), np.array([level], np.float32))
        words += "+" if row in started else "-" if row in stopped else "."
    return words


def test_three_frames_start_and_fifteen_end():
    assert told(SpeechDetector(4), 2, [LOUD] * 4 + [QUIET] * 17 + [LOUD] * 3) == "..+." + "." * 14 + "-.." + "..+"


def test_a_short_noise_and_a_short_pause_change_nothing():
    assert told(SpeechDetector(1), 0, [LOUD, LOUD, QUIET] * 4) == "." * 12
    assert told(SpeechDetector(1), 0, [LOUD] * 3 + ([QUIET] * 14 + [LOUD]) * 3) == "..+" + "." * 45


def test_reset_tells_whether_it_spoke():
    detector = SpeechDetector(3)
    told(detector, 1, [LOUD] * 3)
    assert detector.reset(1)
    assert not detector.reset(1)
    assert not detector.reset(0)
    assert told(detector, 1, [LOUD] * 3) == "..+"


@given(st.lists(st.lists(st.sampled_from([LOUD, QUIET, None]), min_size=5, max_size=5), max_size=60))
def test_rows_in_a_batch_are_as_rows_alone(ticks):
    batch, alone = SpeechDetector(5), [SpeechDetector(5) for _ in range(5)]
    for levels in ticks:
        rows = np.array([row for row, level in enumerate(levels) if level is not None], np.intp)[::-1]
        started, stopped = batch.update(rows, np.array([levels[row] for row in rows], np.float32))
        for row in rows.tolist():
            word = told(alone[row], row, [levels[row]])
            assert (row in started, row in stopped) == (word == "+", word == "-")
    assert np.array_equal(batch.speaking, [alone[row].speaking[row] for row in range(5)])


def test_rms():
    rng = np.random.default_rng(1)
    loud = np.full((1, 960), -32768, np.int16)
    noise = rng.integers(-32768, 32768, (1, 960)).astype(np.int16)
    silence = np.zeros((1, 960), np.int16)
    frames = np.concatenate((loud, noise, silence, np.full((1, 960), 300, np.int16)))
    levels = rms(frames)
    assert levels.dtype == np.float32
    assert np.allclose(levels, np.sqrt((frames.astype(float) ** 2).mean(axis=1)), rtol=1e-5)
    assert levels[3] >= 300
    assert rms(frames[:0]).shape == (0,)
