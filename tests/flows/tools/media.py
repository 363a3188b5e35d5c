"""A phone's RTP side: one UDP socket that sends a tone (or silence, samples, digits) and keeps all it receives.

Owns the socket, the sending clock and the list of received packets.

Rules
1. Sending follows absolute deadlines; after a stall of the event loop it catches up, so its timeline never drifts.
2. Arrival times are the kernel's (SO_TIMESTAMPNS), moved to the monotonic clock: a busy event loop does not blur them.
3. Digits (RFC 4733) suspend the audio; the audio's timestamps run on beneath them.
4. RTCP received on the media port is kept in `rtcp`; a sender report goes out every `rtcp_interval_s`.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np

from tests.flows.tools import rtp
from tests.flows.tools.codecs import CODECS, Codec, Samples, sine
from tests.flows.tools.history import History
from tests.flows.tools.recording import Recording, record
from tests.flows.tools.spectrum import HEARD_DB, SILENT_DB, level_db

SO_TIMESTAMPNS = 35
TELEPHONE_EVENT = 101


class MediaRelay(Protocol):
    """Stands between this phone and its peer (relay.py)."""

    def announced(self, own: tuple[str, int]) -> tuple[str, int]:
        """The address to name in SDP instead of the phone's own."""

    def toward(self, remote: tuple[str, int]) -> tuple[str, int]:
        """Where to send instead of straight to the peer."""


