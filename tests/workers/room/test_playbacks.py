"""Playbacks through the desk: what is heard, by whom, how loud, and what is told about it."""

import os
from pathlib import Path

import numpy as np
import pytest

from shm.messages import (
    CloseRoom,
    Done,
    Failed,
    Hello,
    PlaybackFinished,
    PlaybackStarted,
    RoomInventoryPart,
    SetParticipant,
    SetVolume,
    StartPlayback,
    StopPlayback,
)
from tests.workers.room.conftest import clip

N = 320
RAMP = np.arange(1, 5 * N + 1, dtype=np.int16)


def sine(frames, hz=400, peak=8000, n=N, rate_hz=16000):
    return np.rint(peak * np.sin(2 * np.pi * hz * np.arange(frames * n) / rate_hz)).astype(np.int16)


def listen(stage, ticks, row, say=None):
    frames = []
    for _ in range(ticks):
        stage.run(1, say)
        heard = stage.heard(row)
        frames.append(np.zeros(N, np.int16) if heard is None else heard)
    return np.concatenate(frames)


def finished(stage):
    return stage.wait_for(PlaybackFinished)


def test_a_clip_is_heard_by_all_from_its_first_sample_to_its_last(stage):
    stage.add("a", 1)
    stage.add("b", 2)
    stage.run(3)
    first = stage.tick
    stage.play(RAMP[: 3 * N + 7])
    heard = listen(stage, 6, 1)
    expected = np.zeros(6 * N, np.int16)
    expected[: 3 * N + 7] = RAMP[: 3 * N + 7]
    np.testing.assert_array_equal(heard, expected)
    started = stage.wait_for(PlaybackStarted)
    assert (started.playback_id, started.tick, started.number) == ("pb", first, 1)
    end = finished(stage)
    assert (end.reason, end.played_ms, end.number) == ("completed", 80, 2)
    assert stage.desk.membership.rooms["r"].playbacks == {}


def test_a_lone_talker_hears_the_playback_and_not_himself(stage):
    stage.add("a", 1)
    stage.play(RAMP)
    heard = listen(stage, 5, 1, lambda _: {1: 1000})
    np.testing.assert_array_equal(heard, RAMP)


def test_a_talker_and_two_playbacks_add_up_and_a_deaf_one_hears_nothing(stage):
    stage.add("a", 1)
    stage.add("b", 2)
    stage.add("c", 3, deaf=True)
    stage.play(RAMP, "one")
    stage.play(2 * RAMP, "two")
    stage.run(1, lambda _: {1: 500})
    np.testing.assert_array_equal(stage.heard(1), 3 * RAMP[:N])
    np.testing.assert_array_equal(stage.heard(2), 3 * RAMP[:N] + 500)
    assert stage.heard(3) is None


def test_many_at_once_saturate_and_end_alone(stage):
    stage.add("a", 1)
    for number in range(60):
        stage.play(np.full((1 + number % 5) * N, 1000, np.int16), f"pb-{number}")
    heard = listen(stage, 6, 1)[::N]
    np.testing.assert_array_equal(heard, [32767, 32767, 32767, 24000, 12000, 0])
    ends = [finished(stage) for _ in range(60)]
    assert {one.playback_id: one.played_ms for one in ends} == {f"pb-{n}": 20 * (1 + n % 5) for n in range(60)}


@pytest.mark.parametrize(("repeat", "passes"), [(1, 1), (3, 3), (0, 7)])
def test_each_pass_starts_on_a_frame_border(stage, repeat, passes):
    stage.add("a", 1)
    stage.play(RAMP[: N + 5], repeat=repeat)
    heard = listen(stage, 14, 1).reshape(7, 2 * N)
    one = np.concatenate([RAMP[: N + 5], np.zeros(N - 5, np.int16)])
    np.testing.assert_array_equal(heard[:passes], np.tile(one, (passes, 1)))
    assert not heard[passes:].any()
    if repeat:
        assert finished(stage).played_ms == passes * 40
    else:
        stage.call(StopPlayback(room_id="r", playback_id="pb"))
        stage.run(1)
        assert finished(stage).reason == "stopped"


def test_a_growing_clip_waits_in_silence_that_does_not_count(stage):
    stage.add("a", 1)
    writer = clip(RAMP[: N + 100], complete=False, limit=10 * N)
    stage.call(StartPlayback(room_id="r", playback_id="pb", repeat=2), writer.descriptor)
    np.testing.assert_array_equal(listen(stage, 3, 1), np.concatenate([RAMP[:N], np.zeros(2 * N, np.int16)]))
    writer.append(RAMP[N + 100 : 2 * N + 100])
    np.testing.assert_array_equal(listen(stage, 2, 1), np.concatenate([RAMP[N : 2 * N], np.zeros(N, np.int16)]))
    writer.complete()
    last = np.zeros(N, np.int16)
    last[:100] = RAMP[2 * N : 2 * N + 100]
    np.testing.assert_array_equal(listen(stage, 2, 1), np.concatenate([last, RAMP[:N]]))
    stage.run(3)
    end = finished(stage)
    assert (end.reason, end.played_ms) == ("completed", 120)
    writer.close()


