"""RTCP of all legs: reports out every few seconds, round trips in.

Runs in: rtp, in the loop. Loops over legs: a report each five seconds or so.
Owns: when a leg reports; the sockets on port + 1 of legs whose peer does not multiplex.

Rules
1. Reports go out every 2.5 to 7.5 s (RFC 3550 section 6.3.1: 5 s times 0.5 to 1.5), muxed or to the peer's RTCP port.
2. RTCP is only read from the leg's own peer: muxed it has passed the door, on port + 1 the host must be the peer's.
3. A port + 1 that is taken means no RTCP for that leg, never a failure.
"""

import random
import select
import socket
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shm.clock import PHASE_NS, TICK_NS
from workers.rtp import address, rtcp
from workers.rtp.codecs import WIRES
from workers.rtp.legs import Leg, Legs
from workers.rtp.playout import Playout
from workers.rtp.reception import Reception
from workers.rtp.sending import Sending
from workers.rtp.transport import Transport

_LEAST_WAKES, _MOST_WAKES = 500, 1500
_RECENT_WAKES = 3000  # a peer unheard for 15 s is not reported on


@dataclass
class _Account:
    due_wake: int
    last_sr: int = 0
    last_sr_wake: int = 0
    expected_before: int = 0
    lost_before: int = 0


class Reporting:
    def __init__(
        self, legs: Legs, reception: Reception, playout: Playout, sending: Sending, transport: Transport
    ) -> None:
        self._legs = legs
        self._reception = reception
        self._playout = playout
        self._sending = sending
        self._transport = transport
        self._accounts: dict[int, _Account] = {}
        self._epoll: select.epoll | None = None
        self._by_descriptor: dict[int, Leg] = {}
        self._random = random.Random()  # noqa: S311 - spreads reports in time, keeps no secret

    def start(self, leg: Leg, wake: int) -> None:
        self._accounts[leg.index] = _Account(wake + self._random.randint(_LEAST_WAKES // 2, _MOST_WAKES // 2))

    def set_port(self, leg: Leg) -> None:
        """After each change of media: port + 1 exactly where the peer does not multiplex."""
        wants = leg.media is not None and not leg.media.rtcp_mux and leg.media.remote_rtcp_port > 0
        if wants and leg.control_sock is None and leg.port < 65535:
            try:
                leg.control_sock = address.bind(leg.host, leg.port + 1)
            except OSError:
                return
            leg.control_sock.setblocking(False)
            if self._epoll is None:
                self._epoll = select.epoll()
            self._epoll.register(leg.control_sock.fileno(), select.EPOLLIN)
            self._by_descriptor[leg.control_sock.fileno()] = leg
        elif not wants:
            self._close_port(leg)

    def _close_port(self, leg: Leg) -> None:
        if leg.control_sock is not None:
            assert self._epoll is not None
            self._epoll.unregister(leg.control_sock.fileno())
            del self._by_descriptor[leg.control_sock.fileno()]
            leg.control_sock.close()
            leg.control_sock = None

    def stop(self, leg: Leg, tick: int) -> None:
        """BYE."""
        if self._sending.is_sending[leg.index] or self._reception.is_started(leg.index):
            self._send(leg, tick, bye=True)
        self._close_port(leg)
        self._accounts.pop(leg.index, None)

    def review(self, legs: NDArray[np.int64], wake: int) -> None:
        """Once a second per leg: send what is due."""
        for index in legs.tolist():
            account = self._accounts[index]
            if account.due_wake <= wake:
                account.due_wake = wake + self._random.randint(_LEAST_WAKES, _MOST_WAKES)
                leg = self._legs[index]
                if leg.media is not None and leg.media.direction != "inactive":
                    self._send(leg, wake * PHASE_NS // TICK_NS, bye=False)

    def poll(self, wake: int) -> None:
        """Each wake-up: what came to the ports + 1."""
        if not self._by_descriptor:
            return
        assert self._epoll is not None
        for descriptor, _events in self._epoll.poll(0):
            leg = self._by_descriptor[descriptor]
            assert leg.control_sock is not None
            try:
                data, source = leg.control_sock.recvfrom(2048)
            except OSError:
                continue
            peer = leg.peer or leg.agreed
            if peer is not None and source[0] == address.unpack(peer)[0]:
                self.read(leg, data, wake)

    def read(self, leg: Leg, data: bytes, wake: int) -> None:
        """One RTCP datagram of the leg's peer."""
        account = self._accounts[leg.index]
        now = rtcp.ntp_middle(rtcp.ntp_now())
        for report in rtcp.parse(data):
            if report.ntp:
                account.last_sr, account.last_sr_wake = rtcp.ntp_middle(report.ntp), wake
            for block in report.blocks:
                if block.ssrc == int(self._sending.ssrc[leg.index]):
                    round_trip_ms = rtcp.round_trip_ms(block, now)
                    if round_trip_ms is not None:
                        self._legs.bank_of(leg).leg["round_trip_ms"][leg.row.index] = round_trip_ms

    def _send(self, leg: Leg, tick: int, *, bye: bool) -> None:
        index = leg.index
        account, sending = self._accounts[index], self._sending
        packets = int(sending.sequence[index] - sending.first_sequence[index])
        sent = None
        if packets:
            octets = packets * int(sending.frames[index]) * WIRES[int(sending.codec[index])].frame_bytes
            sent = rtcp.Sent(rtcp.ntp_now(), sending.timestamp(index, tick), packets, octets)
        data = rtcp.build(
            int(sending.ssrc[index]), sent, self._block(index, account, tick * TICK_NS // PHASE_NS), bye=bye
        )
        if leg.control_sock is not None:
            self._send_aside(leg, leg.control_sock, data)
        elif leg.media is not None and leg.media.rtcp_mux and (leg.peer or leg.agreed) is not None:
            self._transport.send_one(index, data)

    def _send_aside(self, leg: Leg, sock: socket.socket, data: bytes) -> None:
        assert leg.media is not None
        peer = leg.peer or leg.agreed
        if peer is None:
            return
        target = address.unpack(peer)
        try:
            sock.sendto(data, (target[0], leg.media.remote_rtcp_port, *target[2:]))
        except OSError:
            self._transport.unsent += 1

    def _block(self, index: int, account: _Account, wake: int) -> rtcp.Block | None:
        reception = self._reception
        if not reception.is_started(index) or reception.last_wake[index] < wake - _RECENT_WAKES:
            return None
        expected, lost = reception.expected(index)
        span, gone = expected - account.expected_before, lost - account.lost_before
        account.expected_before, account.lost_before = expected, lost
        fraction = min(max(gone, 0) * 256 // span, 255) if span > 0 else 0
        delay = (wake - account.last_sr_wake) * 65536 * PHASE_NS // 1_000_000_000 if account.last_sr else 0
        return rtcp.Block(
            int(reception.ssrc[index]),
            fraction,
            lost,
            int(reception.highest[index]),
            int(self._playout.jitter_ms[index] * self._playout.clock_step[index] / 20),
            account.last_sr,
            max(delay, 0),
        )
