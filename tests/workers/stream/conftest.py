"""The real stream process under a fake control, with real banks; and a web server that misbehaves on demand."""

import asyncio
import contextlib
import os
import secrets
import signal
import struct
import threading
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from aiohttp import web

from shm import messages as wire
from shm.bank import BLOCK_ROWS, RATES_HZ, RX_SLOTS, TX_SLOTS, Bank
from shm.channel import Channel, ChannelClosed, channel_pair
from shm.clip import COMPLETE, GROWING, Clip
from shm.clock import mix_time_ns, sleep_until_ns, tick_now
from shm.stats import Stats

EVENT_S = 20.0  # a loaded machine is slow; a test that passes never waits for it


@pytest.fixture(scope="session")
def banks():
    made = {rate_hz: Bank(rate_hz, BLOCK_ROWS, f"stream-{os.getpid()}") for rate_hz in RATES_HZ}
    for bank in made.values():
        bank.back_block(0)
    return made


def sine(tone_hz, seconds, rate_hz=16_000, level=8000):
    """int16."""
    times = np.arange(int(seconds * rate_hz)) / rate_hz
    return np.rint(level * np.sin(2 * np.pi * tone_hz * times)).astype(np.int16)


def loudest_hz(samples, rate_hz):
    """The strongest frequency, ±1 Hz for a second."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return np.argmax(spectrum) * rate_hz / len(samples)


def wav(samples, rate_hz=16_000, *, tag=1, bits=16, channels=1, data_bytes=None, before_data=b"", fmt_tail=b""):
    """A WAV file of `samples` (bytes), with whatever a test wants to be odd about it."""
    frame_bytes = channels * bits // 8
    fmt = struct.pack("<HHIIHH", tag, channels, rate_hz, rate_hz * frame_bytes % 2**32, frame_bytes, bits) + fmt_tail
    body = b"WAVE" + b"fmt " + struct.pack("<I", len(fmt)) + fmt + before_data
    body += b"data" + struct.pack("<I", len(samples) if data_bytes is None else data_bytes) + samples
    return b"RIFF" + struct.pack("<I", len(body)) + body


class Control:
    """What control is to stream: the other end of its channel, and its parent."""

    def __init__(self, banks, **settings):
        self.banks = banks
        self.settings = settings
        self.pid = 0
        self.events = []
        self.acknowledges = True
        self.clips = {}  # clip id -> the descriptors announced
        self.stats = Stats(1, f"test-{secrets.token_hex(4)}")
        self._command_id = secrets.randbelow(10**9)
        self._changed = asyncio.Event()
        self._replies = {}

    def start(self):
        ours, theirs = channel_pair()
        lifeline_read, self.lifeline_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        start = msgspec.msgpack.encode(wire.StreamStart(stats_row=0, **self.settings))
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                ours.close()
                os.close(self.lifeline_write)
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, signal.SIG_IGN)
                from workers.stream.main import run

                run(
                    SimpleNamespace(stats=self.stats, lifeline_fd=lifeline_read, banks=self.banks, made_s=0.0),
                    Channel(theirs, wire.ToStream),
                    start,
                )
                status = 0
            except BaseException:  # noqa: BLE001  the outermost frame of a process
                import traceback

                traceback.print_exc()
            finally:
                os._exit(status)
        theirs.close()
        os.close(lifeline_read)
        self.channel = Channel(ours, wire.FromStream)
        asyncio.get_running_loop().add_reader(self.channel.fileno(), self._read)
        return self

    def _read(self):
        try:
            while (received := self.channel.receive_with_descriptors()) is not None:
                message, descriptors = received
                if isinstance(message, wire.Done | wire.Failed):
                    self._replies.setdefault(message.command_id, []).append(message)
                else:
                    if isinstance(message, wire.ClipReady):
                        self.clips.setdefault(message.clip_id, []).extend(descriptors)
                    if self.acknowledges and getattr(message, "number", 0):
                        self.channel.send(wire.Acknowledge(number=message.number))
                    self.events.append(message)
        except ChannelClosed:
            asyncio.get_running_loop().remove_reader(self.channel.fileno())
        self._changed.set()

    async def _until(self, found, within):
        try:
            async with asyncio.timeout(within):
                while (value := found()) is None:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"not seen; events: {self.events}") from None
        return value

    async def do(self, kind, *, descriptors=(), within=EVENT_S, **fields):
        """Send a command; its Done or Failed."""
        return await self.answer(self.send(kind, descriptors=descriptors, **fields), within)

    async def answer(self, command, within=EVENT_S):
        """The next one to this command."""

        def found():
            waiting = self._replies.get(command.command_id)
            return waiting.pop(0) if waiting else None

        return await self._until(found, within)

    def send(self, kind, *, descriptors=(), **fields):
        self._command_id += 1
        command = kind(command_id=self._command_id, **fields)
        self.channel.send(command, tuple(descriptors))
        return command

    async def ok(self, kind, **fields):
        reply = await self.do(kind, **fields)
        assert isinstance(reply, wire.Done), reply

    async def event(self, kind, within=EVENT_S, **fields):
        """The next event of that kind with these fields; it is taken out of the list."""

        def found():
            for event in self.events:
                if isinstance(event, kind) and all(getattr(event, name) == value for name, value in fields.items()):
                    self.events.remove(event)
                    return event
            return None

        return await self._until(found, within)

    async def inventory(self):
        """Every id alive, after a Hello."""
        await self.ok(wire.Hello)
        parts = [event for event in self.events if isinstance(event, wire.StreamInventoryPart)]
        assert parts[-1].last
        self.events = [event for event in self.events if not isinstance(event, wire.StreamInventoryPart)]
        return {one for part in parts for one in part.session_ids}

    def none(self, kind):
        assert not [event for event in self.events if isinstance(event, kind)], self.events

    def clip(self, clip_id):
        """The clip announced under this id, as a room worker sees it."""
        return Clip(self.clips[clip_id].pop())

    async def clip_samples(self, clip_id):
        """All of it, once it is complete."""
        await self.event(wire.ClipReady, clip_id=clip_id)
        clip = self.clip(clip_id)
        async with asyncio.timeout(EVENT_S):
            while clip.state == GROWING:  # noqa: ASYNC110  memory tells nobody
                await asyncio.sleep(0.005)
        assert clip.state == COMPLETE
        return clip.read(0, 1 << 30).copy()

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.pid = 0
        self._disconnect()

    def _disconnect(self):
        with contextlib.suppress(OSError, ValueError):
            asyncio.get_running_loop().remove_reader(self.channel.fileno())
        self.channel.close()
        with contextlib.suppress(OSError):
            os.close(self.lifeline_write)

    async def gone(self, within=EVENT_S):
        """The process has ended by itself within so many seconds; its exit status."""
        async with asyncio.timeout(within):
            while True:
                pid, status = os.waitpid(self.pid, os.WNOHANG)  # noqa: ASYNC222  does not wait
                if pid:
                    self.pid = 0
                    return os.waitstatus_to_exitcode(status)
                await asyncio.sleep(0.01)

    def close(self):
        if self.pid:
            self.kill()
        else:
            self._disconnect()


@pytest.fixture
async def new_control(banks, monkeypatch):
    for variable in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    made = []

    def make(**settings):
        made.append(Control(banks, **settings).start())
        return made[-1]

    yield make
    errors = [
        event for one in made for event in one.events if isinstance(event, wire.LogLine) and event.level == "error"
    ]
    for control in made:
        control.close()
    assert not errors


@pytest.fixture
async def control(new_control):
    return new_control()


class Web:
    """A server of bytes: `files[path]` is a body, or a handler."""

    def __init__(self):
        self.files = {}
        self.headers = {}
        self.asked = []
        self.was_asked = asyncio.Event()
        self.hung_up = asyncio.Event()

    async def answer(self, request):
        self.asked.append(request.path_qs)
        self.was_asked.set()
        found = self.files.get(request.path)
        if found is None:
            return web.Response(status=404, text="no such thing")
        if callable(found):
            return await found(request)
        return web.Response(body=found, headers=self.headers.get(request.path, {}))

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    async def endless(self, request):
        """Never ends; `hung_up` is set when the client has gone."""
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(65536))
        finally:
            self.hung_up.set()

    async def silent(self, request):
        """Never answers."""
        try:
            await asyncio.Event().wait()
        finally:
            self.hung_up.set()


@pytest.fixture
async def server():
    made = Web()
    runner = web.AppRunner(_app(made), handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


def _app(made):
    app = web.Application()
    app.router.add_get("/{tail:.*}", made.answer)
    return app


class RoomWorker:
    """What a room worker does to rows, on its clock, in a thread: `says(tick)` -> {row: (frame, source)} is mixed for them,
    what they say is kept in `heard[row]` as (tick, frame or None)."""

    def __init__(self, bank, rows, says=lambda _tick: {}, phase=0):
        self.bank = bank
        self.rows = rows
        self.says = says
        self.phase = phase
        self.heard = {row: [] for row in rows}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        for row in self.rows:
            self.bank.rx_tick[row] = 0
            self.bank.tx_tick[row] = 0
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        self._thread.join()

    def _run(self):
        tick = tick_now() + 1
        while not self._is_over.is_set():
            sleep_until_ns(mix_time_ns(tick, self.phase))
            self.mix(tick)
            tick += 1

    def mix(self, tick):
        for row in self.rows:
            slot = tick % RX_SLOTS
            is_there = self.bank.rx_tick[row, slot] == tick
            self.heard[row].append((tick, self.bank.rx[row, slot].copy() if is_there else None))
        for row, (frame, source) in self.says(tick).items():
            slot = tick % TX_SLOTS
            if frame is not None:
                self.bank.tx[source, slot] = frame
            self.bank.tx_from[row, slot] = source
            self.bank.tx_tick[row, slot] = tick

    def said(self, row):
        """All frames of a row, one after the other."""
        frames = [frame for _, frame in self.heard[row] if frame is not None]
        return np.concatenate(frames) if frames else np.zeros(0, np.int16)

    async def wait(self, enough, within=EVENT_S):
        async with asyncio.timeout(within):
            while not enough():  # noqa: ASYNC110  a thread's memory tells nobody
                await asyncio.sleep(0.01)
