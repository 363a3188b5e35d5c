"""Recordings through the desk, with real files: every sample in its place, whatever happens in between."""

import re
import stat
import wave
from pathlib import Path

import msgspec
import numpy as np
import pytest

from shm.messages import (
    AddParticipant,
    CloseRoom,
    Done,
    Failed,
    Hello,
    PauseRecording,
    RecordingFinished,
    RecordingStarted,
    RoomInventoryPart,
    Row,
    SetParticipant,
    StartPlayback,
    StartRecording,
    StopRecording,
)
from workers.recording.finishing import finish_orphans, publish
from workers.recording.wav_file import WavFile
from workers.room import membership, taps
from workers.room.taps import CHUNK_TICKS

N = 320
EARLIER_S, LATER_S = 0.0, 4e9  # than any file's time
NAME = "20250304_050607_0badcafe.wav"


def voice(row, tick, n=N):
    """A frame that no other row and no other tick has, below a sixth of full scale."""
    return ((np.arange(tick * n, (tick + 1) * n) * (2 * row + 3)) % 5000 + 1).astype(np.int16)


def read(path):
    with wave.open(str(path), "rb") as file:
        assert file.getsampwidth() == 2
        data = np.frombuffer(file.readframes(1 << 30), np.int16)
        return data.reshape(-1, file.getnchannels()) if file.getnchannels() > 1 else data


def frames(data, n=N):
    assert len(data) % n == 0
    return data.reshape(-1, n)


def talk(*rows):
    return lambda tick: {row: voice(row, tick) for row in rows}


