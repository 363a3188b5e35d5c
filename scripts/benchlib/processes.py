"""CPU and memory of the server's whole process tree, read from /proc.

Runs in: scripts/bench.
Owns:    the set of processes that were ever seen below the server's master.
Rules:
 1. A process is a pid and its start time. Once seen it stays in the tree, also when its parent died. One that was never
    seen below its parent belongs to it too when its session's leader does (so the master has to lead its session).
 2. CPU is the first field of /proc/<pid>/task/*/schedstat, nanoseconds on a CPU; tick accounting under-counts short work.
 3. Memory is PSS: a page that n processes map counts 1/n in each, so the sum has every page once, banks included.
"""

from dataclasses import dataclass, field
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Memory:
    """PSS of one kind of process in KiB, with the part of it that is shared memory (the banks)."""

    processes: int
    pss_kib: int
    shared_kib: int


def stat_fields(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat from the third on; empty when the process is gone."""
    try:
        return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def cpu_ns(pid: int) -> int:
    """Nanoseconds on a CPU of all living threads; 0 when the process is gone."""
    total = 0
    try:
        for task in (PROC / str(pid) / "task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    except OSError:
        pass  # a thread or the process ended meanwhile
    return total


@dataclass
class ProcessTree:
    root: int
    started: dict[int, str] = field(default_factory=dict)  # pid -> start time in clock ticks since boot
    kinds: dict[int, str] = field(default_factory=dict)

    def find(self) -> None:
        """Adds the descendants that exist now."""
        stats = {int(entry.name): stat_fields(int(entry.name)) for entry in PROC.iterdir() if entry.name.isdigit()}
        if stats.get(self.root):
            self.started.setdefault(self.root, stats[self.root][19])
        grown = True
        while grown:
            grown = False
            for pid, fields in stats.items():
                if fields and pid not in self.started and self.started.keys() & {int(fields[1]), int(fields[3])}:
                    self.started[pid] = fields[19]
                    grown = True
        for pid in self.started:
            self.kinds[pid] = self.kind(pid) or self.kinds.get(pid, "other")

    def kind(self, pid: int) -> str:
        """The first word after `roomtone:` in the title; the program's name for others; empty when it is gone."""
        try:
            words = (PROC / str(pid) / "cmdline").read_text(errors="replace").replace("\0", " ").split()
        except OSError:
            return ""
        if len(words) > 1 and words[0] == "roomtone:":
            return words[1]
        return "master" if pid == self.root else Path(words[0]).name if words else ""

    def living(self) -> list[int]:
        """Processes of the tree that still run (zombies do not)."""
        alive = []
        for pid, start in self.started.items():
            fields = stat_fields(pid)
            if fields and fields[19] == start and fields[0] != "Z":
                alive.append(pid)
        return alive

    def cpu_ns(self) -> dict[int, int]:
        """Nanoseconds on a CPU per living process, newcomers included."""
        self.find()
        return {pid: cpu_ns(pid) for pid in self.living()}

    def cpu_ns_by_kind(self, before: dict[int, int], after: dict[int, int]) -> dict[str, int]:
        """What each kind used between two readings; what ended in between is not in it."""
        used: dict[str, int] = {}
        for pid, ns in after.items():
            kind = self.kinds[pid]
            used[kind] = used.get(kind, 0) + ns - before.get(pid, 0)
        return used

    def memory(self) -> dict[str, Memory]:
        """PSS per kind of process."""
        self.find()
        by_kind: dict[str, Memory] = {}
        for pid in self.living():
            try:
                lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()[1:]
            except OSError:
                continue
            kib = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
            sofar = by_kind.get(self.kinds[pid], Memory(0, 0, 0))
            by_kind[self.kinds[pid]] = Memory(
                sofar.processes + 1, sofar.pss_kib + kib["Pss"], sofar.shared_kib + kib.get("Pss_Shmem", 0)
            )
        return by_kind
