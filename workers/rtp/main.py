"""The rtp process: media sockets of SIP legs, one process per core.

Runs in: rtp (forked by the zygote).
Owns: how the process comes up: transport, stages, priority.

Rules
1. SCHED_FIFO where the host allows it: audio before everything else. It always sleeps between wake-ups.
2. What has been loaded before stays out of the garbage collector's sight.
"""

import ctypes
import gc
import os

import msgspec

from shm.channel import Channel
from shm.instance import Instance
from shm.messages import LogLine, RtpStart, ToRtp
from shm.outbox import Outbox
from workers.rtp.loop import Loop
from workers.rtp.readiness import Readiness
from workers.rtp.stages import build_stages
from workers.rtp.transport import Transport
from workers.rtp.uring import Uring

_PRIORITY = 10
_PR_SET_TIMERSLACK = 29


def run(instance: Instance, channel: Channel[ToRtp], start: bytes) -> None:
    """Serve legs until told to leave. `start` is an encoded RtpStart."""
    settings = msgspec.msgpack.decode(start, type=RtpStart)
    transport = open_transport(settings.io, channel)
    outbox = Outbox(channel)
    stages = build_stages(instance.banks, transport, outbox, settings)
    loop = Loop(instance, channel, stages, outbox, settings)
    is_first = _come_first()
    channel.send(
        LogLine(
            level="info", event="rtp started", fields={"index": settings.index, "io": transport.name, "fifo": is_first}
        )
    )
    gc.freeze()
    loop.run()
    channel.flush()


def open_transport(io: str, channel: Channel[ToRtp]) -> Transport:
    """io_uring unless it is refused or not wanted."""
    if io != "epoll":
        try:
            return Uring()
        except OSError as error:
            if io == "uring":
                raise
            channel.send(LogLine(level="info", event="io_uring refused", fields={"error": str(error)}))
    return Readiness()


def _come_first() -> bool:
    """Wake up on time: real-time priority if allowed, no timer slack in any case."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_PRIORITY))
    except (PermissionError, OSError):
        return False
    return True
