"""Control and the zygote: forking workers, and finding those that are alive. The rules are in `shm/messages`."""

from typing import Literal

from shm.messages.common import Command, Done, Failed, Wire


class Spawn(Command, frozen=True, kw_only=True):
    """control -> zygote. The reply is `Spawned` with two descriptors: control's channel end and a pidfd."""

    name: str  # "rtp 0", "sip", "room <id>", unique among the living
    kind: Literal["rtp", "sip", "room", "stream"]
    start: bytes  # the kind's Start struct, msgpack; the zygote keeps it for the next control process


class Spawned(Wire, frozen=True, kw_only=True):
    """zygote -> control, with descriptors [channel, pidfd]."""

    command_id: int
    name: str
    kind: str
    pid: int
    start: bytes


class Adopt(Wire, frozen=True, kw_only=True):
    """control -> a new zygote, with descriptors [channel, pidfd] of one living worker."""

    name: str
    kind: str
    pid: int
    start: bytes


class ListWorkers(Command, frozen=True, kw_only=True):
    """a new control -> zygote: one `Spawned` (with descriptors) for each worker kept, then `Done`."""


class ZygoteStarted(Wire, frozen=True, kw_only=True):
    """a new zygote -> control: I keep no descriptors yet, adopt yours to me."""

    pid: int


ToZygote = Spawn | Adopt | ListWorkers
FromZygote = Spawned | Done | Failed | ZygoteStarted
