"""A recording through `kill -9` of room worker, stream and control at random moments: every frame in its place.

Each phone speaks noise of its own that never repeats, so that no frame is like another. What one of them hears is the sum of the
others, tick by tick, whatever playout has done to them before; and so must be the sum of their channels, from the first frame
to the last. What a killed room worker had not written yet is silence, a second at most.

RECORDING_KILLS: how many (10), RECORDING_KILLS_SEED: which.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
import wave
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from tests.flows.conftest import Phones
from tests.flows.tools.codecs import CODECS
from tests.flows.tools.events import Vsi
from tests.flows.tools.recording import Recording
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server

pytestmark = pytest.mark.flow

KILLS = int(os.environ.get("RECORDING_KILLS", "10"))
SEED = int(os.environ.get("RECORDING_KILLS_SEED", "0")) or random.randrange(1, 1_000_000)
RATE_HZ, FRAME_SAMPLES, FRAME_S = 8000, 160, 0.02
LOST_S = 1.0  # the most that a death may cost
ROOM, STREAM, CONTROL = "room r", "stream 0", "control"

Samples = NDArray[np.int16]
Flags = NDArray[np.bool_]


@dataclass
class Killer:
    """Chooses moments and victims. The third death of a room worker within 10 s would end the room, and rightly so."""

    server: Server
    chance: random.Random
    at_s: dict[str, list[float]] = field(default_factory=lambda: {ROOM: [], STREAM: [], CONTROL: []})

    def _next_victim(self) -> str:
        recent = [at_s for at_s in self.at_s[ROOM] if at_s > time.monotonic() - 10.5]
        return self.chance.choice([STREAM, CONTROL] if len(recent) >= 2 else [ROOM, ROOM, STREAM, CONTROL])

    def strike(self) -> None:
        """Returns when the victim's successor is there."""
        victim = self._next_victim()
        before = self.server.only(f"roomtone: {victim}").pid
        self.at_s[victim].append(self.server.slay(f"roomtone: {victim}"))
        deadline_s = time.monotonic() + 5
        while all(one.pid == before for one in self.server.titled(f"roomtone: {victim}")):
            assert time.monotonic() < deadline_s, f"no successor of {victim}"
            time.sleep(0.02)  # polling foreign processes


def noise(index: int) -> Samples:
    """Longer than any recording here."""
    return np.random.default_rng(index).integers(-3000, 3000, RATE_HZ * (60 + 4 * KILLS)).astype(np.int16)


def coded(samples: Samples) -> Samples:
    """As a phone with PCMU hears it."""
    codec = CODECS["PCMU"]
    return codec.decoder()(codec.encoder()(samples))


def read(path: str | Path) -> Samples:
    """(frames, channels); both readers agree."""
    samples, rate_hz = soundfile.read(str(path), dtype="int16", always_2d=True)
    with wave.open(str(path), "rb") as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (rate_hz, *samples.shape[::-1])
    assert rate_hz == RATE_HZ
    return samples


def framed(samples: Samples) -> Samples:
    return samples[: len(samples) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)