def test_a_clip_given_up_by_its_writer_fails_alone(stage):
    stage.add("a", 1)
    stage.play(RAMP, "good")
    writer = clip(RAMP[: N + 1], complete=False)
    stage.call(StartPlayback(room_id="r", playback_id="bad", repeat=0), writer.descriptor)
    writer.fail()
    stage.run(3)
    end = finished(stage)
    assert (end.playback_id, end.reason, end.played_ms) == ("bad", "failed", 40)
    np.testing.assert_array_equal(stage.heard(1), RAMP[2 * N : 3 * N])
    writer.close()


def test_an_empty_clip_completes_without_having_begun(stage):
    stage.add("a", 1)
    stage.play([], repeat=0)
    stage.run(1)
    assert (finished(stage).reason, stage.events) == ("completed", [])


def test_stop_fades_out_and_one_that_never_began_ends_at_once(stage):
    stage.add("a", 1)
    stage.play(np.full(50 * N, 10000, np.int16))
    stage.run(2)
    stage.wait_for(PlaybackStarted)
    stage.call(StopPlayback(room_id="r", playback_id="pb"))
    stage.run(1)
    assert np.abs(np.diff(stage.heard(1).astype(int))).max() < 40
    assert stage.heard(1)[-1] == 0
    assert finished(stage).played_ms == 60
    stage.play(RAMP, "never")
    stage.call(StopPlayback(room_id="r", playback_id="never"))
    end = finished(stage)
    assert (end.playback_id, end.reason, end.played_ms) == ("never", "stopped", 0)
    stage.run(2)
    assert not stage.heard(1).any() if stage.heard(1) is not None else True
    assert isinstance(stage.call(StopPlayback(room_id="r", playback_id="never")), Done)
    assert stage.events == []


def test_stop_of_a_waiting_growing_clip_ends_within_a_tick(stage):
    stage.add("a", 1)
    writer = clip(RAMP[:N], complete=False, limit=10 * N)
    stage.call(StartPlayback(room_id="r", playback_id="pb"), writer.descriptor)
    stage.run(3)
    stage.call(StopPlayback(room_id="r", playback_id="pb"))
    stage.run(1)
    end = finished(stage)
    assert (end.reason, end.played_ms) == ("stopped", 20)
    writer.close()


@pytest.mark.parametrize("volume", range(-8, 9))
def test_volume_steps_are_3_db(stage, volume):
    stage.add("a", 1)
    peak = 1000 if volume > 0 else 20000
    stage.play(sine(20, peak=peak), volume=volume)
    level = np.sqrt(np.mean(np.square(listen(stage, 20, 1).astype(float))))
    assert 20 * np.log10(level * np.sqrt(2) / peak) == pytest.approx(3 * volume, abs=0.2)


@pytest.mark.parametrize(("before", "after"), [(-8, 0), (0, -8), (0, 3), (3, -3)])
def test_a_change_of_volume_counts_from_the_next_frame_and_does_not_click(stage, before, after):
    stage.add("a", 1)
    stage.play(sine(12, peak=8000), volume=before)
    quiet = listen(stage, 5, 1)
    stage.call(SetVolume(room_id="r", playback_id="pb", volume=after))
    changing, loud = listen(stage, 1, 1), listen(stage, 6, 1)
    for frames, volume in ((quiet, before), (loud, after)):
        level = np.sqrt(np.mean(np.square(frames.astype(float))))
        assert 20 * np.log10(level * np.sqrt(2) / 8000) == pytest.approx(3 * volume, abs=0.2)
    whole = np.concatenate([quiet, changing, loud]).astype(float)
    # The second derivative of a sine is its height times (omega squared): a click would stand far above it.
    peak = 8000 * max(10 ** (0.15 * before), 10 ** (0.15 * after))
    assert np.abs(np.diff(whole, 2)).max() < peak * (2 * np.pi * 400 / 16000) ** 2 * 1.2 + 4
    spectrum = np.abs(np.fft.rfft(whole * np.hanning(len(whole))))
    hz = np.fft.rfftfreq(len(whole), 1 / 16000)
    assert spectrum[hz > 1500].max() < spectrum.max() / 3000


def test_a_tone_plays_until_it_is_stopped_and_its_volume_holds(stage):
    stage.add("a", 1)
    assert isinstance(stage.call(StartPlayback(room_id="r", playback_id="t", tone="us_dial", volume=-2)), Done)
    heard = listen(stage, 100, 1).astype(float)
    spectrum = np.abs(np.fft.rfft(heard))
    strongest = np.fft.rfftfreq(len(heard), 1 / 16000)[np.argsort(spectrum)[-2:]]
    assert sorted(strongest) == [350, 440]
    assert np.abs(heard).max() == pytest.approx(23000 * 10**-0.3, rel=0.03)
    stage.call(StopPlayback(room_id="r", playback_id="t"))
    stage.run(1)
    assert finished(stage).played_ms == 2020


