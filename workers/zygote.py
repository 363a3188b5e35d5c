"""The zygote: forks every other worker from a warm image, and keeps a duplicate of each channel.

Runs in: its own process, forked by the master (and forked anew by it when it dies).
Owns: the duplicates of channel ends and pidfds, so that a new control process can go on with living workers.

Rules
1. It forks from its only thread, with numpy and all worker code imported, each hot path run once, and the heap frozen:
   a worker then costs about a millisecond and shares nearly all its memory.
2. It decides nothing. What it is asked twice (same command_id) it does once.
3. Its death ends no worker: they hang on their channels, whose other ends control holds too. A new zygote gets them by `Adopt`.
4. A worker seen dead by its pidfd is forgotten; control sees the same and asks for another.

Not here: which workers there ought to be -> `app/supervisor.py`.
"""

import contextlib
import gc
import os
import select
import selectors
import signal
import socket
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NoReturn

from setproctitle import setproctitle

import workers.room.main
import workers.rtp.main
import workers.sip.main
from shm import messages
from shm.bank import RATES_HZ
from shm.channel import Channel, channel_pair, decoder
from shm.instance import Instance
from workers.audio import comfort_noise
from workers.audio.resample import resampler
from workers.process import Run, become_worker

LIFELINE_GRACE_S = 4.5
REMEMBERED_COMMANDS = 1024


def _run_stream(instance: Instance, channel: Channel[Any], start: bytes) -> None:
    """The stream process alone needs the vendors' and decoders' libraries: 35 MB that every other fork would have to copy the
    page tables of."""
    from workers.stream.main import run  # noqa: PLC0415 - see above

    run(instance, channel, start)


KINDS: dict[str, tuple[Run, Any]] = {
    "sip": (workers.sip.main.run, messages.ToSip),
    "rtp": (workers.rtp.main.run, messages.ToRtp),
    "room": (workers.room.main.run, messages.ToRoom),
    "stream": (_run_stream, messages.ToStream),
}


@dataclass
class Kept:
    """One living worker: control's end of its channel, and its pidfd."""

    name: str
    kind: str
    pid: int
    start: bytes
    channel_fd: int
    pid_fd: int


def become_zygote(instance: Instance) -> NoReturn:
    """The forked child of the master ends up here and never goes back into gunicorn."""
    status = 1
    try:
        setproctitle("roomtone: zygote")
        os.setsid()
        for number in range(1, signal.NSIG):
            if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
                signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH):
            signal.signal(number, signal.SIG_IGN)
        instance.drop_master_ends()
        instance.control_end.close()
        _make_tables()
        workers.room.main.warm()
        gc.collect()
        gc.freeze()
        Zygote(instance).run()
        status = 0
    finally:
        os._exit(status)


def _make_tables() -> None:
    """What is made at first use, made once for all forks."""
    for _run, incoming in KINDS.values():
        decoder(incoming)
    for rate_hz in RATES_HZ:
        comfort_noise.frames(rate_hz)
        for other_hz in RATES_HZ:
            if other_hz != rate_hz:
                resampler(rate_hz, other_hz)


def _has_ended(pid_fd: int) -> bool:
    poll = select.poll()  # not select: its descriptors end at 1024
    poll.register(pid_fd, select.POLLIN)
    return bool(poll.poll(0))


class Zygote:
    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._control: Channel[messages.ToZygote] = Channel(instance.zygote_end, messages.ToZygote)
        self._kept: dict[int, Kept] = {}  # by pid
        self._answered: OrderedDict[int, int] = OrderedDict()  # command_id -> pid, for repeated commands
        self._selector = selectors.DefaultSelector()
        self._master_is_gone = False

    def run(self) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.register(self._control, selectors.EVENT_READ, self._on_control)
        self._selector.register(self._instance.lifeline_fd, selectors.EVENT_READ, self._on_lifeline)
        self._control.send(messages.ZygoteStarted(pid=os.getpid()))
        while self._kept or not self._master_is_gone:
            for key, _events in self._selector.select():
                if isinstance(key.data, int):
                    self._on_death(key.data)
                else:
                    key.data()

    def _on_control(self) -> None:
        while (received := self._control.receive_with_descriptors()) is not None:
            message, descriptors = received
            match message:
                case messages.Spawn():
                    self._spawn(message)
                case messages.Adopt():
                    self._keep(Kept(message.name, message.kind, message.pid, message.start, *descriptors))
                case messages.ListWorkers():
                    for kept in self._kept.values():
                        if not _has_ended(kept.pid_fd):
                            self._tell(message.command_id, kept)
                    self._control.send(messages.Done(command_id=message.command_id))

    def _spawn(self, command: messages.Spawn) -> None:
        known = self._answered.get(command.command_id)
        if known is not None and known in self._kept:
            self._tell(command.command_id, self._kept[known])
            return
        control_side, worker_side = channel_pair()
        try:
            pid = os.fork()
        except OSError as error:
            control_side.close()
            worker_side.close()
            self._control.send(
                messages.Failed(command_id=command.command_id, error=f"fork: {error.strerror}", blame="resource")
            )
            return
        if pid == 0:
            self._become(command, control_side, worker_side)
        worker_side.close()
        kept = Kept(command.name, command.kind, pid, command.start, control_side.detach(), os.pidfd_open(pid))
        self._keep(kept)
        self._answered[command.command_id] = pid
        if len(self._answered) > REMEMBERED_COMMANDS:
            self._answered.popitem(last=False)
        self._tell(command.command_id, kept)

    def _become(self, command: messages.Spawn, control_side: socket.socket, worker_side: socket.socket) -> NoReturn:
        """In the child: let go of everything that belongs to the zygote or to other workers."""
        self._selector.close()
        control_side.close()
        self._instance.zygote_end.close()
        for kept in self._kept.values():
            os.close(kept.channel_fd)
            os.close(kept.pid_fd)
        if command.kind != "sip":
            for _transport, listener in self._instance.sip_sockets:
                listener.close()
        run, incoming = KINDS[command.kind]
        become_worker(command.name, run, incoming, self._instance, worker_side, command.start)

    def _keep(self, kept: Kept) -> None:
        self._kept[kept.pid] = kept
        self._selector.register(kept.pid_fd, selectors.EVENT_READ, kept.pid)

    def _tell(self, command_id: int, kept: Kept) -> None:
        self._control.send(
            messages.Spawned(command_id=command_id, name=kept.name, kind=kept.kind, pid=kept.pid, start=kept.start),
            (kept.channel_fd, kept.pid_fd),
        )

    def _on_death(self, pid: int) -> None:
        kept = self._kept.pop(pid)
        self._selector.unregister(kept.pid_fd)
        os.close(kept.channel_fd)
        os.close(kept.pid_fd)
        with contextlib.suppress(ChildProcessError):  # adopted workers are children of another process
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass

    def _on_lifeline(self) -> None:
        if self._instance.master_is_gone():
            # The duplicates held here must not outlive what they serve: leave when the workers have had their time.
            self._selector.unregister(self._instance.lifeline_fd)
            signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
            signal.setitimer(signal.ITIMER_REAL, LIFELINE_GRACE_S)
            self._master_is_gone = True
