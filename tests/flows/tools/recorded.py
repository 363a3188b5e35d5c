"""Recordings on disk, as a reader sees them."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from tests.flows.tools.spectrum import tones

HEADER_BYTES = 44

Samples = NDArray[np.int16]


def read(path: str | Path) -> tuple[Samples, int]:
    """(samples (frames, channels), rate)"""
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o644
    samples, rate_hz = soundfile.read(str(path), dtype="int16", always_2d=True)
    return samples, rate_hz


def heard_in(part: Samples, rate_hz: int) -> set[int]:
    """The tones of some 200 ms or more."""
    return {round(tone, -1) for tone in tones(part, rate_hz)}


def hidden(path: str | Path) -> Path:
    """Where the recording `path` is until it is complete."""
    return Path(path).with_name(f".{Path(path).name}.rec")


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def left_over(folder: Path) -> list[str]:
    """Hidden files; the spool folder of uploads is none."""
    return sorted(path.name for path in folder.iterdir() if path.name.startswith(".") and path.is_file())


async def captured(path: str, within_s: float = 5.0) -> None:
    """Wait until something of the recording `path` is on disk: one that is stopped before leaves no file, and rightly so."""
    async with asyncio.timeout(within_s):
        while hidden(path).stat().st_size <= HEADER_BYTES:  # noqa: ASYNC110 - nobody announces what a thread writes
            await asyncio.sleep(0.02)


async def tidy(folder: Path, within_s: float = 5.0, *, but: Iterable[str] = ()) -> None:
    """Wait until nothing hidden is left: notes go a moment after the end is told."""
    async with asyncio.timeout(within_s):
        while set(left_over(folder)) - set(but):  # noqa: ASYNC110 - a foreign process removes them
            await asyncio.sleep(0.02)