def runs(flags: Flags) -> list[tuple[int, int]]:
    """(first, behind the last) of each stretch of frames that are so."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def offset_of(part: Samples, whole: Samples) -> int:
    """Where in `whole` the part lies."""
    size = len(part) + len(whole)
    spectrum = np.fft.rfft(whole.astype(np.float64), size) * np.conj(np.fft.rfft(part.astype(np.float64), size))
    return int(np.argmax(np.fft.irfft(spectrum, size)[: len(whole)]))


def assert_in_place(recorded: Samples, heard: Recording, silent: Flags) -> None:
    """`recorded` is what was heard, with one distance in time from the first frame to the last."""
    assert heard.rate_hz == RATE_HZ
    start, end = max(runs(~silent), key=lambda run: run[1] - run[0])
    middle = (start + end) // 2
    expected, frames = coded(recorded), framed(recorded)
    part = slice(middle * FRAME_SAMPLES, (middle + 25) * FRAME_SAMPLES)
    distance = offset_of(expected[part], heard.audio) - part.start
    at = np.arange(len(recorded)) + distance
    is_there = framed((at >= 0) & (at < len(heard.audio)))[:, 0]
    at = at.clip(0, len(heard.audio) - 1)
    is_same = (framed(expected) == framed(heard.audio[at])).all(axis=1)
    compared = is_there & framed(heard.present[at]).all(axis=1) & ~silent
    assert compared.sum() > 0.95 * (~silent).sum(), "the phone did not hear enough to compare"
    for start, end in runs(~silent):
        share = is_same[start:end][compared[start:end]].mean()
        assert share > 0.9, f"{share:.0%} of frames {start} to {end} of {len(frames)} are where they were heard"
    assert is_same[compared].mean() > 0.98


async def test_nothing_but_a_second_is_lost_and_nothing_is_displaced(
    own_server: Any, tmp_path: Path, phones: Phones
) -> None:
    server = own_server(RECORDING_DIR=str(tmp_path), COMFORT_NOISE_ENABLED="false")
    killer = Killer(server, random.Random(SEED))
    voices = [noise(index) for index in range(3)]
    async with Rest(server.base) as rest:
        await rest.room("r", sample_rate=RATE_HZ)
        legs = [await phones.dialled(rest, codecs=("PCMU",), fields={"room_id": "r"}) for _ in voices]
        for (_, call), voice in zip(legs, voices, strict=True):
            call.media.say(samples=voice)
        await asyncio.gather(*(call.media.listen(0.5) for _, call in legs))
        begun = await rest.post("/rooms/r/record", {"multi_channel": True})
        began_s = time.monotonic()
    hidden = Path(begun["file"]).with_name(f".{Path(begun['file']).name}.rec")
    for _ in range(KILLS):
        await asyncio.sleep(killer.chance.uniform(0.1, 1.5))  # a random moment
        await asyncio.to_thread(killer.strike)
        assert len(read(hidden)) / RATE_HZ > time.monotonic() - began_s - LOST_S - 0.5, "the file did not keep up"
    await asyncio.sleep(0.5)  # something follows the last death
    async with Rest(server.base) as rest, Vsi(server.base) as vsi:
        stopped = (await rest.delete("/rooms/r/record")).json
        length_s = time.monotonic() - began_s
        assert (await vsi.wait("recording.finished", room_id="r"))["channels"] == stopped["channels"]
    mix, merged = read(stopped["file"])[:, 0], read(stopped["multi_channel_file"])
    assert merged.shape == (len(mix), 3)
    assert len(mix) % FRAME_SAMPLES == 0
    assert len(mix) / RATE_HZ == pytest.approx(length_s, abs=0.5)
    assert np.array_equal(mix, merged.sum(axis=1, dtype=np.int16))
    silent = ~framed(mix).any(axis=1)
    assert set(stopped["channels"]) == {leg_id for leg_id, _ in legs}
    for (leg_id, call), voice in zip(legs, voices, strict=True):
        told = stopped["channels"][leg_id]
        own = merged[:, told["channel"]]
        assert np.array_equal(read(told["file"])[:, 0], own)
        assert (told["start_ms"], told["end_ms"]) == (0, len(mix) * 1000 // RATE_HZ)
        assert_in_place(mix - own, call.media.recorded(since_s=began_s - 1, until_s=began_s + length_s + 1), silent)
        first = int(np.argmin(silent)) * FRAME_SAMPLES
        part = slice(first + 160, first + 160 + 800)
        said_at = offset_of(own[part], coded(voice))
        assert np.mean(own[part] == coded(voice)[said_at : said_at + 800]) > 0.5, "the channel is not this phone's"
    for start, end in runs(silent):
        near = [at for at in killer.at_s[ROOM] if start * FRAME_S - 0.5 <= at - began_s <= end * FRAME_S + 0.5]
        assert near, f"silent from {start * FRAME_S:.2f} to {end * FRAME_S:.2f} s, and nobody had died"
        assert (end - start) * FRAME_S <= LOST_S * len(near)
    print(
        f"\nseed {SEED}: {', '.join(f'{len(at)} x {victim}' for victim, at in killer.at_s.items())} in {length_s:.1f} s;"
        f" silences {', '.join(f'{20 * (end - start)}' for start, end in runs(silent)) or 'none'} ms"
    )
    await asyncio.to_thread(server.stop)