def test_a_playback_for_one_leg_is_added_to_what_that_leg_hears(stage):
    for index, leg in enumerate("abcd"):
        stage.add(leg, index)
    stage.play(RAMP, leg_id="a")
    stage.run(1, lambda _: {0: 100, 1: 200, 2: 30000})
    np.testing.assert_array_equal(stage.heard(0), np.clip(30200 + RAMP[:N], None, 32767))
    np.testing.assert_array_equal(stage.heard(1), np.full(N, 30100))
    np.testing.assert_array_equal(stage.heard(3), np.full(N, 30300))
    stage.run(1, lambda _: {3: 7})
    np.testing.assert_array_equal(stage.heard(0), 7 + RAMP[N : 2 * N])
    np.testing.assert_array_equal(stage.heard(1), np.full(N, 7))
    stage.run(1)
    np.testing.assert_array_equal(stage.heard(0), RAMP[2 * N : 3 * N])
    assert stage.heard(1) is None
    stage.call(SetParticipant(room_id="r", leg_id="a", muted=False, deaf=True))
    stage.run(1)
    assert stage.heard(0) is None
    stage.remove("a")
    stage.run(2)
    assert finished(stage).played_ms == 100


def test_it_goes_on_where_another_worker_was_and_is_not_announced_again(stage):
    stage.add("a", 1)
    stage.play(RAMP[: 3 * N], played_ticks=7, repeat=3)
    heard = listen(stage, 3, 1)
    np.testing.assert_array_equal(heard, np.concatenate([RAMP[N : 3 * N], np.zeros(N, np.int16)]))
    assert finished(stage).played_ms == 180
    stage.play(RAMP, "over", played_ticks=9)
    stage.run(1)
    assert finished(stage).played_ms == 180
    assert stage.events == []


def test_the_inventory_hands_the_clip_on(stage, new_stage):
    stage.add("a", 1)
    stage.play(RAMP, repeat=0)
    stage.call(StartPlayback(room_id="r", playback_id="t", tone="busy", leg_id="a"))
    stage.call(SetVolume(room_id="r", playback_id="pb", volume=-1))
    stage.run(7)
    stage.events.clear()
    stage.descriptors.clear()
    stage.control.send(Hello(command_id=99))
    stage.desk.serve()
    stage.wait_for(lambda one: isinstance(one, RoomInventoryPart) and one.last)
    parts = {one.playback.playback_id: one for one in stage.events if getattr(one, "playback", None)}
    assert {one.phase for one in parts.values()} == {0}
    again = parts["pb"].playback
    assert (again.volume, again.played_ticks, again.repeat) == (-1, 7, 0)
    assert (parts["t"].playback.tone, parts["t"].playback.leg_id) == ("busy", "a")
    (descriptors,) = [one for one in stage.descriptors if one]
    repeated = [one for one in stage.events if isinstance(one, PlaybackStarted)]
    assert len(repeated) == 2  # not acknowledged yet
    other = new_stage(tick=stage.tick)
    other.open()
    other.add("a", 2)
    assert isinstance(other.call(again, *descriptors), Done)
    other.run(1)
    np.testing.assert_array_equal(other.heard(2), np.rint(RAMP[2 * N : 3 * N] * np.float32(10**-0.15)).astype(np.int16))


def test_refusals_leak_no_descriptor(stage):
    stage.add("a", 1)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for command, blame in (
        (StartPlayback(room_id="r", playback_id="x", tone="xx_busy"), "caller"),
        (StartPlayback(room_id="r", playback_id="x"), "resource"),
        (StartPlayback(room_id="r", playback_id="x", volume=9, tone="busy"), "caller"),
        (StartPlayback(room_id="gone", playback_id="x", tone="busy"), "resource"),
        (SetVolume(room_id="r", playback_id="x", volume=1), "caller"),
    ):
        answer = stage.call(command)
        assert isinstance(answer, Failed)
        assert answer.blame == blame
    empty = os.memfd_create("empty")
    answer = stage.call(StartPlayback(room_id="r", playback_id="x"), empty)
    assert isinstance(answer, Failed)
    os.close(empty)
    stage.play(RAMP)
    stage.play(RAMP)  # the same again is done once
    stage.run(7)  # the last one forgets it
    finished(stage)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_end_of_the_room_ends_its_playbacks(stage):
    stage.add("a", 1)
    stage.play(RAMP, repeat=0)
    stage.run(2)
    assert isinstance(stage.call(CloseRoom(room_id="r")), Done)
    end = finished(stage)
    assert (end.reason, end.played_ms) == ("stopped", 40)


def test_a_playback_goes_on_in_an_empty_room(stage):
    stage.play(RAMP)
    stage.run(2)
    stage.add("late", 3)
    stage.run(1)
    np.testing.assert_array_equal(stage.heard(3), RAMP[2 * N : 3 * N])
