"""What one running server is made of: made by the master before any fork, inherited by all.

Runs in: the master (creation), every process (use).
Owns: banks, stats, the lifeline, the listening SIP sockets, the pair of sockets between control and zygote, the stop flag.

Rules
1. The lifeline is a pipe. Only the master keeps its write end; end-of-file on `lifeline_fd` means that the master is gone.
2. `is_stopping` is set by the master alone, once, when it begins to stop: control's end then is the end of all calls.
"""

import hashlib
import os
import socket
import time
from dataclasses import dataclass, field

from shm.bank import RATES_HZ, Bank
from shm.channel import channel_pair
from shm.segment import PAGE_BYTES, Segment
from shm.stats import Stats

STATS_ROWS = 8192


@dataclass
class Instance:
    instance_id: str
    banks: dict[int, Bank]
    stats: Stats
    lifeline_fd: int
    lifeline_write_fd: int
    control_end: socket.socket
    zygote_end: socket.socket
    state_dir: str
    sip_sockets: list[tuple[str, socket.socket]] = field(default_factory=list)  # ("UDP" | "TCP" | "TLS", bound socket)
    made_s: float = field(default_factory=time.time)  # by the wall clock: what is older on disk is of others
    _flag: Segment = field(default_factory=lambda: Segment("stop", PAGE_BYTES))

    @property
    def is_stopping(self) -> bool:
        return self._flag.memory[0] != 0

    def mark_stopping(self) -> None:
        self._flag.memory[0] = 1

    def drop_master_ends(self) -> None:
        """In every process but the master: give up what would keep the lifeline open."""
        if self.lifeline_write_fd >= 0:
            os.close(self.lifeline_write_fd)
            self.lifeline_write_fd = -1

    def master_is_gone(self) -> bool:
        """Poll the lifeline (non-blocking); for processes that run their own tick loop."""
        try:
            return os.read(self.lifeline_fd, 1) == b""
        except BlockingIOError:
            return False


def short_name(instance_id: str) -> str:
    """The first 16 hex digits of SHA-256, for names of segments and files (config.md section 2)."""
    return hashlib.sha256(instance_id.encode()).hexdigest()[:16]


def create_instance(
    instance_id: str, *, rows: int, state_dir: str, sip_sockets: list[tuple[str, socket.socket]]
) -> Instance:
    """Make everything shared. `rows` per bank. Raises OSError when the machine refuses."""
    label = short_name(instance_id)
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    control_end, zygote_end = channel_pair()
    return Instance(
        instance_id=instance_id,
        banks={rate_hz: Bank(rate_hz, rows, label) for rate_hz in RATES_HZ},
        stats=Stats(STATS_ROWS, label),
        lifeline_fd=read_fd,
        lifeline_write_fd=write_fd,
        control_end=control_end,
        zygote_end=zygote_end,
        state_dir=state_dir,
        sip_sockets=sip_sockets,
    )
