"""A room worker's desk without its process: commands over a real channel, ticks by a counter instead of a clock."""

import os
import time
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from shm.bank import HEARS_NOTHING, RX_SLOTS, TX_SLOTS, Bank
from shm.channel import Channel, channel_pair
from shm.clip import ClipWriter
from shm.messages import (
    AddParticipant,
    Done,
    Failed,
    FromRoom,
    OpenRoom,
    RemoveParticipant,
    RoomStart,
    Row,
    StartPlayback,
    ToRoom,
)
from shm.stats import Stats
from workers.room.loop import mix_phase
from workers.room.main import Desk

FIRST_TICK = 1_000_000
ANSWER_S = 20.0


class Stage:
    """One desk. `tick` is the next one to be mixed."""

    def __init__(self, banks, *, comfort_noise=False, tick=FIRST_TICK):
        self.banks = banks
        control_end, worker_end = channel_pair()
        self.control = Channel(control_end, FromRoom)
        instance = SimpleNamespace(banks=banks, stats=Stats(4, "stage"))
        self.desk = Desk(instance, Channel(worker_end, ToRoom), RoomStart(stats_row=0, comfort_noise=comfort_noise))
        self.tick = tick
        self.events = []
        self.descriptors = []
        self._commands = 0

    def send(self, command, *descriptors):
        """Let the desk do it; the command's number."""
        self._commands += 1
        self.control.send(msgspec.structs.replace(command, command_id=self._commands), descriptors)
        self.desk.serve()
        return self._commands

    def call(self, command, *descriptors):
        """As `send`, then wait for the answer."""
        number = self.send(command, *descriptors)
        return self.wait_for(lambda one: isinstance(one, Done | Failed) and one.command_id == number)

    def wait_for(self, wanted, *, ticking=False):
        """The first event (type or predicate) not taken yet that is wanted; others stay."""
        until = time.monotonic() + ANSWER_S
        while time.monotonic() < until:
            self.settle()
            for index, event in enumerate(self.events):
                if isinstance(event, wanted) if isinstance(wanted, type) else wanted(event):
                    return self.events.pop(index)
            if ticking:
                self.run(1)
            else:
                time.sleep(0.001)  # its threads are at work
        raise AssertionError(f"not in time; there are {self.events}")

    def settle(self):
        self.desk.settle()
        while (received := self.control.receive_with_descriptors()) is not None:
            self.events.append(received[0])
            self.descriptors.append(received[1])

    def run(self, ticks, say=None):
        """Mix `ticks` ticks. say(tick) -> {row: frame} is put into the 16 kHz bank before each."""
        for _ in range(ticks):
            tick = self.tick
            for phase in range(4):
                self.desk.membership.apply_due(tick)
                if say is not None and phase == 0:
                    for row, frame in say(tick).items():
                        self.say(row, frame)
                mix_phase(self.desk.membership, phase, tick)
            self.tick += 1
            self.settle()

    def say(self, row, frame, rate_hz=16000):
        bank = self.banks[rate_hz]
        bank.rx[row, self.tick % RX_SLOTS] = frame
        bank.rx_tick[row, self.tick % RX_SLOTS] = self.tick

    def heard(self, row, rate_hz=16000):
        """What a row heard in the latest tick; None for nothing."""
        bank, slot = self.banks[rate_hz], (self.tick - 1) % TX_SLOTS
        assert bank.tx_tick[row, slot] == self.tick - 1
        source = bank.tx_from[row, slot]
        return None if source == HEARS_NOTHING else bank.tx[source, slot].copy()

    def open(self, room_id="r", rate_hz=16000, phase=0):
        assert isinstance(self.call(OpenRoom(room_id=room_id, rate_hz=rate_hz, phase=phase)), Done)

    def add(self, leg_id, row, room_id="r", rate_hz=16000, **more):
        place = Row(rate_hz=rate_hz, index=row, generation=0)
        assert isinstance(self.call(AddParticipant(room_id=room_id, leg_id=leg_id, row=place, **more)), Done)

    def remove(self, leg_id, room_id="r"):
        assert isinstance(self.call(RemoveParticipant(room_id=room_id, leg_id=leg_id)), Done)

    def play(self, samples, playback_id="pb", **more):
        """A complete clip of these samples."""
        writer = clip(samples)
        try:
            answer = self.call(StartPlayback(room_id="r", playback_id=playback_id, **more), writer.descriptor)
        finally:
            writer.close()
        assert isinstance(answer, Done), answer

    def close(self):
        self.desk.recordings.end()


def clip(samples, *, complete=True, limit=0):
    writer = ClipWriter(max(limit, len(samples), 1))
    writer.append(np.asarray(samples, np.int16))
    if complete:
        writer.complete()
    return writer


@pytest.fixture(scope="session")
def banks():
    return {rate_hz: Bank(rate_hz, 64, f"stage-{os.getpid()}") for rate_hz in (8000, 16000, 48000)}


@pytest.fixture
def new_stage(banks):
    for bank in banks.values():
        bank.rx_tick[:] = 0
    stages = []

    def make(**more):
        stages.append(Stage(banks, **more))
        return stages[-1]

    yield make
    for stage in stages:
        stage.close()


@pytest.fixture
def stage(new_stage):
    made = new_stage()
    made.open()
    return made
