"""One run of the bench: options, order of events, progress.

Runs in: scripts/bench.
Rules:
 1. Whatever happens, server and generator are ended, and a failure shows the server's last log lines.
 2. Figures never decide the exit status: 0 when something was measured, 1 when not.
"""

import argparse
import asyncio
import json
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from benchlib import sockets
from benchlib.calls import Caller, SetUp
from benchlib.generator import Generator, build
from benchlib.metrics import growth
from benchlib.report import Readings, figures, table
from benchlib.server import BenchError, Ending, Server, server_command

SETTLE_S = 2.0  # playout and latches find their place before anything is measured
BAR_COLUMNS = 30


class Progress:
    """A bar on a terminal; elsewhere one line when a stage begins. All on stderr: stdout has the table alone."""

    def __init__(self) -> None:
        self.stage = ""
        self.is_terminal = sys.stderr.isatty()

    def show(self, stage: str, done: float = 0.0, detail: str = "") -> None:
        """`done` is 0..1 of the stage."""
        if self.is_terminal:
            filled = round(min(done, 1.0) * BAR_COLUMNS)
            bar = "#" * filled + "." * (BAR_COLUMNS - filled)
            sys.stderr.write(f"\r\033[K{stage:<24} [{bar}] {detail}")
        elif stage != self.stage:
            sys.stderr.write(f"bench: {stage} {detail}\n")
        self.stage = stage
        sys.stderr.flush()

    def end(self) -> None:
        if self.is_terminal:
            sys.stderr.write("\r\033[K")


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description="Real SIP calls in rooms of the real server, measured.")
    parser.add_argument("--legs", type=int, default=300, help="calls in all (default %(default)s)")
    parser.add_argument("--room-size", type=int, default=3, help="calls a room (default %(default)s)")
    parser.add_argument(
        "--talkers", type=int, default=1, choices=(1, 2, 3), help="talkers a room (default %(default)s)"
    )
    parser.add_argument("--placement", default="dedicated", choices=("dedicated", "shared", "auto"))
    parser.add_argument("--seconds", type=float, default=20, help="length of the measured window (default %(default)s)")
    parser.add_argument("--rate", type=int, default=16000, choices=(8000, 16000, 48000), help="the rooms' sample rate")
    parser.add_argument("--codec", default="PCMU", choices=("PCMU", "PCMA"))
    parser.add_argument("--sockets", type=int, default=0, help="measure so many room WebSockets instead of calls")
    parser.add_argument("--concurrency", type=int, default=16, help="calls in set-up at a time (default %(default)s)")
    parser.add_argument(
        "--rtp-port-min", type=int, default=10000, help="server's ports from here, generator's above them"
    )
    parser.add_argument(
        "--phase-ms", type=float, default=0, help="shift of the first talker's packets to the server's ticks"
    )
    parser.add_argument("--json", type=Path, help="write all figures and the generator's raw result there")
    parser.add_argument("--keep-log", action="store_true", help="keep the server's log in build/ and say where")
    parser.add_argument(
        "--server-command", type=shlex.split, help="start this instead of the server (it gets its environment)"
    )
    chosen = parser.parse_args(arguments)
    if min(chosen.legs, chosen.room_size, chosen.concurrency) < 1 or chosen.seconds <= 0 or chosen.sockets < 0:
        parser.error("numbers must be positive")
    return chosen


