"""Which frequencies a recording holds, how loud they are, and where it is interrupted.

Levels are in dB below a full-scale sine (dBFS). A phone's default tone (amplitude 4000) is at -18 dBFS.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from tests.flows.tools.recording import Recording

HEARD_DB = -32.0
SILENT_DB = -50.0

Audio = NDArray[np.int16]


def level_db(audio: Audio, rate_hz: int, tone_hz: float) -> float:
    """Level of one frequency: a single DFT bin under a Hann window (main lobe ±2 bins of 1/duration)."""
    if audio.size == 0:
        return -120.0
    window = np.hanning(audio.size)
    turn = np.exp(-2j * np.pi * tone_hz / rate_hz * np.arange(audio.size))
    amplitude = 2 * abs(np.sum(audio * window * turn)) / max(np.sum(window), 1.0)
    return float(20 * np.log10(max(amplitude, 0.03) / 32768))


def tones(audio: Audio, rate_hz: int, *, above_db: float = HEARD_DB) -> set[int]:
    """The frequencies (Hz, rounded to 10) that stand as peaks above a level. Needs 200 ms or more."""
    window = np.hanning(audio.size)
    spectrum = 2 * np.abs(np.fft.rfft(audio * window)) / np.sum(window) / 32768
    floor = 10 ** (above_db / 20)
    inner = spectrum[1:-1]
    peaks = np.flatnonzero((inner >= spectrum[:-2]) & (inner > spectrum[2:]) & (inner > floor)) + 1
    return {round(float(bin_) * rate_hz / audio.size / 10) * 10 for bin_ in peaks}


def assert_hears(
    recording: Recording, wanted: Iterable[float], *, not_: Iterable[float] = (), only: bool = False
) -> None:
    """Every wanted tone is loud, every other is absent; with `only`, no further peak is there either."""
    wanted = set(wanted)
    levels = {f: level_db(recording.audio, recording.rate_hz, f) for f in wanted | set(not_)}
    shown = ", ".join(f"{f:g} Hz {db:.1f} dB" for f, db in sorted(levels.items()))
    assert recording.audio.size, "nothing was received"
    for tone_hz in wanted:
        assert levels[tone_hz] > HEARD_DB, f"{tone_hz:g} Hz is not heard: {shown}"
    for tone_hz in not_:
        assert levels[tone_hz] < SILENT_DB, f"{tone_hz:g} Hz should not be heard: {shown}"
    if only:
        extra = {f for f in tones(recording.audio, recording.rate_hz) if all(abs(f - w) > 15 for w in wanted)}
        assert not extra, f"unexpected tones {sorted(extra)} beside {shown}"


def assert_silent(recording: Recording, *, peak: int = 16) -> None:
    """Nothing but comfort noise (±8 by the contract, more after a codec) in what was received."""
    assert recording.audio.size, "nothing was received: silence must still be sent"
    loudest = int(np.max(np.abs(recording.audio.astype(np.int32))))
    assert loudest <= peak, f"not silent: peak {loudest}"


def longest_gap_ms(recording: Recording, tone_hz: float, *, below_db: float = -40.0, step_ms: float = 5.0) -> float:
    """The longest stretch without the tone, laid out by RTP time, in windows of 20 ms."""
    size, step = int(recording.rate_hz * 0.02), int(recording.rate_hz * step_ms / 1000)
    longest = run = 0
    for start in range(0, recording.audio.size - size + 1, step):
        absent = level_db(recording.audio[start : start + size], recording.rate_hz, tone_hz) < below_db
        run = run + 1 if absent else 0
        longest = max(longest, run)
    return longest * step_ms


def longest_quiet_ms(recording: Recording, *, below_rms: float = 300.0, step_ms: float = 5.0) -> float:
    """The longest stretch, laid out by RTP time, in which every step of 5 ms is quieter than a soft voice."""
    step = int(recording.rate_hz * step_ms / 1000)
    steps = recording.audio[: recording.audio.size // step * step].reshape(-1, step).astype(np.float64)
    longest = run = 0
    for loudness in np.sqrt(np.mean(steps**2, axis=1)):
        run = run + 1 if loudness < below_rms else 0
        longest = max(longest, run)
    return longest * step_ms


def onset_ms(recording: Recording, tone_hz: float, *, above_db: float = -30.0) -> float:
    """When the tone is first heard, in ms from the start of the recording; infinite when never."""
    size, step = int(recording.rate_hz * 0.02), int(recording.rate_hz * 0.005)
    for start in range(0, recording.audio.size - size + 1, step):
        if level_db(recording.audio[start : start + size], recording.rate_hz, tone_hz) > above_db:
            return 1000 * start / recording.rate_hz
    return float("inf")


def heard_ms(recording: Recording, tone_hz: float, *, above_db: float = -30.0, step_ms: float = 5.0) -> float:
    """For how long the tone is heard in all, laid out by RTP time; its edges count from half a window of 20 ms on."""
    size, step = int(recording.rate_hz * 0.02), int(recording.rate_hz * step_ms / 1000)
    starts = range(0, recording.audio.size - size + 1, step)
    heard = [level_db(recording.audio[start : start + size], recording.rate_hz, tone_hz) > above_db for start in starts]
    return sum(heard) * step_ms
