"""The zygote with real forks: spawning, handing over, adopting, leaving. The workers are real room workers."""

import contextlib
import os
import select
import signal
import time
from pathlib import Path

import msgspec
import pytest

from shm.channel import Channel, ChannelClosed
from shm.instance import create_instance
from shm.messages import (
    Adopt,
    Done,
    FromRoom,
    FromZygote,
    Hello,
    Leave,
    ListWorkers,
    OpenRoom,
    RoomInventoryPart,
    RoomStart,
    Spawn,
    Spawned,
    ZygoteStarted,
)
from workers.zygote import become_zygote

WAIT_S = 10


def readable(descriptor, wait_s):
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(wait_s * 1000))


class Bench:
    """The master's and control's part of the play."""

    def __init__(self):
        self.instance = create_instance("zygote-test", rows=64, state_dir="", sip_sockets=[])
        self.channel = Channel(self.instance.control_end, FromZygote)
        self.pid = 0
        self.workers = []
        self.start_zygote()

    def start_zygote(self):
        self.pid = os.fork()
        if self.pid == 0:
            become_zygote(self.instance)
        message, _ = self.next()
        assert message == ZygoteStarted(pid=self.pid)

    def next(self):
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            readable(self.channel.fileno(), 0.1)
            received = self.channel.receive_with_descriptors()
            if received is not None:
                return received
        raise AssertionError("the zygote is silent")

    def spawn(self, command_id, name):
        start = msgspec.msgpack.encode(RoomStart(stats_row=1))
        self.channel.send(Spawn(command_id=command_id, name=name, kind="room", start=start))
        message, descriptors = self.next()
        assert isinstance(message, Spawned)
        assert (message.command_id, message.name, message.start) == (command_id, name, start)
        worker = RoomWorker(message.pid, *descriptors)
        self.workers.append(worker)
        return worker

    def end(self, *, tell=True):
        for worker in self.workers if tell else ():
            with contextlib.suppress(OSError, ChannelClosed):
                worker.channel.send(Leave())
        self.instance.drop_master_ends()
        os.waitpid(self.pid, 0)


class RoomWorker:
    def __init__(self, pid, channel_fd, pid_fd):
        import socket

        self.pid, self.channel_fd, self.pid_fd = pid, channel_fd, pid_fd
        self.channel = Channel(socket.socket(fileno=channel_fd), FromRoom)

    def ask(self, command):
        self.channel.send(command)
        readable(self.channel.fileno(), WAIT_S)
        return self.channel.receive()

    def is_gone(self, wait_s):
        return readable(self.pid_fd, wait_s)

    @property
    def title(self):
        return Path(f"/proc/{self.pid}/cmdline").read_bytes().split(b"\0")[0].decode()


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.end()


def test_a_spawned_worker_answers_and_leaves_when_told(bench):
    worker = bench.spawn(1, "room r1")
    assert worker.ask(OpenRoom(command_id=5, room_id="r1", rate_hz=16000, phase=1)) == [Done(command_id=5)]
    assert worker.title == "roomtone: room r1"
    worker.channel.send(Leave())
    assert worker.is_gone(WAIT_S)


def test_the_same_spawn_twice_makes_one_process(bench):
    assert bench.spawn(1, "room a").pid == bench.spawn(1, "room a").pid
    assert bench.spawn(2, "room b").pid != bench.spawn(1, "room a").pid


def test_a_new_control_finds_the_living_and_goes_on_with_them(bench):
    first, second = bench.spawn(1, "room a"), bench.spawn(2, "room b")
    first.ask(OpenRoom(command_id=1, room_id="a", rate_hz=8000, phase=0))
    os.kill(second.pid, signal.SIGKILL)
    assert second.is_gone(WAIT_S)
    bench.channel.send(ListWorkers(command_id=3))
    message, descriptors = bench.next()
    assert message.pid == first.pid
    assert bench.next()[0] == Done(command_id=3)
    again = RoomWorker(message.pid, *descriptors)
    assert [part.room_id for part in again.ask(Hello(command_id=9))] == ["a", ""]


def test_workers_outlive_the_zygote_and_a_new_one_adopts_them(bench):
    worker = bench.spawn(1, "room a")
    os.kill(bench.pid, signal.SIGKILL)
    os.waitpid(bench.pid, 0)
    assert worker.ask(OpenRoom(command_id=1, room_id="a", rate_hz=8000, phase=0)) == [Done(command_id=1)]
    bench.start_zygote()
    adoption = Adopt(name="room a", kind="room", pid=worker.pid, start=b"s")
    bench.channel.send(adoption, (worker.channel_fd, worker.pid_fd))
    bench.channel.send(ListWorkers(command_id=2))
    message, _ = bench.next()
    assert (message.name, message.pid, message.start) == ("room a", worker.pid, b"s")
    assert bench.next()[0] == Done(command_id=2)


def test_a_worker_nobody_can_command_leaves(bench):
    worker = bench.spawn(1, "room a")
    os.kill(bench.pid, signal.SIGKILL)
    os.waitpid(bench.pid, 0)
    worker.channel.close()  # the last other end
    assert worker.is_gone(WAIT_S)
    bench.start_zygote()


def test_workers_ignore_what_service_managers_send_to_the_group(bench):
    worker = bench.spawn(1, "room a")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(worker.pid, number)
        os.kill(bench.pid, number)
    parts = worker.ask(Hello(command_id=1))
    assert parts == [RoomInventoryPart(last=True)]
    assert not worker.is_gone(0)


def test_all_leave_when_the_master_is_gone():
    bench = Bench()
    worker = bench.spawn(1, "room a")
    started = time.monotonic()
    bench.end(tell=False)
    assert worker.is_gone(0.1)
    assert time.monotonic() - started < 5
