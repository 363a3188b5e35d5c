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
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import aiohttp

from benchlib import sockets
from benchlib.calls import Caller, SetUp
from benchlib.generator import Generator, build
from benchlib.metrics import growth
from benchlib.report import Readings, figures, table
from benchlib.server import BenchError, Ending, Server, server_command
from benchlib.services import Cost, chosen_services, cost_of, played_file
from benchlib.window import Window, measure_window

SETTLE_S = 2.0  # playout and latches find their place before anything is measured
BAR_COLUMNS = 30


class Progress:
    """A bar on a terminal; elsewhere one line when a stage begins. All on stderr: stdout has the table, and the figures as JSON
    in its last line."""

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
    parser.add_argument("--play", action="store_true", help="then measure the cost of playing a file to every room")
    parser.add_argument("--record", action="store_true", help="then measure the cost of recording every room")
    parser.add_argument("--multi-channel", action="store_true", help="the same with a file for each call as well")
    parser.add_argument("--json", type=Path, help="write the figures, the options and the generator's raw result there")
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
    await server.settle()
    memory_idle = server.tree.memory()
    targets = [
        (
            f"sip:{leg // chosen.room_size}-{leg % chosen.room_size}@127.0.0.1:{generator.sip_port}",
            f"bench-{leg // chosen.room_size}",
        )
        for leg in range(chosen.legs)
    ]

    async def window(stage: str) -> Window:
        return await measure_window(server, generator, chosen.seconds, partial(show.show, stage))

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
        metrics_before = await server.metrics()
        bare = await window("measuring")
        metrics_after = await server.metrics()
        memory_loaded = server.tree.memory()
        room_ids = list(dict.fromkeys(room_id for _, room_id in targets))
        return Readings(
            legs=chosen.legs,
            rooms=rooms,
            setup=setup,
            window=bare,
            memory_idle=memory_idle,
            memory_loaded=memory_loaded,
            metrics=growth(metrics_before, metrics_after),
            ready_seconds=ready_seconds,
            costs=await costs(chosen, caller, room_ids, window, bare),
            ending=Ending(None, 0.0, [], []),
        )


async def costs(
    chosen: argparse.Namespace,
    caller: Caller,
    rooms: list[str],
    window: Callable[[str], Awaitable[Window]],
    bare: Window,
) -> dict[str, Cost]:
    """The chosen services one after the other, by name."""
    found: dict[str, Cost] = {}
    async with played_file(chosen.rate) as url:
        for service in chosen_services(url, play=chosen.play, record=chosen.record, multi_channel=chosen.multi_channel):
            found[service.name] = await cost_of(service, caller, rooms, window, bare)
            bare = found[service.name].after
    return found


async def bench(root: Path, chosen: argparse.Namespace, log: Path, recordings: str, show: Progress) -> Readings:
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
        "RECORDING_DIR": recordings,
        "FETCH_ALLOW_PRIVATE": "true",  # --play is served from here
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
        with tempfile.TemporaryDirectory(prefix="recordings-", dir=log.parent) as recordings:
            readings = asyncio.run(bench(root, chosen, log, recordings, show))
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
    print(json.dumps(found, separators=(",", ":")))
    for failure in readings.setup.failures[:5]:
        print(f"bench: {failure}", file=sys.stderr)
    if chosen.json:
        given = {name: str(value) if isinstance(value, Path) else value for name, value in vars(chosen).items()}
        chosen.json.write_text(
            json.dumps({"options": given, "figures": found, "generator": readings.window.generator}, indent=1) + "\n"
        )
    return 0
