"""Channels and the outbox over real sockets."""

import os

import pytest

from shm import channel as channel_module
from shm.channel import Channel, ChannelClosed, channel_pair
from shm.errors import WireError
from shm.messages import (
    Acknowledge,
    CloseLeg,
    DigitReceived,
    Done,
    FromRtp,
    FromZygote,
    LogLine,
    MediaTimedOut,
    Spawned,
    ToRtp,
)
from shm.outbox import Outbox


@pytest.fixture
def ends():
    left, right = channel_pair()
    yield Channel(left, FromRtp), Channel(right, ToRtp)
    left.close()
    right.close()


def fill(sender):
    """Send until the socket takes no more; how many went in."""
    sent = 0
    while sender.flush() and sent < 1_000_000:
        sender.send(MediaTimedOut(number=sent, leg_id="x" * 1000))
        sent += 1
    return sent


def test_messages_arrive_in_order_and_typed(ends):
    control, worker = ends
    control.send(CloseLeg(command_id=1, leg_id="a"))
    control.send(Acknowledge(number=7))
    assert worker.receive() == [CloseLeg(command_id=1, leg_id="a"), Acknowledge(number=7)]
    assert worker.receive() == []


def test_thousands_of_small_messages_fit(ends):
    control, worker = ends
    for number in range(5000):
        worker.send(Done(command_id=number))
    assert worker.flush()
    assert [one.command_id for one in control.receive()] == list(range(5000))


def test_a_full_socket_keeps_endings_and_drops_telemetry(ends):
    control, worker = ends
    sent = fill(worker)
    worker.send(LogLine(level="info", event="dropped"))
    assert worker.dropped == 1
    worker.send(DigitReceived(number=99, leg_id="a", digit="5"))
    received = control.receive()
    assert worker.flush()
    received += control.receive()
    assert len(received) == sent + 1
    assert received[-1] == DigitReceived(number=99, leg_id="a", digit="5")


def test_a_deaf_other_side_ends_the_process_not_its_memory(ends, monkeypatch):
    monkeypatch.setattr(channel_module, "QUEUE_LIMIT", 10)
    _control, worker = ends
    fill(worker)
    for number in range(9):
        worker.send(MediaTimedOut(number=number, leg_id="a"))
    with pytest.raises(WireError, match="deaf"):
        worker.send(MediaTimedOut(number=9, leg_id="a"))


def test_an_oversized_message_is_our_own_fault(ends):
    with pytest.raises(WireError, match="parts"):
        ends[0].send(CloseLeg(command_id=1, leg_id="a" * 70_000))


def test_closed_means_that_nobody_holds_the_other_end():
    left, right = channel_pair()
    kept = right.dup()
    reader = Channel(left, FromRtp)
    right.close()
    assert reader.receive() == []  # the zygote would still hold a duplicate
    kept.close()
    with pytest.raises(ChannelClosed):
        reader.receive()


def test_nonsense_is_a_wire_error():
    left, right = channel_pair()
    right.send(b"\xc1not msgpack")
    with pytest.raises(WireError):
        Channel(left, FromRtp).receive()


def test_descriptors_travel_with_their_message():
    left, right = channel_pair()
    read_fd, write_fd = os.pipe()
    Channel(left, FromZygote).send(
        Spawned(command_id=1, name="rtp 0", kind="rtp", pid=5, start=b""), (read_fd, write_fd)
    )
    message, descriptors = Channel(right, FromZygote).receive_with_descriptors()
    assert message.name == "rtp 0"
    os.write(descriptors[1], b"!")
    assert os.read(read_fd, 1) == b"!"
    for descriptor in (read_fd, write_fd, *descriptors):
        os.close(descriptor)


def test_the_outbox_repeats_what_was_not_acknowledged(ends):
    control, worker = ends
    outbox = Outbox(worker)
    for digit in "123":
        outbox.post(DigitReceived(leg_id="a", digit=digit))
    assert [one.number for one in control.receive()] == [1, 2, 3]
    outbox.acknowledge(2)
    outbox.repeat()
    assert control.receive() == [DigitReceived(number=3, leg_id="a", digit="3")]
