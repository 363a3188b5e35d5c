"""One measured stretch of time: what the server's processes used, and what the generator saw meanwhile.

Runs in: scripts/bench.
Not here: what is going on in the window -> main.py, services.py; figures -> report.py.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchlib.generator import Generator
from benchlib.server import Server


@dataclass(frozen=True)
class Window:
    seconds: float  # between the two CPU readings
    cpu_ns_by_kind: dict[str, int]
    generator_ns: int
    generator: dict[str, Any]  # its raw result


async def measure_window(
    server: Server, generator: Generator, seconds: float, show: Callable[[float, str], None]
) -> Window:
    """From now for so many seconds. `show` is told the part that has passed, 0..1, and a line for the person at the terminal."""
    began = time.monotonic()

    def on_status(status: dict[str, str]) -> None:
        passed = min(time.monotonic() - began, seconds)
        show(passed / seconds, f"{passed:.0f} of {seconds:.0f} s, {status['calls']} calls, {status['lost']} lost")

    cpu_before, generator_before, began = server.tree.cpu_ns(), generator.cpu_ns(), time.monotonic()
    measuring = asyncio.create_task(generator.measure(seconds, on_status))
    try:
        await asyncio.wait({measuring}, timeout=seconds)
        cpu_after, generator_after, cpu_seconds = server.tree.cpu_ns(), generator.cpu_ns(), time.monotonic() - began
        result = await measuring
    finally:
        measuring.cancel()  # only an interrupted bench leaves it unfinished
    return Window(
        seconds=cpu_seconds,
        cpu_ns_by_kind=server.tree.cpu_ns_by_kind(cpu_before, cpu_after),
        generator_ns=generator_after - generator_before,
        generator=result,
    )
