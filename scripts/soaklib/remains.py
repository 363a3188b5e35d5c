"""What the server holds: processes, descriptors, threads, memory, files and ports, before and after.

Runs in: scripts/soak.
Rules:
 1. Descriptors and threads must be as before, memory may have grown by GROWTH_MIB a process: the allocator keeps some.
 2. Read when all is quiet; what is still on its way out is given time by the caller.
"""

from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.flows.tools.server import Server

GROWTH_MIB = 24.0
DESCRIPTORS_MORE = 2  # a connection of a client that is just being closed


@dataclass(frozen=True)
class Use:
    processes: int
    descriptors: int
    threads: int
    rss_mib: float


@dataclass(frozen=True)
class Holding:
    kinds: dict[str, Use]
    files: frozenset[str]
    rtp_ports: int


def read(server: Server, recordings: Path) -> Holding:
    """Recordings under their final names are no remains."""
    kinds: dict[str, Use] = {}
    for process in server.processes():
        try:
            words = " ".join(process.cmdline()).split()
            kind = words[1] if words[:1] == ["roomtone:"] else Path(words[0]).name
            before = kinds.get(kind, Use(0, 0, 0, 0.0))
            kinds[kind] = Use(
                before.processes + 1,
                before.descriptors + process.num_fds(),
                before.threads + process.num_threads(),
                before.rss_mib + process.memory_info().rss / 2**20,
            )
        except (psutil.NoSuchProcess, IndexError):
            continue
    files = {p for p in recordings.rglob("*") if p.is_file() and not (p.suffix == ".wav" and p.name[0] != ".")}
    files |= {p for p in server.folder.rglob("*") if p.is_file()}
    ports = sum(server.rtp_first <= c.laddr.port <= server.rtp_last for p in server.processes() for c in _udp(p))
    return Holding(kinds, frozenset(map(str, files)), ports)


def _udp(process: psutil.Process) -> list:
    try:
        return process.net_connections("udp")
    except psutil.Error:
        return []


def differences(before: Holding, after: Holding) -> list[str]:
    """What is more than it was."""
    found = []
    for kind in sorted(before.kinds.keys() | after.kinds.keys()):
        nothing = Use(0, 0, 0, 0.0)
        was, is_ = before.kinds.get(kind, nothing), after.kinds.get(kind, nothing)
        if is_.processes > was.processes:
            found.append(f"{kind}: {is_.processes} processes instead of {was.processes}")
            continue
        if is_.descriptors > was.descriptors + DESCRIPTORS_MORE:
            found.append(f"{kind}: {is_.descriptors} descriptors instead of {was.descriptors}")
        if is_.threads > was.threads:
            found.append(f"{kind}: {is_.threads} threads instead of {was.threads}")
        if is_.rss_mib > was.rss_mib + GROWTH_MIB * was.processes:
            found.append(f"{kind}: {is_.rss_mib:.0f} MiB instead of {was.rss_mib:.0f}")
    if after.rtp_ports > before.rtp_ports:
        found.append(f"{after.rtp_ports} RTP ports instead of {before.rtp_ports}")
    found += [f"left: {name}" for name in sorted(after.files - before.files)]
    return found


def table(before: Holding, after: Holding) -> list[str]:
    """A line for each kind of process: before -> after."""
    lines = []
    for kind in sorted(before.kinds.keys() | after.kinds.keys()):
        was, is_ = (one.kinds.get(kind, Use(0, 0, 0, 0.0)) for one in (before, after))
        lines.append(
            f"  {kind}: {was.processes} -> {is_.processes} processes, {was.descriptors} -> {is_.descriptors} descriptors,"
            f" {was.threads} -> {is_.threads} threads, {was.rss_mib:.0f} -> {is_.rss_mib:.0f} MiB"
        )
    return lines