def expected(first, ticks, *rows):
    """What the mix of these rows is from tick `first` on."""
    return np.concatenate(
        [sum(voice(row, tick).astype(np.int16) for row in rows) for tick in range(first, first + ticks)]
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rec" / NAME


def start(stage, path, recording_id="rec", **more):
    answer = stage.call(StartRecording(room_id="r", recording_id=recording_id, path=str(path), **more))
    assert isinstance(answer, Done), answer


def stop(stage, recording_id="rec", **more):
    assert isinstance(stage.call(StopRecording(room_id="r", recording_id=recording_id, **more)), Done)
    return stage.wait_for(RecordingFinished)


def left_over(path):
    return sorted(one.name for one in path.parent.iterdir() if one.name.startswith("."))


def wait_until_forgotten(stage, path):
    stage.close()  # does all jobs first
    assert left_over(path) == []


def test_few_legs_are_recorded_as_many_are(new_stage, tmp_path, monkeypatch):
    """With and without numpy: silence, one and several talkers, muted and absent ones, a stereo file of one leg."""
    rng = np.random.default_rng(7)
    said = [
        {row: voice(row, tick) * int(rng.integers(0, 2)) for row in (1, 2, 3) if rng.random() < 0.8}
        for tick in range(3 * CHUNK_TICKS)
    ]
    written = []
    for few in (8, 0):
        monkeypatch.setattr(membership, "FEW", few)
        stage = new_stage(comfort_noise=True)
        stage.banks[16000].rx_tick[:] = 0
        stage.open()
        for row in (1, 2, 3):
            stage.add(f"leg{row}", row, muted=row == 3)
        folder = tmp_path / str(few)
        start(stage, folder / "mix.wav", "mix", multi_channel=True)
        start(stage, folder / "leg.wav", "leg", leg_id="leg1")
        first = stage.tick
        stage.run(len(said), lambda tick: said[tick - first])  # noqa: B023 - called before the next pass
        merged = Path(stop(stage, "mix").multi_channel_path)
        stop(stage, "leg")
        written.append([read(one) for one in (folder / "mix.wav", merged, folder / "leg.wav")])
    for one, other in zip(*written, strict=True):
        assert one.any()
        assert np.array_equal(one, other)


def test_the_mix_from_the_first_tick_to_the_last(stage, path):
    stage.add("a", 1)
    stage.add("b", 2)
    stage.run(5, talk(1, 2))
    start(stage, path)
    first = stage.tick
    stage.run(60, talk(1, 2))
    assert stage.wait_for(RecordingStarted).tick == first
    end = stop(stage)
    stage.run(10, talk(1, 2))
    assert (end.path, end.error, end.multi_channel_path, end.channels) == (str(path), "", "", ())
    np.testing.assert_array_equal(read(path), expected(first, 60, 1, 2))
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert path.stat().st_size == 44 + 60 * N * 2
    wait_until_forgotten(stage, path)


def test_the_full_mix_ignores_deafness_and_what_single_legs_hear_but_not_mute(stage, path):
    stage.add("a", 1, deaf=True)
    stage.add("b", 2, muted=True)
    stage.play(np.full(100 * N, 500, np.int16), "all")
    stage.play(np.full(100 * N, 9000, np.int16), "one", leg_id="b")
    start(stage, path)
    first = stage.tick
    stage.run(30, talk(1, 2))
    stop(stage)
    np.testing.assert_array_equal(read(path), expected(first, 30, 1) + 500)


def test_the_mix_is_saturated_once(stage, path):
    stage.add("a", 1)
    stage.add("b", 2)
    start(stage, path)
    stage.run(1, lambda _: {1: 30000, 2: 30000})
    stage.run(1, lambda _: {1: -30000, 2: -30000})
    stop(stage)
    assert read(path)[[0, N]].tolist() == [32767, -32768]


def test_silence_is_comfort_noise_in_the_mix_and_zeros_in_pauses(new_stage, path):
    stage = new_stage(comfort_noise=True)
    stage.open()
    stage.add("a", 1)
    start(stage, path)
    stage.run(10)
    stage.call(PauseRecording(room_id="r", recording_id="rec", paused=True))
    stage.run(10)
    stop(stage)
    data = read(path).reshape(2, -1)
    assert 0 < np.abs(data[0]).max() <= 8
    assert not data[1].any()


def test_pause_keeps_the_timeline_of_every_track(stage, path):
    stage.add("a", 1)
    start(stage, path, multi_channel=True)
    first = stage.tick
    stage.run(7, talk(1, 2))
    for paused in (True, True):  # both idempotent
        stage.call(PauseRecording(room_id="r", recording_id="rec", paused=paused))
    stage.run(30, talk(1, 2))
    stage.add("late", 2)
    stage.run(20, talk(1, 2))
    for paused in (False, False):
        stage.call(PauseRecording(room_id="r", recording_id="rec", paused=paused))
    stage.run(9, talk(1, 2))
    end = stop(stage)
    wish = np.zeros((2, 66 * N), np.int16)
    wish[0, : 7 * N] = expected(first, 7, 1)
    wish[0, 57 * N :] = expected(first + 57, 9, 1)
    wish[1, 57 * N :] = expected(first + 57, 9, 2)
    np.testing.assert_array_equal(read(path), wish.sum(axis=0))
    np.testing.assert_array_equal(read(end.multi_channel_path), wish.T)
    assert [(one.participant_id, one.start_ms, one.end_ms) for one in end.channels] == [
        ("a", 0, 1320),
        ("late", 740, 1320),
    ]


def test_multi_channel_follows_joins_leaves_and_returns(stage, path):
    stage.add("a", 1)
    stage.add("b", 2, muted=True)
    stage.add("agent", 5, has_track=False)
    start(stage, path, multi_channel=True)
    first = stage.tick
    stage.run(30, talk(1, 2, 3, 5))
    stage.add("c", 3)
    stage.remove("a")
    stage.run(10, talk(1, 2, 3, 5))
    stage.add("a", 4)  # back on another row
    stage.remove("c")
    stage.run(40, talk(1, 2, 3, 4, 5))
    stage.remove("a")
    stage.run(5, talk(1, 2, 3, 4, 5))
    end = stop(stage)
    ticks = 85
    wish = np.zeros((3, ticks, N), np.int16)
    for tick in range(ticks):
        at = first + tick
        if tick < 30:
            wish[0, tick] = voice(1, at)
        elif 40 <= tick < 80:
            wish[0, tick] = voice(4, at)
        wish[1, tick] = voice(2, at)
        if 30 <= tick < 40:
            wish[2, tick] = voice(3, at)
    wish = wish.reshape(3, -1)
    assert [(one.participant_id, one.channel, one.start_ms, one.end_ms) for one in end.channels] == [
        ("a", 0, 0, 1600),
        ("b", 1, 0, 1700),
        ("c", 2, 600, 800),
    ]
    np.testing.assert_array_equal(read(end.multi_channel_path), wish.T)
    for one in end.channels:
        np.testing.assert_array_equal(read(one.path), wish[one.channel])
    stamp, digits = re.fullmatch(
        r"(\d{8}_\d{6})_multichannel_([0-9a-f]{8})\.wav", Path(end.multi_channel_path).name
    ).groups()
    assert digits == "0badcafe"
    assert [Path(one.path).name for one in end.channels] == [f"{stamp}_track_{digits}_{n:02d}.wav" for n in range(3)]
    assert end.omitted == ()
    wait_until_forgotten(stage, path)


def test_a_leg_recording_has_what_it_says_left_and_what_it_hears_right(stage, path):
    stage.add("a", 1, muted=True)
    stage.add("b", 2)
    start(stage, path, leg_id="a")
    first = stage.tick
    stage.run(20, talk(1, 2))
    stage.call(StartPlayback(room_id="r", playback_id="t", tone="dial", leg_id="b"))
    stage.call(SetParticipant(room_id="r", leg_id="a", muted=False, deaf=True))
    stage.run(20, talk(1, 2))
    stage.remove("a")
    stage.run(5, talk(1, 2))
    stage.add("a", 3)
    stage.run(5, talk(2, 3))
    stop(stage)
    data = read(path)
    left = np.concatenate([expected(first, 40, 1), np.zeros(5 * N, np.int16), expected(first + 45, 5, 3)])
    right = np.concatenate([expected(first, 20, 2), np.zeros(25 * N, np.int16), expected(first + 45, 5, 2)])
    np.testing.assert_array_equal(data[:, 0], left)
    np.testing.assert_array_equal(data[:, 1], right)


def test_a_missing_frame_and_a_skipped_tick_leave_the_rest_in_place(stage, path):
    stage.add("a", 1)
    start(stage, path, multi_channel=True)
    first = stage.tick
    stage.run(40, talk(1))  # once around the ring: what is missing then has an old stamp
    stage.run(1)
    stage.run(4, talk(1))
    stage.tick += 3
    stage.run(30, talk(1))
    stage.tick += 100
    stage.run(2, talk(1))
    end = stop(stage)
    wish = expected(first, 180, 1).reshape(180, N)
    wish[40] = 0
    wish[45:48] = 0
    wish[78:178] = 0
    np.testing.assert_array_equal(frames(read(path)), wish)
    np.testing.assert_array_equal(frames(read(end.channels[0].path)), wish)


def test_the_file_grows_as_a_valid_wav_twice_a_second(stage, path):
    stage.add("a", 1)
    start(stage, path)
    first = stage.tick
    dot = path.parent / f".{NAME}.rec"
    assert len(read(dot)) == 0
    for chunks in (1, 2, 3):
        stage.run(CHUNK_TICKS, talk(1))
        stage.run(1, talk(1))
        stage.tick -= 1  # the same tick again: only now is the chunk handed over
        stage.desk.recordings._writer.put(done := Signal())
        done.wait()
        np.testing.assert_array_equal(read(dot), expected(first, chunks * CHUNK_TICKS, 1))
    assert not path.exists()
    stop(stage)


class Signal:
    """A job that tells when it is done."""

    def __init__(self):
        import threading

        self._event = threading.Event()

    def __call__(self):
        self._event.set()

    def wait(self):
        assert self._event.wait(10)


def test_stopped_before_the_first_tick_it_leaves_no_file(stage, path):
    stage.add("a", 1)
    start(stage, path, multi_channel=True)
    end = stop(stage)
    assert (end.path, end.multi_channel_path, end.channels, end.error) == ("", "", (), "")
    assert list(path.parent.iterdir()) == []


def test_a_taken_name_or_directory_is_refused(stage, path):
    stage.add("a", 1)
    path.parent.mkdir()
    path.write_bytes(b"somebody's")
    answer = stage.call(StartRecording(room_id="r", recording_id="x", path=str(path)))
    assert isinstance(answer, Failed)
    assert answer.blame == "resource"
    free = path.with_name("free.wav")
    start(stage, free, "y")
    answer = stage.call(StartRecording(room_id="r", recording_id="z", path=str(free)))
    assert isinstance(answer, Failed)
    answer = stage.call(StartRecording(room_id="r", recording_id="z", path=str(path / "below.wav")))
    assert isinstance(answer, Failed)
    assert path.read_bytes() == b"somebody's"


def test_a_name_taken_meanwhile_is_not_overwritten(stage, path):
    stage.add("a", 1)
    start(stage, path)
    stage.run(2, talk(1))
    path.write_bytes(b"somebody's")
    end = stop(stage)
    assert path.read_bytes() == b"somebody's"
    assert end.path == str(path.with_stem(path.stem + "_1"))
    assert len(read(end.path)) == 2 * N


def test_a_track_that_fails_is_omitted_alone(stage, path):
    stage.add("a", 1)
    path.parent.mkdir()
    (path.parent / f".{NAME}.track_01.rec").mkdir()
    start(stage, path, multi_channel=True)
    stage.add("b", 2)
    first = stage.tick
    stage.run(5, talk(1, 2))
    end = stop(stage)
    assert end.omitted == ("b",)
    assert "track" in end.error
    assert [one.participant_id for one in end.channels] == ["a"]
    np.testing.assert_array_equal(read(path), expected(first, 5, 1, 2))
    np.testing.assert_array_equal(read(end.multi_channel_path)[:, 0], expected(first, 5, 1))


def test_what_the_disk_does_not_take_in_time_is_silence_in_its_place(stage, path, monkeypatch):
    monkeypatch.setattr(taps, "WAITING_LIMIT_BYTES", 3 * CHUNK_TICKS * N * 2)
    stage.add("a", 1)
    start(stage, path)
    first = stage.tick
    is_slow = Signal()
    stage.desk.recordings._writer.put(is_slow.wait)
    stage.run(5 * CHUNK_TICKS, talk(1))  # the last one is not handed over yet
    is_slow()
    stage.desk.recordings._writer.put(done := Signal())
    done.wait()
    stage.run(CHUNK_TICKS + 1, talk(1))
    end = stop(stage)
    wish = frames(expected(first, 6 * CHUNK_TICKS + 1, 1)).copy()
    wish[3 * CHUNK_TICKS : 4 * CHUNK_TICKS] = 0
    np.testing.assert_array_equal(frames(read(path)), wish)
    assert "500 ms" in end.error


def test_the_end_of_the_room_completes_its_recordings(stage, path):
    stage.add("a", 1)
    start(stage, path, multi_channel=True)
    first = stage.tick
    stage.run(30, talk(1))
    stage.call(CloseRoom(room_id="r"))
    end = stage.wait_for(RecordingFinished)
    np.testing.assert_array_equal(read(end.path), expected(first, 30, 1))
    np.testing.assert_array_equal(read(end.channels[0].path), expected(first, 30, 1))


def test_a_process_that_is_told_to_leave_while_it_finishes_leaves_nothing_hidden(stage, path):
    stage.add("a", 1)
    start(stage, path, multi_channel=True)
    first = stage.tick
    stage.run(5, talk(1))
    stage.call(StopRecording(room_id="r", recording_id="rec"))
    stage.desk.recordings.end()
    np.testing.assert_array_equal(read(path), expected(first, 5, 1))
    assert left_over(path) == []


def test_many_rooms_in_one_worker_at_two_rates_and_phases(new_stage, tmp_path):
    stage = new_stage()
    first = {}
    for room in range(12):
        name = f"room-{room}"
        rate_hz = (16000, 8000)[room % 2]
        stage.open(name, rate_hz, phase=room % 4)
        stage.add("x", 2 * room, name, rate_hz)
        stage.add("y", 2 * room + 1, name, rate_hz)
    everyone = tuple(range(24))

    def run(ticks):
        for _ in range(ticks):
            for row in everyone:
                rate_hz = (16000, 8000)[row // 2 % 2]
                stage.say(row, voice(row, stage.tick, rate_hz // 50), rate_hz)
            stage.run(1)

    for room in range(12):
        command = StartRecording(room_id=f"room-{room}", recording_id="rec", path=str(tmp_path / f"{room}.wav"))
        assert isinstance(stage.call(command), Done)
        first[room] = stage.tick
        run(3)
    run(40)
    for room in range(12):
        stage.call(StopRecording(room_id=f"room-{room}", recording_id="rec"))
        stage.wait_for(RecordingFinished)
        rate_hz = (16000, 8000)[room % 2]
        n = rate_hz // 50
        wish = [voice(2 * room, tick, n) + voice(2 * room + 1, tick, n) for tick in range(first[room], stage.tick)]
        np.testing.assert_array_equal(frames(read(tmp_path / f"{room}.wav"), n), wish)
        run(1)


# ------------------------------------------------------------------------------------------------ going on elsewhere


def restarted(new_stage, stage, *, after_ticks):
    """A successor of a worker that was killed: its threads end, its files are let go, nothing is told."""
    recordings = stage.desk.recordings
    recordings._writer.end(10)
    recordings._finisher.end(10)
    for recording in recordings._known.values():
        recording.files.release()
    recordings._known.clear()
    successor = new_stage(tick=stage.tick + after_ticks)
    successor.open()
    return successor


def test_a_successor_goes_on_in_the_same_files(stage, new_stage, path):
    stage.add("a", 1)
    stage.add("b", 2)
    stage.add("gone", 3)
    start(stage, path, multi_channel=True)
    first = stage.tick
    stage.run(CHUNK_TICKS + 1, talk(1, 2, 3))  # what follows the first chunk is lost
    stage.run(10, talk(1, 2, 3))
    successor = restarted(new_stage, stage, after_ticks=9)
    again = successor.tick
    successor.add("b", 2)
    successor.add("a", 1)
    start(successor, path, multi_channel=True, since_tick=first)
    successor.add("new", 4)
    successor.run(40, talk(1, 2, 3, 4))
    end = stop(successor)
    total = successor.tick - first
    wish = np.zeros((4, total, N), np.int16)
    for tick in (*range(first, first + CHUNK_TICKS), *range(again, successor.tick)):
        for channel, row in enumerate((1, 2, 3, 4)):
            if not (row == 3 and tick >= again) and not (row == 4 and tick < again):
                wish[channel, tick - first] = voice(row, tick)
    wish = wish.reshape(4, -1)
    assert [(one.participant_id, one.channel, one.start_ms) for one in end.channels] == [
        ("a", 0, 0),
        ("b", 1, 0),
        ("gone", 2, 0),
        ("new", 3, (again - first) * 20),
    ]
    np.testing.assert_array_equal(read(end.path), wish.sum(axis=0))
    np.testing.assert_array_equal(read(end.multi_channel_path), wish.T)
    assert not [one for one in successor.events if isinstance(one, RecordingStarted)]
    wait_until_forgotten(successor, path)


def test_a_successor_of_one_that_died_before_its_begin_was_known_finds_it_in_the_note(stage, new_stage, path):
    stage.add("a", 1)
    start(stage, path)
    first = stage.tick
    stage.run(CHUNK_TICKS + 1, talk(1))
    successor = restarted(new_stage, stage, after_ticks=5)
    successor.add("a", 1)
    start(successor, path)
    successor.run(1, talk(1))
    assert successor.wait_for(RecordingStarted).tick == first
    stop(successor)
    assert len(read(path)) == (successor.tick - first) * N


def test_a_recording_stopped_when_its_worker_died_keeps_its_length(stage, new_stage, path):
    stage.add("a", 1)
    start(stage, path, multi_channel=True)
    first = stage.tick
    stage.run(30, talk(1))
    stage.desk.recordings._finisher.put = lambda _job: None  # killed before the first step
    stage.call(StopRecording(room_id="r", recording_id="rec"))
    successor = restarted(new_stage, stage, after_ticks=50)
    successor.add("a", 1)
    number = successor.send(
        StartRecording(room_id="r", recording_id="rec", path=str(path), multi_channel=True, since_tick=first)
    )
    successor.call(StopRecording(room_id="r", recording_id="rec"))
    end = successor.wait_for(RecordingFinished)
    assert [one for one in successor.events if isinstance(one, Done) and one.command_id == number]
    np.testing.assert_array_equal(read(end.path), expected(first, 30, 1))
    np.testing.assert_array_equal(read(end.multi_channel_path), expected(first, 30, 1))
    assert (end.channels[0].start_ms, end.channels[0].end_ms) == (0, 600)


def test_killed_between_the_link_and_the_unlink_it_is_not_linked_twice(tmp_path):
    dot, final = tmp_path / ".a.wav.rec", tmp_path / "a.wav"
    dot.write_bytes(b"sound")
    final.hardlink_to(dot)
    assert publish(dot, final) == final
    assert [one.name for one in tmp_path.iterdir()] == ["a.wav"]


@pytest.mark.parametrize("steps", range(4))
def test_a_worker_killed_while_finishing_has_it_finished(stage, new_stage, path, steps, monkeypatch):
    from workers.recording import finishing

    class Killed(BaseException):
        pass

    stage.add("a", 1)
    stage.add("b", 2)
    start(stage, path, multi_channel=True)
    first = stage.tick
    stage.run(30, talk(1, 2))
    publish, published = finishing.publish, []

    def publish_until_killed(*args):
        if len(published) == steps:
            raise Killed
        published.append(publish(*args))
        return published[-1]

    with monkeypatch.context() as context:
        context.setattr(finishing, "publish", publish_until_killed)
        jobs = []
        stage.desk.recordings._finisher.put = jobs.append
        stage.call(StopRecording(room_id="r", recording_id="rec"))
        stage.desk.recordings._writer.end(10)
        with pytest.raises(Killed):
            jobs[0]()
    successor = restarted(new_stage, stage, after_ticks=50)
    start(successor, path, multi_channel=True, since_tick=first)
    end = successor.wait_for(RecordingFinished)
    assert end.error == ""
    np.testing.assert_array_equal(read(end.path), expected(first, 30, 1, 2))
    np.testing.assert_array_equal(read(end.multi_channel_path)[:, 1], expected(first, 30, 2))
    np.testing.assert_array_equal(read(end.channels[1].path), expected(first, 30, 2))
    assert len(list(path.parent.glob("*.wav"))) == 4
    wait_until_forgotten(successor, path)


def test_handed_over_to_another_worker_nothing_is_lost_and_nothing_told(stage, new_stage, path):
    stage.add("a", 1)
    start(stage, path, leg_id="a")
    first = stage.tick
    stage.run(33, talk(1))
    assert isinstance(stage.call(StopRecording(room_id="r", recording_id="rec", hand_over=True)), Done)
    assert not [one for one in stage.events if isinstance(one, RecordingFinished)]
    assert stage.desk.recordings.inventory() == ()
    other = new_stage(tick=stage.tick + 2)
    other.open()
    other.add("a", 1)
    start(other, path, leg_id="a", since_tick=first)
    other.run(20, talk(1))
    end = stop(other)
    wish = frames(expected(first, 55, 1)).copy()
    wish[33:35] = 0
    np.testing.assert_array_equal(frames(read(end.path)[:, 0]), wish)


def test_handed_over_to_a_room_of_another_rate_it_keeps_its_own(stage, new_stage, path):
    stage.open("narrow", 8000)
    stage.add("a", 1)
    start(stage, path, leg_id="a")

    def hum(stage, rate_hz, ticks):
        for _ in range(ticks):
            n = rate_hz // 50
            at = np.arange(stage.tick * n, (stage.tick + 1) * n) / rate_hz
            stage.say(1, np.rint(9000 * np.sin(2 * np.pi * 500 * at)).astype(np.int16), rate_hz)
            stage.run(1)

    first = stage.tick
    hum(stage, 16000, 100)
    stage.call(StopRecording(room_id="r", recording_id="rec", hand_over=True))
    stage.add("a", 1, "narrow", 8000)
    command = StartRecording(room_id="narrow", recording_id="rec", path=str(path), leg_id="a", since_tick=first)
    assert isinstance(stage.call(command), Done)
    hum(stage, 8000, 100)
    stage.call(StopRecording(room_id="narrow", recording_id="rec"))
    stage.wait_for(RecordingFinished)
    with wave.open(str(path)) as file:
        assert file.getframerate() == 16000
    left = read(path)[:, 0].astype(float)
    assert len(left) == 200 * N
    spectrum = np.abs(np.fft.rfft(left[105 * N :] * np.hanning(95 * N)))
    hz = np.fft.rfftfreq(95 * N, 1 / 16000)
    assert hz[spectrum.argmax()] == pytest.approx(500, abs=1)
    assert spectrum[np.abs(hz - 500) > 20].max() < spectrum.max() / 1000  # one stream across all chunks, no seams


def test_the_inventory_tells_what_a_successor_of_control_must_know(stage, path):
    stage.add("a", 1)
    stage.add("b", 2)
    start(stage, path, multi_channel=True)
    stage.run(2, talk(1))
    first = stage.wait_for(RecordingStarted).tick
    stage.call(PauseRecording(room_id="r", recording_id="rec", paused=True))
    stage.run(1)

    def told():
        stage.control.send(Hello(command_id=77))
        stage.desk.serve()
        stage.wait_for(lambda one: isinstance(one, RoomInventoryPart) and one.last)
        parts = [one for one in stage.events if isinstance(one, RoomInventoryPart) and one.recording]
        stage.events.clear()
        return parts

    (part,) = told()
    assert part.recording == StartRecording(
        room_id="r", recording_id="rec", path=str(path), multi_channel=True, paused=True, since_tick=first
    )
    assert (part.channels, part.is_stopping, part.rate_hz) == (("a", "b"), False, 16000)
    stage.send(StopRecording(room_id="r", recording_id="rec"))
    if parts := told():
        assert parts[0].is_stopping
    assert msgspec.msgpack.encode(part)


def test_a_leg_that_is_replaced_on_another_row_keeps_its_lane(stage, path):
    stage.add("a", 1)
    start(stage, path, multi_channel=True)
    first = stage.tick
    stage.run(3, talk(1, 2))
    row = Row(rate_hz=16000, index=2, generation=1)
    stage.call(AddParticipant(room_id="r", leg_id="a", row=row, at_tick=stage.tick + 2))
    stage.run(5, talk(1, 2))
    end = stop(stage)
    wish = np.concatenate([expected(first, 5, 1), expected(first + 5, 3, 2)])
    np.testing.assert_array_equal(read(end.channels[0].path), wish)
    np.testing.assert_array_equal(read(path), wish)


def test_orphans_are_finished_and_those_in_use_or_new_are_left_alone(stage, new_stage, path):
    stage.add("a", 1)
    start(stage, path, multi_channel=True)
    first = stage.tick
    stage.run(CHUNK_TICKS + 1, talk(1))
    assert list(finish_orphans(path.parent, LATER_S)) == []  # a living process holds them
    restarted(new_stage, stage, after_ticks=0)
    assert list(finish_orphans(path.parent, EARLIER_S)) == []
    ((outcome, note),) = finish_orphans(path.parent, LATER_S)
    assert outcome.errors == []
    assert outcome.path == str(path)
    assert [one.participant_id for one in note.channels] == ["a"]
    assert re.fullmatch(r"\d{8}_\d{6}_track_0badcafe_00\.wav", Path(outcome.tracks[0]).name)
    for one in (outcome.path, outcome.merged_path, *outcome.tracks):
        np.testing.assert_array_equal(read(one), expected(first, CHUNK_TICKS, 1))
    assert left_over(path) == []
    assert list(finish_orphans(path.parent, LATER_S)) == []
    assert list(finish_orphans(path.parent / "missing", LATER_S)) == []


def test_tracks_of_an_orphan_become_as_long_as_its_mix(stage, new_stage, path):
    """One left early, one came late: all files have the same start and length (media.md 6.4)."""
    stage.add("a", 1)
    stage.add("b", 2)
    start(stage, path, multi_channel=True)
    first = stage.tick
    stage.run(10, talk(1, 2))
    stage.remove("b")
    stage.run(20, talk(1))
    stage.add("c", 3)
    stage.run(CHUNK_TICKS, talk(1, 3))
    restarted(new_stage, stage, after_ticks=0)
    ((outcome, _),) = finish_orphans(path.parent, LATER_S)
    mix, merged = read(outcome.path), read(outcome.merged_path)
    assert merged.shape == (len(mix), 3)
    for channel, track in enumerate(outcome.tracks):
        np.testing.assert_array_equal(read(track), merged[:, channel])
    np.testing.assert_array_equal(merged[: 10 * N, 1], expected(first, 10, 2))
    assert not merged[11 * N :, 1].any()
    assert left_over(path) == []


@pytest.mark.parametrize("kept", range(1, 4))
def test_an_orphan_whose_finishing_was_killed_too_is_finished_under_the_same_names(stage, new_stage, path, kept):
    stage.add("a", 1)
    start(stage, path, multi_channel=True)
    stage.run(CHUNK_TICKS + 1, talk(1))
    restarted(new_stage, stage, after_ticks=0)
    dots = {one.name: one.read_bytes() for one in path.parent.iterdir()}
    ((outcome, note),) = finish_orphans(path.parent, LATER_S)
    done = [outcome.merged_path, *outcome.tracks, outcome.path]
    for one in done[kept:]:  # not reached by the first
        Path(one).unlink()
    for name, data in dots.items():
        if (kept < 3 and name.endswith("wav.rec")) or (kept < 2 and ".track_" in name):
            (path.parent / name).write_bytes(data)
    (path.parent / f".{NAME}.json").write_bytes(msgspec.json.encode(note))
    again = list(finish_orphans(path.parent, LATER_S))
    assert [one for one, _ in again] == ([outcome] if kept < 3 else [])
    assert sorted(one.name for one in path.parent.iterdir()) == sorted(Path(one).name for one in done)


def test_orphans_that_hold_nothing_leave_nothing(tmp_path):
    (tmp_path / ".a.wav.b.wav.rec").touch()  # killed before the first byte
    WavFile.create(tmp_path / ".c.wav.rec", 8000, 1).close()
    (tmp_path / ".d.wav.json").write_text("{}")
    WavFile.create(tmp_path / ".e.wav.f.wav.rec", 8000, 1).close()
    wav = WavFile.reopen(tmp_path / ".e.wav.f.wav.rec")
    wav.extend(8)
    wav.close()
    ((outcome, _),) = finish_orphans(tmp_path, LATER_S)
    assert outcome.path == str(tmp_path / "e.wav.f.wav")
    assert [one.name for one in tmp_path.iterdir()] == ["e.wav.f.wav"]
