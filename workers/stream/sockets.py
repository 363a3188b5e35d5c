"""Room WebSockets: clients who speak and hear as JSON text frames (contract media.md, section 3; rooms.md, A20).

Runs in: stream.
Owns: the clients, what they said and have not been heard with, their time limits.

Rules
1. There is no task and no event for a client: all of one rate and phase are served in one batch a tick, right after the mix.
2. A mix that many hear is encoded once. A client who has not taken LAG_FRAMES of what it was sent loses the new one; who takes
   nothing for STALL_TICKS is dropped.
3. Input is played at its pace (`playout.py`): at most 10 s are held, the newest message beyond is dropped, quiet frames are left
   out while more than 200 ms wait.
4. A ping of ours and one of the protocol every PING_TICKS; IDLE_TICKS without a frame of any kind end the connection.
5. `SocketClosed` is posted once, when the client can say and hear nothing any more, for whatever reason.

Not here: framing, the closing → `websocket.py`; the upgrade request → control, which hands the connection over.
"""

import socket
from binascii import b2a_base64
from collections.abc import Callable
from itertools import compress

import msgspec
import numpy as np

from shm import messages as wire
from shm.bank import RX_SLOTS, TX_SLOTS, Bank
from shm.errors import CallerError
from workers.stream.playout import Playout
from workers.stream.tick import Ticker
from workers.stream.websocket import WebSocket

LIMIT_S = 10
TRIM_MS = 200
LAG_FRAMES = 3
TICKS_PER_SECOND = 50
STALL_TICKS = 5 * TICKS_PER_SECOND
PING_TICKS = 30 * TICKS_PER_SECOND
IDLE_TICKS = 60 * TICKS_PER_SECOND
CLOSE_TICKS = TICKS_PER_SECOND  # how long the peer has for its goodbye
GOING_AWAY = 1001

Post = Callable[[wire.Event], None]


class _Heard(msgspec.Struct):
    """What a client may say; anything else is ignored."""

    type: str = "audio"
    audio: bytes = b""
    event_id: msgspec.Raw = msgspec.Raw(b"")


class _LooseAudio(msgspec.Struct):
    """Audio whose base64 lacks its padding."""

    audio: str
    type: str = "audio"


_heard = msgspec.json.Decoder(_Heard)
_loose = msgspec.json.Decoder(_LooseAudio)
_base64 = msgspec.json.Decoder(bytes)


def parse(message: bytes) -> _Heard | None:
    """None for what is to be ignored."""
    try:
        return _heard.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        loose = _loose.decode(message)
        padding = "=" * (-len(loose.audio) % 4)
        return _Heard(loose.type, _base64.decode(f'"{loose.audio}{padding}"'.encode()))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class _Client:
    def __init__(self, participant_id: str, row: wire.Row, channel: WebSocket, playout: Playout) -> None:
        self.participant_id = participant_id
        self.row = row
        self.channel = channel
        self.playout = playout
        self.sent_tick = 0
        self.age_ticks = 0
        self.heard_at = 0  # in ticks of its age
        self.stalled_ticks = 0
        self.closing_ticks = 0
        self.pings = 0
        self.seen_frames = 0

    def listen(self) -> None:
        """Take what has come in."""
        channel = self.channel
        for message in channel.receive():
            heard = parse(message)
            if heard is None or channel.is_closing:
                continue
            if heard.type == "audio":
                if heard.audio and not len(heard.audio) % 2:
                    self.playout.push(heard.audio)
            elif heard.type in {"stop", "hangup"}:
                channel.close()
            elif heard.type == "ping":
                event_id = bytes(heard.event_id)
                channel.send_text(b'{"type":"pong","event_id":%b}' % event_id if event_id else b'{"type":"pong"}')
        if channel.frames_received != self.seen_frames:
            self.seen_frames = channel.frames_received
            self.heard_at = self.age_ticks

    def keep_time(self) -> None:
        """Once a tick."""
        self.age_ticks += 1
        if self.channel.is_closing:
            self.closing_ticks += 1
            if self.closing_ticks > CLOSE_TICKS:
                self.channel.abort()
        elif self.stalled_ticks > STALL_TICKS:
            self.channel.abort()
        elif self.age_ticks - self.heard_at > IDLE_TICKS:
            self.channel.close(GOING_AWAY)
        elif self.age_ticks % PING_TICKS == 0:
            self.pings += 1
            self.channel.send_text(b'{"type":"ping","event_id":%d}' % self.pings)
            self.channel.ping()

    def hear(self, frame: bytes) -> None:
        """20 ms of the mix, as a frame of the protocol."""
        if self.channel.is_behind():
            self.stalled_ticks += 1
        else:
            self.stalled_ticks = 0
            self.channel.send_frame(frame)


