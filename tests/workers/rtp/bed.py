"""A test bed: the real rtp process on real banks, a small room beside it, phones on loopback sockets.

The process is forked, as the zygote does it; the test plays control over a channel pair.
"""

import os
import random
import signal
import socket
import struct
import threading
import time
from dataclasses import dataclass, field

import msgspec
import numpy as np

from shm.channel import Channel, channel_pair
from shm.clock import PHASE_NS, TICK_NS, monotonic_ns, sleep_until_ns
from shm.instance import create_instance
from shm.messages import (
    Acknowledge,
    Codec,
    Done,
    Event,
    Failed,
    FromRtp,
    Leave,
    LogLine,
    Media,
    OpenLeg,
    Row,
    RtpStart,
    ToRtp,
)
from workers.rtp.main import run

PCMU = Codec(name="PCMU", payload_type=0, clock_hz=8000, rate_hz=8000)
PCMA = Codec(name="PCMA", payload_type=8, clock_hz=8000, rate_hz=8000)
G722 = Codec(name="G722", payload_type=9, clock_hz=8000, rate_hz=16000)
L16 = Codec(name="L16", payload_type=97, clock_hz=16000, rate_hz=16000)
L16_48 = Codec(name="L16", payload_type=98, clock_hz=48000, rate_hz=48000)


def free_ports(count=1):
    """An even port with `count` free ones behind it."""
    while True:
        first = random.randrange(20000, 60000, 2)
        held = []
        try:
            for port in range(first, first + count):
                sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                held.append(sock)
                sock.bind(("127.0.0.1", port))
        except OSError:
            continue
        else:
            return first
        finally:
            for sock in held:
                sock.close()


def media(phone, codec=PCMU, **changes):
    host, port = phone.sock.getsockname()[:2]
    values = {"send": codec, "receive": (codec,), "remote_host": host, "remote_port": port, "rtcp_mux": True}
    return Media(**{**values, "event_send_type": 101, "event_receive_type": 101, **changes})


