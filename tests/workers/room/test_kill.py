"""A real room worker killed with SIGKILL at random moments while it records, restarted each time by its "control"."""

import os
import random
import signal
import time

import msgspec
import numpy as np
import pytest

from shm.bank import RX_SLOTS
from shm.channel import Channel, channel_pair
from shm.clock import TICK_NS, tick_now
from shm.instance import create_instance
from shm.messages import (
    AddParticipant,
    Done,
    FromRoom,
    OpenRoom,
    RecordingFinished,
    RecordingStarted,
    RoomStart,
    Row,
    StartRecording,
    StopRecording,
    ToRoom,
)
from tests.workers.room.test_recordings import N, read, voice
from workers.process import become_worker
from workers.room.main import run

ROWS = (1, 2, 3)
KILLS = 6
AHEAD_TICKS = 12
SECOND_TICKS = 50
WAIT_S = 10.0


class Worker:
    """A forked process in its real frame, and control's end of its channel."""

    def __init__(self, instance):
        control_end, worker_end = channel_pair()
        self.pid = os.fork()
        if self.pid == 0:
            instance.drop_master_ends()
            become_worker(
                "room test", run, ToRoom, instance, worker_end, msgspec.msgpack.encode(RoomStart(stats_row=1))
            )
        worker_end.close()
        self.control = Channel(control_end, FromRoom)
        self.events = []
        self.is_killed = False

    def send(self, *commands):
        for number, command in enumerate(commands, 1):
            self.control.send(msgspec.structs.replace(command, command_id=number))

    def wait_for(self, kind, feed):
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until:
            feed()
            self.events += self.control.receive()
            for event in self.events:
                if isinstance(event, kind):
                    self.events.remove(event)
                    return event
            time.sleep(0.001)
        raise AssertionError(f"no {kind.__name__}; there are {self.events}")

    def kill(self):
        """At once, and once."""
        if self.is_killed:
            return
        self.is_killed = True
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.control.close()


@pytest.fixture(scope="module")
def instance(tmp_path_factory):
    made = create_instance("kill-test", rows=64, state_dir=str(tmp_path_factory.mktemp("state")), sip_sockets=[])
    for bank in made.banks.values():
        bank.back_block(0)
    return made


def test_killed_again_and_again_every_frame_is_in_its_place(instance, tmp_path):
    bank = instance.banks[16000]
    fed = [tick_now()]

    def feed():
        """Everybody speaks, a little ahead of time: what a frame holds tells its row and tick."""
        until = tick_now() + AHEAD_TICKS
        for tick in range(max(fed[0], until - AHEAD_TICKS), until):
            for row in ROWS:
                bank.rx[row, tick % RX_SLOTS] = voice(row, tick)
                bank.rx_tick[row, tick % RX_SLOTS] = tick
        fed[0] = until

    path = tmp_path / "rec" / "20250304_050607_0badcafe.wav"
    dot = path.with_name(f".{path.name}.rec")
    start = StartRecording(room_id="r", recording_id="rec", path=str(path), multi_channel=True)
    entries = [
        AddParticipant(room_id="r", leg_id=str(row), row=Row(rate_hz=16000, index=row, generation=0)) for row in ROWS
    ]
    opening = (OpenRoom(room_id="r", rate_hz=16000, phase=1), *entries)
    chance = random.Random()
    seed = chance.randrange(1 << 32)
    chance.seed(seed)
    worker = Worker(instance)
    try:
        feed()
        worker.send(*opening, start)
        first = began = worker.wait_for(RecordingStarted, feed).tick
        dead = []  # (from tick, to tick) for which a loss is allowed
        for _ in range(KILLS):
            until = time.monotonic() + chance.uniform(0.02, 1.3)
            while time.monotonic() < until:
                feed()
                time.sleep(0.002)
            worker.kill()
            killed = tick_now()
            whole = len(read(dot)) // N
            # One that lived for less than a second may have written nothing: then its predecessor's loss is still at the end.
            is_short = killed - began < SECOND_TICKS
            assert is_short or whole >= killed - SECOND_TICKS - first, f"seed {seed}: more than a second lost"
            worker = Worker(instance)
            worker.send(*opening, msgspec.structs.replace(start, since_tick=first))
            for _ in range(len(opening) + 1):
                worker.wait_for(Done, feed)
            began = tick_now() + 2
            dead.append((killed - SECOND_TICKS, began))
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            feed()
            time.sleep(0.002)
        worker.send(StopRecording(room_id="r", recording_id="rec"))
        stopped = tick_now()
        end = worker.wait_for(RecordingFinished, feed)
    finally:
        worker.kill()
    assert end.error == "", f"seed {seed}"
    mixed, merged = read(end.path), read(end.multi_channel_path)
    ticks = len(mixed) // N
    assert abs(first + ticks - stopped) <= 2
    assert len(merged) == len(mixed) == ticks * N
    missing = 0
    for tick in range(ticks):
        at = first + tick
        frame = mixed[tick * N : (tick + 1) * N]
        if not frame.any():
            missing += 1
            assert any(since <= at <= until for since, until in dead), f"seed {seed}: tick {tick} is silent"
            continue
        np.testing.assert_array_equal(frame, sum(voice(row, at) for row in ROWS), f"seed {seed}, tick {tick}")
        for channel, row in enumerate(ROWS):
            np.testing.assert_array_equal(merged[tick * N : (tick + 1) * N, channel], voice(row, at))
    assert missing < ticks
    assert [(one.participant_id, one.channel, one.start_ms, one.end_ms) for one in end.channels] == [
        (str(row), channel, 0, ticks * TICK_NS // 1_000_000) for channel, row in enumerate(ROWS)
    ]
    for one in end.channels:
        np.testing.assert_array_equal(read(one.path), merged[:, one.channel])
    assert sorted(one.name for one in path.parent.iterdir() if one.suffix != ".wav") in ([], [f".{path.name}.json"])