async def measure(chosen: argparse.Namespace, server: Server, generator: Generator, show: Progress) -> Readings:
    """Everything between two running processes and their end; `ending` is filled in by the caller."""
    rooms = -(-chosen.legs // chosen.room_size)
    show.show("starting the server")
    ready_seconds = await server.start()
    memory_idle = server.tree.memory()
    targets = [
        (
            f"sip:{leg // chosen.room_size}-{leg % chosen.room_size}@127.0.0.1:{generator.sip_port}",
            f"bench-{leg // chosen.room_size}",
        )
        for leg in range(chosen.legs)
    ]
    async with Caller.connect(server.url) as caller:
        setup: SetUp = await caller.call_all(
            targets,
            chosen.codec,
            chosen.concurrency,
            lambda done: show.show("setting up calls", done / chosen.legs, f"{done} of {chosen.legs}"),
        )
        if not setup.setup_ms:
            raise BenchError(f"no call came up, the first: {setup.failures[0]}\n{server.last_lines()}")
        await asyncio.sleep(SETTLE_S)
        began = time.monotonic()

        def on_status(status: dict[str, str]) -> None:
            passed = min(time.monotonic() - began, chosen.seconds)
            detail = f"{passed:.0f} of {chosen.seconds:.0f} s, {status['calls']} calls, {status['lost']} lost"
            show.show("measuring", passed / chosen.seconds, detail)

        metrics_before = await server.metrics()
        cpu_before, generator_before, began = server.tree.cpu_ns(), generator.cpu_ns(), time.monotonic()
        measuring = asyncio.create_task(generator.measure(chosen.seconds, on_status))
        try:
            await asyncio.wait({measuring}, timeout=chosen.seconds)
            cpu_after, generator_after, cpu_seconds = server.tree.cpu_ns(), generator.cpu_ns(), time.monotonic() - began
            result: dict[str, Any] = await measuring
        finally:
            measuring.cancel()  # only an interrupted bench leaves it unfinished
        metrics_after = await server.metrics()
        return Readings(
            legs=chosen.legs,
            rooms=rooms,
            setup=setup,
            cpu_seconds=cpu_seconds,
            cpu_ns_by_kind=server.tree.cpu_ns_by_kind(cpu_before, cpu_after),
            generator_ns=generator_after - generator_before,
            memory_idle=memory_idle,
            memory_loaded=server.tree.memory(),
            generator=result,
            metrics=growth(metrics_before, metrics_after),
            ready_seconds=ready_seconds,
            ending=Ending(None, 0.0, [], []),
        )


async def bench(root: Path, chosen: argparse.Namespace, log: Path, show: Progress) -> Readings:
    show.show("building the generator")
    binary = build(root)
    rtp_port_max = chosen.rtp_port_min + max(1000, 3 * chosen.legs)
    names = {"calls": "legs", "room-size": "room_size", "talkers": "talkers", "codec": "codec", "phase-ms": "phase_ms"}
    generator = Generator(
        binary,
        {**{name: str(getattr(chosen, option)) for name, option in names.items()}, "rtp-base": str(rtp_port_max + 2)},
    )
    settings = {
        "ROOM_PLACEMENT": chosen.placement,
        "DEFAULT_SAMPLE_RATE": str(chosen.rate),
        "RTP_PORT_MIN": str(chosen.rtp_port_min),
        "RTP_PORT_MAX": str(rtp_port_max),
        "VSI_EVENT_BUFFER_SIZE": "100000",  # a dropped event would look like a call that failed
    }
    server = Server(root, chosen.server_command or server_command(root), settings, log)
    await generator.start()
    ending = None
    try:
        readings = await measure(chosen, server, generator, show)
    finally:
        show.show("ending")
        if server.process is not None:
            ending = await server.stop()
        await generator.stop()
        show.end()
    assert ending is not None
    return replace(readings, ending=ending)


def run(root: Path) -> int:
    chosen = options()
    show = Progress()
    if chosen.sockets:
        return sockets.run(root, chosen, show.show, show.end)
    log = root / "build" / f"bench-{chosen.legs}x{chosen.room_size}-{int(time.time())}.log"
    log.parent.mkdir(exist_ok=True)
    try:
        readings = asyncio.run(bench(root, chosen, log, show))
    except (BenchError, aiohttp.ClientError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if chosen.keep_log:
            print(f"bench: the server's log is {log}", file=sys.stderr)
        else:
            log.unlink(missing_ok=True)
    found = figures(readings)
    rooms = f"rooms of {chosen.room_size}, {chosen.placement}, {chosen.rate} Hz"
    print(f"{chosen.legs} legs, {rooms}, {chosen.codec}, {chosen.seconds:g} s")
    print(table(found, chosen.legs))
    for failure in readings.setup.failures[:5]:
        print(f"bench: {failure}", file=sys.stderr)
    if chosen.json:
        given = {name: str(value) if isinstance(value, Path) else value for name, value in vars(chosen).items()}
        chosen.json.write_text(
            json.dumps({"options": given, "figures": found, "generator": readings.generator}, indent=1) + "\n"
        )
    return 0