class Bed:
    """One rtp process and the control that it believes in."""

    def __init__(self, io="auto", rows=64, **start):
        self.instance = create_instance("test", rows=rows, state_dir="", sip_sockets=[])
        for bank in self.instance.banks.values():
            for block in range(-(-rows // 64)):
                bank.back_block(block)
                for row in range(block * 64, min(rows, block * 64 + 64)):
                    bank.clear(row)
        self.start_message = msgspec.msgpack.encode(RtpStart(index=0, stats_row=0, io=io, **start))
        self.events = []
        self.logs = []
        self._command_id = 0
        self.pid = 0
        self.channel = None
        self.launch()

    def launch(self):
        """Fork the process (again)."""
        ours, theirs = channel_pair()
        self.pid = os.fork()
        if not self.pid:
            status = 1
            try:
                ours.close()
                self.instance.drop_master_ends()
                signal.signal(signal.SIGINT, signal.SIG_IGN)
                run(self.instance, Channel(theirs, ToRtp), self.start_message)
                status = 0
            except BaseException:  # noqa: BLE001
                import traceback

                traceback.print_exc()
            finally:
                os._exit(status)
        theirs.close()
        self.channel = Channel(ours, FromRtp)

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.channel.close()

    def leave(self, timeout_s=3.0):
        """Ask it to leave; returns its exit status."""
        self.channel.send(Leave())
        return self.wait_exit(timeout_s)

    def wait_exit(self, timeout_s):
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        raise AssertionError("the process does not end")

    def close(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        self.channel.close()
        os.close(self.instance.lifeline_fd)
        if self.instance.lifeline_write_fd >= 0:
            os.close(self.instance.lifeline_write_fd)

    def poll(self, timeout_s=0.02):
        """Whatever has come, after waiting at most `timeout_s` for it."""
        import select

        select.select([self.channel.fileno()], [], [], timeout_s)
        messages = self.channel.receive()
        for message in messages:
            if isinstance(message, LogLine):
                self.logs.append(message)
            elif isinstance(message, Event):
                self.events.append(message)
                if message.number:
                    self.channel.send(Acknowledge(number=message.number))
        return messages

    def command(self, command, timeout_s=3.0):
        """Send; returns its Done or Failed."""
        if not command.command_id:
            self._command_id += 1
            command = msgspec.structs.replace(command, command_id=self._command_id)
        self.channel.send(command)
        return self.wait(lambda m: isinstance(m, Done | Failed) and m.command_id == command.command_id, timeout_s)

    def wait(self, wanted, timeout_s=3.0):
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for message in self.poll():
                if wanted(message):
                    return message
        raise AssertionError("nothing came")

    def wait_event(self, kind, timeout_s=3.0, **fields):
        """An event already seen or yet to come; it is taken out of `events`."""
        deadline = time.monotonic() + timeout_s
        while True:
            for event in self.events:
                if isinstance(event, kind) and all(getattr(event, name) == value for name, value in fields.items()):
                    self.events.remove(event)
                    return event
            if time.monotonic() > deadline:
                raise AssertionError(f"no {kind.__name__} {fields}; seen {self.events}")
            self.poll()

    def row(self, index, rate_hz=16000):
        return Row(rate_hz=rate_hz, index=index, generation=int(self.instance.banks[rate_hz].leg["generation"][index]))

    def open_leg(self, leg_id, row, phone, *, codec=PCMU, phase=0, rate_hz=16000, host="127.0.0.1", **changes):
        port = free_ports(2)
        agreed = media(phone, codec, **changes)
        reply = self.command(
            OpenLeg(leg_id=leg_id, row=self.row(row, rate_hz), host=host, port=port, media=agreed, phase=phase)
        )
        assert isinstance(reply, Done), reply
        phone.target = (host, port)
        return port


@dataclass
class Phone:
    """A UDP socket that sends timed packets and keeps what it gets, each with its arrival time."""

    host: str = "127.0.0.1"
    target: tuple = ("", 0)
    payload_type: int = 0
    sequence: int = 100
    timestamp: int = 160_000
    ssrc: int = 0x1234
    got: list = field(default_factory=list)  # (monotonic seconds, datagram, source)
    sock: socket.socket = None

    def __post_init__(self):
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_DGRAM)
        self.sock.bind((self.host, 0))
        self.sock.settimeout(0.1)
        self._is_open = True
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self):
        while self._is_open:
            try:
                data, source = self.sock.recvfrom(4096)
            except (TimeoutError, ConnectionRefusedError):
                continue
            except OSError:
                return
            self.got.append((time.monotonic(), data, source))

    def close(self):
        self._is_open = False
        self._thread.join()
        self.sock.close()

    def packet(self, payload, *, payload_type=None, marker=False, timestamp=None):
        payload_type = self.payload_type if payload_type is None else payload_type
        timestamp = self.timestamp if timestamp is None else timestamp
        return struct.pack(
            "!BBHII",
            0x80,
            payload_type | (0x80 if marker else 0),
            self.sequence & 0xFFFF,
            timestamp & 0xFFFFFFFF,
            self.ssrc,
        ) + bytes(payload)

    def send(self, payload, units=160, **options):
        """One packet now."""
        try:
            self.sock.sendto(self.packet(payload, **options), self.target)
        except ConnectionRefusedError:
            self.sock.sendto(self.packet(payload, **options), self.target)
        self.sequence += 1
        self.timestamp += units

    def say(self, payloads, units=160, ptime_ms=20):
        """One packet each `ptime_ms`."""
        begin = monotonic_ns()
        for number, payload in enumerate(payloads):
            sleep_until_ns(begin + number * ptime_ms * 1_000_000)
            self.send(payload, units)

    def rtp(self, payload_type=None):
        """(arrival, type, marker, sequence, timestamp, ssrc, payload) of what came, RTCP left out."""
        packets = []
        for arrived, data, _source in list(self.got):
            if 192 <= data[1] <= 223:
                continue
            _first, second, sequence, timestamp, ssrc = struct.unpack_from("!BBHII", data)
            if payload_type is None or second & 127 == payload_type:
                packets.append((arrived, second & 127, bool(second & 128), sequence, timestamp, ssrc, data[12:]))
        return packets

    def wait_packets(self, count, timeout_s=3.0, payload_type=None):
        deadline = time.monotonic() + timeout_s
        while len(self.rtp(payload_type)) < count:
            assert time.monotonic() < deadline, f"{len(self.rtp(payload_type))} of {count} packets"
            time.sleep(0.005)
        return self.rtp(payload_type)


class Room:
    """Mixes `total - own` of some rows of one bank at one phase, in a thread of the test."""

    def __init__(self, bank, rows, phase=0):
        self.bank, self.rows, self.phase = bank, np.array(rows), phase
        self._is_open = True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        tick = monotonic_ns() // TICK_NS + 1
        while self._is_open:
            sleep_until_ns(tick * TICK_NS + self.phase * PHASE_NS + 2_000_000)
            mix(self.bank, self.rows, tick)
            tick += 1

    def close(self):
        self._is_open = False
        self._thread.join()


def mix(bank, rows, tick):
    """What a room does at its mix: total minus own."""
    said = np.where(bank.rx_tick[rows, tick % 32][:, None] == tick, bank.rx[rows, tick % 32], 0).astype(np.int32)
    heard = (said.sum(axis=0) - said).clip(-32768, 32767)
    bank.tx[rows, tick % 4] = heard
    bank.tx_from[rows, tick % 4] = rows
    bank.tx_tick[rows, tick % 4] = tick


def tone(rate_hz, hz, ms, amplitude=8000):
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(rate_hz * ms // 1000) / rate_hz)).astype(np.int16)


def level_at(samples, rate_hz, hz):
    """Amplitude of one frequency in samples."""
    samples = np.asarray(samples, float)
    window = np.hanning(len(samples))
    phase = np.exp(-2j * np.pi * hz * np.arange(len(samples)) / rate_hz)
    return 2 * abs((samples * window * phase).sum()) / window.sum()