class Media:
    def __init__(
        self,
        host: str = "127.0.0.1",
        *,
        tone_hz: float | None = None,
        amplitude: float = 4000.0,
        ptime_ms: int = 20,
        rtcp_interval_s: float = 1.0,
        relay: MediaRelay | None = None,
    ) -> None:
        self.host = host
        self.tone_hz, self.amplitude, self.ptime_ms = tone_hz, amplitude, ptime_ms
        self.rtcp_interval_s = rtcp_interval_s
        self.remote: tuple[str, int] | None = None
        self.codec = CODECS["PCMU"]
        self.payload_type = 0
        self.event_payload_type = TELEPHONE_EVENT
        self.decoders: dict[int, Codec] = {}
        self.ssrc = secrets.randbits(32)
        self.sequence = secrets.randbits(16)
        self.timestamp = secrets.randbits(32)
        self.packets: list[rtp.Packet] = []
        self.rtcp: History[tuple[list[rtp.RtcpReport], list[int]]] = History("RTCP")
        self.sent_packets = self.sent_octets = 0
        self.paused = False  # no packets at all, as a phone that fell silent
        self.lose: Callable[[int], bool] = lambda _sequence: False
        self._relay = relay
        self._samples: Samples | None = None
        self._sample_at = 0
        self._encode = self.codec.encoder()
        self._timer: asyncio.TimerHandle | None = None
        self._deadline_s = 0.0
        self._next_rtcp_s = 0.0
        self._mark_next = True
        self._digits: list[tuple[bytes, bool]] = []  # payload and marker of the event packets still to be sent
        self._digits_done: asyncio.Future[None] | None = None
        self._event_timestamp = 0
        self._arrived: History[int] = History("audio packets", str)
        self._open()

    # --- the socket -------------------------------------------------------------------------------------------

    def _open(self, port: int = 0) -> None:
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.bind((self.host, port))
        self.port: int = self.socket.getsockname()[1]
        asyncio.get_running_loop().add_reader(self.socket.fileno(), self._receive)

    @property
    def announced(self) -> tuple[str, int]:
        """What the session description names: our own address, or the relay's."""
        return self._relay.announced((self.host, self.port)) if self._relay else (self.host, self.port)

    def move(self) -> None:
        """Take a new port, as a phone that roams; announce it with a re-INVITE."""
        self._shut()
        self._open()

    def _shut(self) -> None:
        asyncio.get_running_loop().remove_reader(self.socket.fileno())
        self.socket.close()

    def close(self) -> None:
        self.stop()
        self._shut()

    def _receive(self) -> None:
        while True:
            try:
                data, ancillary, _, source = self.socket.recvmsg(4096, 64)
            except BlockingIOError:
                return
            except OSError:  # an ICMP unreachable is reported here once; the socket stays usable
                continue
            arrived_s = time.monotonic()
            for _, kind, value in ancillary:
                if kind == SO_TIMESTAMPNS:
                    seconds, nanos = struct.unpack("qq", value[:16])
                    arrived_s -= time.time() - (seconds + nanos * 1e-9)
            if rtp.is_rtcp(data):
                self.rtcp.add(rtp.parse_rtcp(data))
            elif (packet := rtp.parse(data, arrived_s, source)) is not None:
                self.packets.append(packet)
                if packet.payload_type in self.decoders:
                    self._arrived.add(len(self.packets))

    # --- sending ----------------------------------------------------------------------------------------------

    def start(
        self,
        remote: tuple[str, int],
        codec: Codec,
        payload_type: int,
        *,
        event_payload_type: int | None = TELEPHONE_EVENT,
        decoders: dict[int, Codec] | None = None,
    ) -> None:
        """Send to `remote`; called again by a re-INVITE it changes address and codec and keeps SSRC and sequence."""
        self.remote = self._relay.toward(remote) if self._relay else remote
        if codec is not self.codec or payload_type != self.payload_type:
            self._encode = codec.encoder()
        self.codec, self.payload_type = codec, payload_type
        self.event_payload_type = event_payload_type if event_payload_type is not None else -1
        self.decoders = decoders or {payload_type: codec}
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._deadline_s = self._next_rtcp_s = loop.time()
            self._timer = loop.call_at(self._deadline_s, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def say(self, *, tone_hz: float | None = None, samples: Samples | None = None, amplitude: float = 4000.0) -> None:
        """From the next packet on: this tone, or these samples in a loop (in the codec's rate), or silence."""
        self.tone_hz, self._samples, self.amplitude = tone_hz, samples, amplitude

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while self._deadline_s <= loop.time():
            self._send_one()
            self._deadline_s += self.ptime_ms / 1000
        if loop.time() >= self._next_rtcp_s and not self.paused:
            self._next_rtcp_s = loop.time() + self.rtcp_interval_s
            self.send_rtcp()
        self._timer = loop.call_at(self._deadline_s, self._tick)

    def _send_one(self) -> None:
        count = self.codec.rate_hz * self.ptime_ms // 1000
        if not self.paused:
            if self._digits:
                self._send_digit()
            else:
                payload = self._encode(self._next_samples(count))
                self.send(self.payload_type, self.timestamp, payload, marker=self._mark_next)
                self._mark_next = False
        else:
            self._mark_next = True
        self._sample_at += count
        self.timestamp = (self.timestamp + self.codec.clock_hz * self.ptime_ms // 1000) & 0xFFFFFFFF

    def _next_samples(self, count: int) -> Samples:
        if self._samples is not None:
            return np.take(self._samples, np.arange(self._sample_at, self._sample_at + count), mode="wrap")
        if self.tone_hz is None:
            return np.zeros(count, np.int16)
        return sine(self.tone_hz, self.codec.rate_hz, count, start=self._sample_at, amplitude=self.amplitude)

    def send(self, payload_type: int, timestamp: int, payload: bytes, *, marker: bool = False) -> None:
        """One packet with the running sequence number; `lose` may swallow it on the way."""
        data = rtp.build(payload_type, self.sequence, timestamp, self.ssrc, payload, marker=marker)
        if not self.lose(self.sequence):
            self.send_bytes(data)
        self.sequence = (self.sequence + 1) & 0xFFFF
        self.sent_packets += 1
        self.sent_octets += len(payload)

    def send_bytes(self, data: bytes) -> None:
        if self.remote is not None:
            try:
                self.socket.sendto(data, self.remote)
            except OSError:  # an earlier ICMP unreachable, or a full buffer: RTP is allowed to be lost
                return

    def send_rtcp(self) -> None:
        ntp = int((time.time() + 2208988800) * 2**32) & (2**64 - 1)
        self.send_bytes(rtp.sender_report(self.ssrc, ntp, self.timestamp, self.sent_packets, self.sent_octets))

    # --- digits -----------------------------------------------------------------------------------------------

    async def dtmf(self, digits: str, *, tone_ms: int = 100, pause_ms: int = 80, ends: int = 3) -> None:
        """Key the digits; returns when the last end packet is out. `ends=0` plays a phone whose ends are lost."""
        unit = self.codec.clock_hz * self.ptime_ms // 1000
        for digit in digits:
            updates = max(tone_ms // self.ptime_ms, 1)
            self._event_timestamp = self.timestamp
            self._digits_done = asyncio.get_running_loop().create_future()
            self._digits = [(rtp.dtmf_payload(digit, unit * (i + 1), end=False), i == 0) for i in range(updates)]
            self._digits += [(rtp.dtmf_payload(digit, unit * updates, end=True), False)] * ends
            await self._digits_done
            await asyncio.sleep(pause_ms / 1000)

    def _send_digit(self) -> None:
        payload, marker = self._digits.pop(0)
        self.send(self.event_payload_type, self._event_timestamp, payload, marker=marker)
        if not self._digits and self._digits_done is not None:
            self._digits_done.set_result(None)

    @property
    def digits(self) -> str:
        """The digits received so far."""
        return "".join(d.digit for d in rtp.digits(self.packets, self.event_payload_type))

    # --- listening --------------------------------------------------------------------------------------------

    async def listen(self, seconds: float = 1.0, *, within_s: float | None = None) -> Recording:
        """What arrives from now on, until its audio lasts `seconds`."""
        start = len(self.packets)
        deadline_s = asyncio.get_running_loop().time() + (within_s or seconds + 5)
        while True:
            audio = [p for p in self.packets[start:] if p.payload_type in self.decoders]
            if sum(self._duration_s(p) for p in audio) >= seconds - 1e-6:
                return record(audio, self.decoders)
            left_s = deadline_s - asyncio.get_running_loop().time()
            await self._arrived.first(
                after=len(self._arrived), within_s=max(left_s, 0.001), named=f"{seconds} s of audio"
            )

    def _duration_s(self, packet: rtp.Packet) -> float:
        codec = self.decoders[packet.payload_type]
        bytes_per_sample = {"G722": 0.5, "PCMU": 1, "PCMA": 1}.get(codec.name, 2)
        return len(packet.payload) / bytes_per_sample / codec.rate_hz

    async def settled(self, wanted: Iterable[float] = (), *, not_: Iterable[float] = (), within_s: float = 5.0) -> None:
        """Wait until 100 ms of what arrives holds the wanted tones and none of the others."""
        wanted, not_ = set(wanted), set(not_)
        deadline_s = asyncio.get_running_loop().time() + within_s
        while True:
            heard = await self.listen(0.1)
            levels = {f: level_db(heard.audio, heard.rate_hz, f) for f in wanted | not_}
            if all(levels[f] > HEARD_DB for f in wanted) and all(levels[f] < SILENT_DB + 6 for f in not_):
                return
            assert asyncio.get_running_loop().time() < deadline_s, f"wanted {wanted} without {not_}, heard {levels}"

    def recorded(self, *, since_s: float = 0.0, until_s: float = float("inf")) -> Recording:
        """What arrived between two moments of the monotonic clock."""
        chosen = [p for p in self.packets if since_s <= p.arrived_s <= until_s]
        return record(chosen, self.decoders)
