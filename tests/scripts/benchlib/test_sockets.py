"""The bench's WebSocket clients: what they say is what a server understands, and they know what they should hear."""

import base64
import json
from types import SimpleNamespace

import numpy as np
import pytest
from benchlib import sockets
from benchlib.server import BenchError
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

RATE_HZ = 16000


def told(text: bytes) -> bytes:
    """A server's frame."""
    return b"\x81" + (bytes([len(text)]) if len(text) < 126 else b"\x7e" + len(text).to_bytes(2, "big")) + text


def mix_of(*tones_hz: int) -> bytes:
    at = np.arange(RATE_HZ // 50) / RATE_HZ
    samples = sum(sockets.AMPLITUDE * np.sin(2 * np.pi * tone_hz * at) for tone_hz in tones_hz)
    audio = base64.b64encode(np.rint(samples + np.zeros(at.size)).astype("<i2").tobytes()).decode()
    return told(b'{"audio":"%b"}' % audio.encode())


@pytest.fixture
async def client():
    made = sockets.Client(500)
    made.connection_made(None)
    made.data_received(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
    return made


@pytest.mark.parametrize("rate_hz", [8000, 16000, 48000])
def test_what_it_says_is_20_ms_of_its_tone(rate_hz):
    server = ServerProtocol(state=State.OPEN)
    server.receive_data(sockets.frame_of(700, rate_hz))
    (frame,) = server.events_received()
    assert isinstance(frame, Frame)
    assert frame.opcode is Opcode.TEXT
    samples = np.frombuffer(base64.b64decode(json.loads(frame.data)["audio"]), "<i2")
    assert samples.size == rate_hz // 50
    assert np.argmax(np.abs(np.fft.rfft(samples))) * 50 == 700


@pytest.mark.parametrize("piece_bytes", [1, 7, 1000, 100_000])
async def test_frames_are_counted_however_they_are_cut(client, piece_bytes):
    data = told(b'{"type":"connected","sample_rate":16000}') + 3 * mix_of(700) + told(b'{"type":"ping"}') + mix_of(700)
    client.begin()
    for start in range(0, len(data), piece_bytes):
        client.data_received(data[start : start + piece_bytes])
    assert (await client.greeting)["sample_rate"] == RATE_HZ
    assert client.frames_heard == len(client.gaps_ms) == len(client.last) == 4


@pytest.mark.parametrize(
    ("heard", "is_right"), [((700, 900), True), ((700,), False), ((500, 700, 900), False), ((), False)]
)
async def test_it_hears_the_others_and_not_itself(client, heard, is_right):
    client.data_received(told(b"{}") + sockets.LISTEN_FRAMES * mix_of(*heard))
    assert client.hears_right({700, 900}, RATE_HZ) == is_right


async def test_a_refusal_is_told():
    refused = sockets.Client(500)
    refused.connection_made(SimpleNamespace(abort=lambda: None))
    refused.data_received(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
    with pytest.raises(BenchError, match="503"):
        await refused.greeting


async def test_a_lost_connection_is_told():
    lost = sockets.Client(500)
    lost.connection_lost(None)
    with pytest.raises(BenchError):
        await lost.greeting
