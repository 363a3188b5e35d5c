"""The time limits of a room WebSocket, on ticks that a test counts itself: pings, silence, a peer that takes nothing."""

import socket

import pytest
from websockets.frames import CloseCode, Opcode
from websockets.http11 import Response
from websockets.protocol import CLIENT, Protocol, State

from shm import messages as wire
from workers.stream import sockets
from workers.stream.playout import Playout
from workers.stream.websocket import WebSocket

HEAD = (
    b"GET /v1/rooms/r/ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
FRAME = b"\x81\x7e\x03\x58" + b" " * 856  # as large as one of audio at 16 kHz


class Pair:
    """A client as stream has it, and its peer, who reads and answers only when told to."""

    def __init__(self):
        ours, self.peer = socket.socketpair()
        self.peer.setblocking(False)
        channel = WebSocket(ours, HEAD, lag_bytes=3 * len(FRAME))
        row = wire.Row(rate_hz=16_000, index=0, generation=0)
        self.client = sockets._Client("ws-1", row, channel, Playout(640, limit_bytes=320_000))
        self.protocol = Protocol(CLIENT, state=State.OPEN)
        _, _, self.behind = self.peer.recv(4096).partition(b"\r\n\r\n")

    def pass_ticks(self, count, *, hears=False):
        for _ in range(count):
            self.client.listen()
            self.client.keep_time()
            if hears and not self.client.channel.is_gone:
                self.client.hear(FRAME)

    def received(self):
        """Frames that came since the last look; what the protocol answers is on its way then."""
        try:
            self.protocol.receive_data(self.behind + self.peer.recv(1 << 20))
        except BlockingIOError:
            return []
        self.behind = b""
        for answer in self.protocol.data_to_send():
            self.peer.send(answer)
        return [event for event in self.protocol.events_received() if not isinstance(event, Response)]


@pytest.fixture
def pair():
    made = Pair()
    yield made
    made.client.channel.abort()
    made.peer.close()


def test_a_ping_of_each_kind_every_30_s(pair):
    pair.pass_ticks(sockets.PING_TICKS - 1)
    assert pair.received() == []
    for number in (1, 2):
        pair.pass_ticks(1 if number == 1 else sockets.PING_TICKS)
        text, ping = pair.received()
        assert (text.opcode, bytes(text.data)) == (Opcode.TEXT, b'{"type":"ping","event_id":%d}' % number)
        assert ping.opcode is Opcode.PING


def test_who_only_answers_pings_stays(pair):
    for _ in range(10):
        pair.pass_ticks(sockets.PING_TICKS)
        assert pair.received()
    assert not pair.client.channel.is_closing


def test_who_is_silent_for_60_s_is_sent_away_and_then_cut_off(pair):
    pair.pass_ticks(sockets.IDLE_TICKS)
    assert not pair.client.channel.is_closing
    pair.pass_ticks(1)
    assert pair.client.channel.is_closing
    goodbye = pair.received()[-1]
    assert (goodbye.opcode, bytes(goodbye.data)) == (Opcode.CLOSE, CloseCode.GOING_AWAY.to_bytes(2, "big"))


def test_who_does_not_say_goodbye_is_cut_off(pair):
    pair.client.channel.close()
    pair.pass_ticks(sockets.CLOSE_TICKS)
    assert not pair.client.channel.is_gone
    pair.pass_ticks(1)
    assert pair.client.channel.is_gone


def test_who_takes_nothing_for_5_s_is_cut_off(pair):
    while not pair.client.channel.is_behind():
        pair.client.hear(FRAME)
    pair.pass_ticks(sockets.STALL_TICKS, hears=True)
    assert not pair.client.channel.is_gone
    pair.pass_ticks(3, hears=True)
    assert pair.client.channel.is_gone


def test_who_takes_something_in_time_stays(pair):
    for _ in range(4):
        pair.pass_ticks(sockets.STALL_TICKS - 2, hears=True)
        while pair.client.channel.is_behind():
            assert pair.received()
    assert not pair.client.channel.is_gone