class Sockets:
    """All clients of this process."""

    def __init__(self, banks: dict[int, Bank], ticker: Ticker, post: Post, *, lead_ms: int = 0) -> None:
        self._banks = banks
        self._ticker = ticker
        self._post = post
        self._lead_ms = lead_ms
        self._batches: dict[tuple[int, int], _Batch] = {}
        self._places: dict[str, _Batch] = {}

    def ids(self) -> list[str]:
        return list(self._places)

    def accept(self, command: wire.AcceptSocket, descriptors: list[int]) -> None:
        """Takes the descriptor. Raises CallerError when the request is no upgrade."""
        if len(descriptors) != 1:
            raise CallerError("a connection has one descriptor")
        connection = socket.socket(fileno=descriptors[0])
        descriptors.clear()
        rate_hz = command.row.rate_hz
        key = rate_hz, command.phase
        batch = self._batches.get(key)
        if batch is None:
            batch = self._batches[key] = _Batch(self._banks[rate_hz])
        channel = WebSocket(connection, command.head, lag_bytes=LAG_FRAMES * batch.wire_bytes)
        byte_rate = 2 * rate_hz
        playout = Playout(
            byte_rate // TICKS_PER_SECOND,
            limit_bytes=LIMIT_S * byte_rate,
            trim_bytes=TRIM_MS * byte_rate // 1000 + self._lead_ms * byte_rate // 1000,
            lead_bytes=-(-self._lead_ms // 20) * byte_rate // TICKS_PER_SECOND,
        )
        client = _Client(command.participant_id, command.row, channel, playout)
        channel.send_text(
            msgspec.json.encode(
                {
                    "type": "connected",
                    "participant_id": command.participant_id,
                    "sample_rate": rate_hz,
                    "format": "pcm_s16le",
                }
            )
        )
        if not batch.clients:
            batch.on_tick = lambda mixed: self._serve(batch, mixed)
            self._ticker.join(command.phase, batch.on_tick)
        batch.change([*batch.clients, client])
        self._places[command.participant_id] = batch

    def close(self, participant_id: str, code: int) -> None:
        """Begin the end; unknown ones are closed already."""
        batch = self._places.get(participant_id)
        for client in batch.clients if batch else ():
            if client.participant_id == participant_id:
                client.channel.close(code)
                self._forget(client)

    def close_all(self) -> None:
        """Everybody gets a goodbye."""
        for participant_id in self.ids():
            self.close(participant_id, GOING_AWAY)

    def _forget(self, client: _Client) -> None:
        client.playout.flush()
        if self._places.pop(client.participant_id, None) is not None:
            self._post(wire.SocketClosed(participant_id=client.participant_id))

    def _serve(self, batch: "_Batch", mixed: int) -> None:
        batch.serve(mixed)
        ending = [client for client in batch.clients if client.channel.is_closing or client.channel.is_gone]
        for client in ending:
            self._forget(client)
        if any(client.channel.is_gone for client in ending):
            batch.change([client for client in batch.clients if not client.channel.is_gone])
            if not batch.clients:
                ((rate_hz, phase),) = (key for key, value in self._batches.items() if value is batch)
                self._ticker.leave(phase, batch.on_tick)
                del self._batches[rate_hz, phase]


class _Batch:
    """Clients of one rate and phase."""

    on_tick: Callable[[int], None]

    def __init__(self, bank: Bank) -> None:
        self._bank = bank
        self.clients: list[_Client] = []
        self._rows = np.zeros(0, np.int64)
        self._generations = np.zeros(0, np.int64)
        self._said_tick = 0
        encoded = len(b2a_base64(bytes(2 * bank.frame_samples), newline=False)) + len(b'{"audio":""}')
        self._head = b"\x81\x7e" + encoded.to_bytes(2, "big") + b'{"audio":"'
        self.wire_bytes = encoded + 4

    def change(self, clients: list[_Client]) -> None:
        """Who is served from now on."""
        self.clients = clients
        self._rows = np.array([client.row.index for client in clients], np.int64)
        self._generations = np.array([client.row.generation for client in clients], np.int64)

    def serve(self, mixed: int) -> None:
        """Everything of one tick."""
        for client in self.clients:
            client.listen()
            client.keep_time()
        self._say(mixed + 1)
        for tick in (mixed - 1, mixed):  # the one before: its mixer was late then
            self._tell(tick)

    def _say(self, tick: int) -> None:
        """What the clients say, into their rows."""
        if tick <= self._said_tick:
            return
        self._said_tick = tick
        owned = (self._bank.leg["generation"][self._rows] == self._generations).tolist()
        frames = [client.playout.take() if own else None for client, own in zip(self.clients, owned, strict=True)]
        speaking = [frame is not None for frame in frames]
        if any(speaking):
            rows = self._rows[speaking]
            spoken = np.frombuffer(b"".join(compress(frames, speaking)), np.int16)  # type: ignore[arg-type]
            self._bank.rx[rows, tick % RX_SLOTS] = spoken.reshape(len(rows), -1)
            self._bank.rx_tick[rows, tick % RX_SLOTS] = tick

    def _tell(self, tick: int) -> None:
        """What was mixed for the clients, to those who have not got it."""
        slot = tick % TX_SLOTS
        fresh = (self._bank.tx_tick[self._rows, slot] == tick).tolist()
        sources = self._bank.tx_from[self._rows, slot].tolist()
        encoded: dict[int, bytes] = {}
        for client, is_fresh, source in zip(self.clients, fresh, sources, strict=True):
            if (
                not is_fresh
                or source < 0
                or client.sent_tick >= tick
                or client.channel.is_closing
                or client.channel.is_gone
            ):
                continue
            frame = encoded.get(source)
            if frame is None:
                audio = b2a_base64(self._bank.tx[source, slot], newline=False)
                frame = encoded[source] = b'%b%b"}' % (self._head, audio)
            client.sent_tick = tick
            client.hear(frame)
