"""Call progress tones of eleven countries (contract media.md, section 4).

Runs in: room (a tone is a source), rtp never.
Owns: frequencies and cadences, and the sound of a tone at any moment.

Rules
1. No state: a frame is computed from its number alone, so a restarted room goes on where it was.
2. All frequencies are whole hertz, so every tone repeats after one second. That second is computed once for each sound and rate
   (50 frames; 192 KB at 48 kHz) and shared by all rooms of the process.
3. The sine runs on through pauses. A burst rises in its first 2 ms and falls in its last 2, so pauses are exactly silent.
4. Edges are at whole milliseconds, and so at whole samples at every rate.

Not here: volume, repetition and the end of playing → workers/room.
"""

from bisect import bisect_right
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

FRAME_MS = 20
FRAMES_PER_SECOND = 1000 // FRAME_MS
PEAK = 23_000
RAMP_MS = 2
TYPES = ("ringback", "busy", "dial", "congestion")

# As the contract writes them: frequencies added with +, modulated with *, then on/off/on/off in ms. A burst may have a level.
_TONES = {
    "us": ("440+480 2000/4000", "480+620 500/500", "350+440", "480+620 250/250"),
    "gb": ("400+450 400/200/400/2000", "400 375/375", "350+440", "400 400/350/225/525"),
    "de": ("425 1000/4000", "425 480/480", "425", "425 240/240"),
    "fr": ("440 1500/3500", "440 500/500", "440", "440 250/250"),
    "au": ("413+438 400/200/400/2000", "425 375/375", "413+438", "425 375/375/375@-10dB/375"),
    "jp": ("400*16 1000/2000", "400 500/500", "400", "400 250/250"),
    "it": ("425 1000/4000", "425 500/500", "425 200/200/600/1000", "425 200/200"),
    "in": ("400*25 400/200/400/2000", "400 750/750", "400*25", "400 250/250"),
    "br": ("425 1000/4000", "425 250/250", "425", "425 250/250"),
    "pl": ("425 1000/4000", "425 500/500", "425", "425 500/500"),
    "ru": ("425 800/3200", "425 350/350", "425", "425 175/175"),
}
_ALIASES = {"uk": "gb"}
NAMES = tuple(f"{country}_{type_}" for country in _TONES for type_ in TYPES)


@dataclass(frozen=True)
class Tone:
    """One tone; `corners` are the (ms, level 0…1) between which the envelope is straight; before and after them it is level."""

    name: str
    frequencies_hz: tuple[int, ...]
    modulation_hz: int  # 0: none
    corners: tuple[tuple[int, float], ...]
    period_ms: int  # 0: the envelope does not repeat

    def frame(self, index: int, rate_hz: int) -> NDArray[np.int16]:
        """Frame number `index` ≥ 0 since the tone began, at 8, 16 or 48 kHz: 20 ms as int16, a new array."""
        sine = _second(self.frequencies_hz, self.modulation_hz, rate_hz)[index % FRAMES_PER_SECOND]
        frame: NDArray[np.int16] = np.rint(sine * self._level(index * sine.size, sine.size, rate_hz)).astype(np.int16)
        return frame

    def _level(self, begin: int, count: int, rate_hz: int) -> NDArray[np.float64] | float:
        """The envelope of `count` samples from sample `begin` on; one number where it is level, as it nearly always is."""
        at, levels = _envelope(self.corners, rate_hz)
        period = self.period_ms * rate_hz // 1000
        if period:
            begin %= period
        following = bisect_right(at, begin)
        next_corner = at[following] if following < len(at) else period or begin + count
        if begin + count <= next_corner and levels[following - 1] == levels[min(following, len(at) - 1)]:
            return levels[following - 1]
        samples = np.arange(begin, begin + count)
        return np.interp(samples % period if period else samples, at, levels)


def parse_tone(name: str) -> Tone:
    """`gb_busy`, `uk_busy`, ` Dial ` (the United States' one) → the tone. ValueError that lists the known names."""
    country, underscore, type_ = name.strip().lower().partition("_")
    if not underscore:
        country, type_ = "us", country
    known = f"{_ALIASES.get(country, country)}_{type_}"
    if known not in _TABLE:
        raise ValueError(f"unknown tone {name.strip()[:40]!r}; known are {', '.join(TYPES)} and {', '.join(NAMES)}")
    return _TABLE[known]


def _tone(name: str, written: str) -> Tone:
    frequencies, _, cadence = written.partition(" ")
    carriers, _, modulation = frequencies.partition("*")
    corners: list[tuple[int, float]] = []
    at_ms = 0
    spans = cadence.split("/") if cadence else []
    for on, off in zip(spans[::2], spans[1::2], strict=True):
        length, _, level_db = on.partition("@")
        level = 10 ** (int(level_db.removesuffix("dB") or 0) / 20)
        end_ms = at_ms + int(length)
        corners += [(at_ms, 0.0), (at_ms + RAMP_MS, level), (end_ms - RAMP_MS, level), (end_ms, 0.0)]
        at_ms = end_ms + int(off)
    return Tone(
        name=name,
        frequencies_hz=tuple(map(int, carriers.split("+"))),
        modulation_hz=int(modulation or 0),
        corners=tuple(corners) or ((0, 0.0), (RAMP_MS, 1.0)),
        period_ms=at_ms,
    )


_TABLE = {
    (name := f"{country}_{type_}"): _tone(name, written)
    for country, tones in _TONES.items()
    for type_, written in zip(TYPES, tones, strict=True)
}


@cache
def _second(frequencies_hz: tuple[int, ...], modulation_hz: int, rate_hz: int) -> NDArray[np.float32]:
    """(50, samples of 20 ms) of the sound at full level, read-only."""
    turns = 2 * np.pi * np.arange(rate_hz) / rate_hz
    second = np.mean([np.sin(frequency_hz * turns) for frequency_hz in frequencies_hz], axis=0)
    if modulation_hz:
        second *= 0.5 + 0.5 * np.sin(modulation_hz * turns)
    frames: NDArray[np.float32] = (PEAK * second).astype(np.float32).reshape(FRAMES_PER_SECOND, -1)
    frames.flags.writeable = False
    return frames


@cache
def _envelope(corners: tuple[tuple[int, float], ...], rate_hz: int) -> tuple[list[int], list[float]]:
    """Sample numbers and levels of the corners; the first is at 0."""
    return [at_ms * rate_hz // 1000 for at_ms, _ in corners], [level for _, level in corners]
