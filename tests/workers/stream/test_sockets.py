"""Room WebSockets: real connections handed over as descriptors, real banks, and a room worker's clock."""

import asyncio
import base64
import contextlib
import json
import os
import socket

import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from shm import messages as wire
from shm.bank import HEARS_NOTHING

from .conftest import EVENT_S, RoomWorker, loudest_hz, sine

HEAD = (
    b"GET /v1/rooms/r/ws HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Door:
    """What gunicorn is: accepts a connection, reads its request, hands both to stream."""

    def __init__(self, control):
        self.control = control
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.port = self.listener.getsockname()[1]

    async def admit(self, participant_id, row, *, rate_hz=16_000, phase=0, generation=0):
        """The reply to AcceptSocket."""
        loop = asyncio.get_running_loop()
        connection, _ = await loop.sock_accept(self.listener)
        with connection:
            head = b""
            while b"\r\n\r\n" not in head:
                head += await loop.sock_recv(connection, 4096)
            return await self.control.do(
                wire.AcceptSocket,
                participant_id=participant_id,
                row=wire.Row(rate_hz=rate_hz, index=row, generation=generation),
                phase=phase,
                head=head,
                descriptors=[connection.fileno()],
            )

    async def open(self, participant_id="ws-1", row=1, **more):
        """A client that has been greeted."""
        admitting = asyncio.create_task(self.admit(participant_id, row, **more))
        client = await connect(f"ws://127.0.0.1:{self.port}/v1/rooms/r/ws", compression=None, ping_interval=None)
        assert isinstance(await admitting, wire.Done)
        client.greeting = json.loads(await client.recv())
        return client

    async def open_raw(self, participant_id="ws-1", row=1, *, behind=b"", **more):
        """A socket that has been upgraded, nothing read of it yet. `behind`: sent along with the request."""
        loop = asyncio.get_running_loop()
        raw = socket.socket()
        raw.setblocking(False)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(raw, ("127.0.0.1", self.port))
        await loop.sock_sendall(raw, HEAD + behind)
        assert isinstance(await self.admit(participant_id, row, **more), wire.Done)
        return raw


@pytest.fixture
async def door(control):
    made = Door(control)
    yield made
    made.listener.close()


def said(samples):
    return json.dumps({"audio": base64.b64encode(samples.tobytes()).decode()})


async def audio_frames(client, count, within=EVENT_S):
    frames = []
    async with asyncio.timeout(within):
        while len(frames) < count:
            message = json.loads(await client.recv())
            if "audio" in message:
                assert set(message) == {"audio"}
                frames.append(np.frombuffer(base64.b64decode(message["audio"], validate=True), np.int16))
    return frames


def numbered(row, source=None):
    """A mix whose frames carry their tick."""
    return lambda tick: {row: (np.full(320, tick % 30_000, np.int16), row if source is None else source)}


async def test_the_mix_is_heard_frame_by_frame(door, banks):
    with RoomWorker(banks[16_000], [1], numbered(1)):
        client = await door.open()
        assert client.greeting == {
            "type": "connected",
            "participant_id": "ws-1",
            "sample_rate": 16_000,
            "format": "pcm_s16le",
        }
        frames = await audio_frames(client, 50)
        assert {len(frame) for frame in frames} == {320}
        ticks = np.array([frame[0] for frame in frames])
        assert len(set(ticks)) == 50
        assert (np.diff(ticks) == 1).mean() > 0.9  # a loaded machine may be late; nothing comes twice or out of order
        assert (np.diff(ticks) > 0).all()
        await client.close()


@pytest.mark.parametrize(("rate_hz", "samples"), [(8_000, 160), (48_000, 960)])
async def test_other_rates_are_announced_and_used(door, banks, rate_hz, samples):
    frame = np.arange(samples, dtype=np.int16)
    with RoomWorker(banks[rate_hz], [2], lambda _: {2: (frame, 2)}, phase=3) as room:
        client = await door.open(row=2, rate_hz=rate_hz, phase=3)
        assert client.greeting["sample_rate"] == rate_hz
        assert np.array_equal((await audio_frames(client, 1))[0], frame)
        await client.send(said(frame))
        await room.wait(lambda: len(room.said(2)))
        assert np.array_equal(room.said(2), frame)
        await client.close()


async def test_a_burst_is_played_in_real_time(door, banks):
    tone = sine(440, 1.0)
    with RoomWorker(banks[16_000], [1]) as room:
        client = await door.open()
        await client.send(said(tone))
        await room.wait(lambda: len(room.said(1)) == len(tone))
        assert np.array_equal(room.said(1), tone)
        ticks = [tick for tick, frame in room.heard[1] if frame is not None]
        assert 49 <= ticks[-1] - ticks[0] <= 55
        await client.close()


async def test_many_small_and_odd_pieces(door, banks):
    """Any length, both spellings, in fragments, without padding; nonsense between is ignored."""
    tone = sine(440, 0.5)
    with RoomWorker(banks[16_000], [1]) as room:
        client = await door.open()
        pieces = np.split(tone, [37, 500, 1501, 1502, 4000, 7777])
        for number, piece in enumerate(pieces):
            encoded = base64.b64encode(piece.tobytes()).decode()
            message = json.dumps({"type": "audio", "audio": encoded.rstrip("=")})
            if number % 2:
                await client.send(message)
            else:
                await client.send([message[:20], message[20:21], message[21:]])
            await client.send(bytes(640))
            for nonsense in (
                "no json",
                "[]",
                '"x"',
                "{}",
                '{"audio":7}',
                '{"audio":"!!!!"}',
                '{"audio":"AAAA"}',
                '{"type":"dance","audio":"AAAAAAAA"}',
                '{"type":null}',
                "[" * 5000,
                '{"audio":"\U0001f600"}',
            ):
                await client.send(nonsense)
        await room.wait(lambda: len(room.said(1)) >= len(tone))
        heard = room.said(1)
        assert abs(loudest_hz(heard, 16_000) - 440) < 3
        assert np.array_equal(heard[: len(tone)], tone)
        await client.close()


async def test_pings_are_answered(door):
    client = await door.open()
    await client.send('{"type":"ping","event_id":17}')
    assert json.loads(await client.recv()) == {"type": "pong", "event_id": 17}
    await client.send('{"type":"ping"}')
    assert json.loads(await client.recv()) == {"type": "pong"}
    async with asyncio.timeout(EVENT_S):
        await (await client.ping())
    await client.close()


@pytest.mark.parametrize("word", ["stop", "hangup"])
async def test_stop(door, control, word):
    client = await door.open()
    assert "ws-1" in await control.inventory()
    await client.send(json.dumps({"type": word}))
    await control.event(wire.SocketClosed, participant_id="ws-1")
    with pytest.raises(ConnectionClosed) as closed:
        await client.recv()
    assert closed.value.rcvd.code == 1000
    assert "ws-1" not in await control.inventory()


async def test_closed_by_the_client(door, control):
    client = await door.open()
    await client.close()
    await control.event(wire.SocketClosed, participant_id="ws-1")
    assert client.close_code == 1000


async def test_closed_by_us(door, control):
    client = await door.open()
    await control.ok(wire.CloseSocket, participant_id="ws-1", code=1001)
    await control.event(wire.SocketClosed, participant_id="ws-1")
    with pytest.raises(ConnectionClosed) as closed:
        await client.recv()
    assert closed.value.rcvd.code == 1001
    await control.ok(wire.CloseSocket, participant_id="ws-1")


async def test_a_connection_that_breaks(door, control):
    raw = await door.open_raw()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    raw.close()
    await control.event(wire.SocketClosed, participant_id="ws-1")


async def test_too_large_a_message(door, control):
    client = await door.open()
    with contextlib.suppress(ConnectionClosed):  # it may be told before it has sent all
        await client.send("x" * (1024 * 1024 + 1))
    with pytest.raises(ConnectionClosed) as closed:
        await client.recv()
    assert closed.value.rcvd.code == 1009
    await control.event(wire.SocketClosed, participant_id="ws-1")


async def test_the_largest_message(door, control, banks):
    client = await door.open()
    await client.send("x" * 1024 * 1024)
    await client.send('{"type":"ping"}')
    assert json.loads(await client.recv()) == {"type": "pong"}
    await client.close()


@pytest.mark.parametrize("frame", [b"\x81\x05hello", b"\xc1\x80abcd", b"\x83\x80abcd", b"\x80\x80abcd"])
async def test_who_breaks_the_protocol_is_told_so(door, control, frame):
    """Not masked, reserved bits, unknown kind, a continuation of nothing."""
    raw = await door.open_raw()
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(raw, frame)
    await control.event(wire.SocketClosed, participant_id="ws-1")
    data = b""
    async with asyncio.timeout(EVENT_S):
        while piece := await loop.sock_recv(raw, 4096):
            data += piece
    assert b"\x03\xea" in data  # 1002
    raw.close()


async def test_frames_in_single_bytes(door, banks):
    raw = await door.open_raw()
    loop = asyncio.get_running_loop()
    text = b'{"type":"ping","event_id":5}'
    for byte in b"\x81" + bytes([0x80 | len(text)]) + b"\0\0\0\0" + text:
        await loop.sock_sendall(raw, bytes([byte]))
    data = b""
    async with asyncio.timeout(EVENT_S):
        while b'{"type":"pong","event_id":5}' not in data:
            data += await loop.sock_recv(raw, 4096)
    raw.close()


async def test_what_came_behind_the_request_is_looked_at_at_once(door):
    text = b'{"type":"ping","event_id":5}'
    frame = b"\x81" + bytes([0x80 | len(text)]) + b"\0\0\0\0" + text
    raw = await door.open_raw(behind=frame + frame[:9])
    loop = asyncio.get_running_loop()
    data = b""
    async with asyncio.timeout(EVENT_S):
        while b'{"type":"pong","event_id":5}' not in data:
            data += await loop.sock_recv(raw, 4096)
        await loop.sock_sendall(raw, frame[9:])
        while data.count(b'{"type":"pong","event_id":5}') < 2:
            data += await loop.sock_recv(raw, 4096)
    raw.close()


async def test_no_upgrade(door, control):
    loop = asyncio.get_running_loop()
    with socket.socket() as raw:
        raw.setblocking(False)
        await loop.sock_connect(raw, ("127.0.0.1", door.port))
        await loop.sock_sendall(raw, b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
        reply = await door.admit("ws-1", 1)
        assert isinstance(reply, wire.Failed)
        assert reply.blame == "caller"
        assert (await loop.sock_recv(raw, 4096)).startswith(b"HTTP/1.1 426")
    assert "ws-1" not in await control.inventory()


async def test_a_descriptor_that_is_no_socket(control):
    read_end, write_end = os.pipe()
    reply = await control.do(
        wire.AcceptSocket,
        participant_id="ws-1",
        row=wire.Row(rate_hz=16_000, index=1, generation=0),
        phase=0,
        head=HEAD,
        descriptors=[read_end],
    )
    assert isinstance(reply, wire.Failed)
    os.close(read_end)
    with pytest.raises(BrokenPipeError):  # nobody holds the other end any more
        os.write(write_end, b"x")
    os.close(write_end)


async def test_the_deaf_hear_nothing(door, banks):
    hears = HEARS_NOTHING
    with RoomWorker(banks[16_000], [1], lambda tick: {1: (None, hears)}):
        client = await door.open()
        await asyncio.sleep(0.1)  # frames would have come
        await client.send('{"type":"ping"}')
        assert json.loads(await client.recv()) == {"type": "pong"}
        hears = 1
        await audio_frames(client, 1)
        await client.close()


async def test_a_shared_mix_reaches_all(door, banks):
    def says(tick):
        frame = np.full(320, tick % 30_000, np.int16)
        return dict.fromkeys((1, 2, 3), (frame, 9))

    with RoomWorker(banks[16_000], [1, 2, 3], says):
        clients = [await door.open(f"ws-{row}", row) for row in (1, 2, 3)]
        for client in clients:
            ticks = [frame[0] for frame in await audio_frames(client, 20)]
            assert ticks == sorted(set(ticks))
        for client in clients:
            await client.close()


async def test_a_row_of_somebody_else_is_not_written(door, banks, control):
    with RoomWorker(banks[16_000], [1]) as room:
        client = await door.open(generation=3)
        await client.send(said(sine(440, 0.1)))
        await client.send('{"type":"ping"}')
        await client.recv()
        await asyncio.sleep(0.1)
        assert not len(room.said(1))
        await client.close()


async def test_who_does_not_read_loses_frames_and_then_the_connection(door, control, banks):
    def says(tick):
        return {row: (np.full(320, tick % 30_000, np.int16), row) for row in (1, 2)}

    with RoomWorker(banks[16_000], [1, 2], says):
        deaf = await door.open_raw("ws-deaf", 1)
        client = await door.open("ws-2", 2)
        reading = asyncio.create_task(audio_frames(client, 300))
        await control.event(wire.SocketClosed, participant_id="ws-deaf")
        ticks = np.array([frame[0] for frame in await reading])
        assert (np.diff(ticks) == 1).mean() > 0.9  # nobody else was affected
        deaf.close()
        await client.close()


async def test_leaving_says_goodbye(door, control):
    client = await door.open()
    control.channel.send(wire.Leave())
    with pytest.raises(ConnectionClosed) as closed:
        await client.recv()
    assert closed.value.rcvd.code == 1001
    assert await control.gone() == 0
