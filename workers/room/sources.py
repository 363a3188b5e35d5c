"""Sources: playbacks and tones, which are heard and do not listen.

Runs in: a room worker.
Owns: cursor, repetition, volume and end of each playback; the frames of a tick, before it is mixed.

Rules
1. A clip may still be growing: while the next frame is not there its playback waits in silence, which does not count as played.
2. Each pass over a clip starts on a frame border; its last partial frame is padded and counts (media.md 5).
3. A change of volume is a ramp over the next frame, a stop one down to silence: nothing clicks.
4. Nothing here can fail: names and descriptors are checked when a playback is made.

Not here: commands and events -> `playbacks.py`; who hears it -> `mixer.py`.
"""

from typing import Literal, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from shm.clip import COMPLETE, FAILED, GROWING, Clip
from shm.clock import TICKS_PER_SECOND
from shm.messages import StartPlayback
from workers.audio.resample import resampler
from workers.audio.tones import Tone
from workers.room.mixer import NOWHERE, Indices, Samples, is_loud

Reason = Literal["completed", "stopped", "failed"]
TICK_MS = 1000 // TICKS_PER_SECOND
VOLUME_LIMIT = 8


class Sound(Protocol):
    @property
    def ended(self) -> Reason | None: ...

    def next_frame(self) -> Samples | None:
        """20 ms; None when there is none (yet, or for ever: then `ended` tells why)."""


class ToneSound:
    ended: Reason | None = None

    def __init__(self, tone: Tone, rate_hz: int, played_ticks: int) -> None:
        self._tone = tone
        self._rate_hz = rate_hz
        self._index = played_ticks
        tone.frame(0, rate_hz)  # the first one ever computes a whole second: not in a tick

    def next_frame(self) -> Samples | None:
        self._index += 1
        return self._tone.frame(self._index - 1, self._rate_hz)


class ClipSound:
    """`repeat`: 0 = endless. `played_ticks`: how many frames were played elsewhere, of as many passes as that makes."""

    def __init__(self, clip: Clip, frame_samples: int, repeat: int, played_ticks: int) -> None:
        self.ended: Reason | None = None
        self._clip = clip
        self._frame_samples = frame_samples
        self._repeat = repeat
        self._whole = np.empty((0, frame_samples), np.int16)  # the frames that were there at the last look
        state, rest = self._look()
        frames = len(self._whole) + (state != GROWING and len(rest) > 0)
        self._passes, self._cursor = 0, min(played_ticks, frames)
        if played_ticks > frames and state == COMPLETE and frames:
            self._passes, self._cursor = divmod(played_ticks, frames)
            if 0 < repeat <= self._passes:
                self._passes, self._cursor = repeat - 1, frames

    def next_frame(self) -> Samples | None:
        if self._cursor >= len(self._whole):
            return self._beyond()
        frame: Samples = self._whole[self._cursor]
        self._cursor += 1
        return frame

    def _look(self) -> tuple[int, Samples]:
        """(state, samples behind the last whole frame)"""
        state = self._clip.state  # before the samples: what is complete now has all of them now
        samples = self._clip.read(0, 1 << 62)
        split = len(samples) - len(samples) % self._frame_samples
        self._whole = samples[:split].reshape(-1, self._frame_samples)
        return state, samples[split:]

    def _beyond(self) -> Samples | None:
        """What has come meanwhile, the last frame of a pass, or the first of the next."""
        state, rest = self._look()
        if self._cursor < len(self._whole):
            return self.next_frame()
        if state == GROWING:
            return None
        if not len(rest) or self._cursor > len(self._whole):
            return self._next_pass(state)
        padded = np.zeros(self._frame_samples, np.int16)
        padded[: len(rest)] = rest
        self._cursor += 1
        return padded

    def _next_pass(self, state: int) -> Samples | None:
        self._passes += 1
        if state == FAILED:
            self.ended = "failed"
        elif self._passes == self._repeat or not self._cursor:
            self.ended = "completed"
        else:
            self._cursor = 0
            return self.next_frame()
        return None


class ConvertedSound:
    """A clip made for a room of another rate: its leg has moved."""

    def __init__(self, sound: Sound, from_hz: int, to_hz: int) -> None:
        self._sound = sound
        self._convert = resampler(from_hz, to_hz)
        self._history = np.zeros((1, self._convert.history), np.int16)

    @property
    def ended(self) -> Reason | None:
        return self._sound.ended

    def next_frame(self) -> Samples | None:
        frame = self._sound.next_frame()
        if frame is None:
            return None
        block = frame.reshape(1, -1)
        converted: Samples = self._convert(self._history, block)[0]
        self._history = block[:, block.shape[1] - self._convert.history :].copy()
        return converted


class Playback:
    """One running playback. `descriptor`: its clip's, for whoever goes on with it; -1 for a tone."""

    def __init__(self, command: StartPlayback, sound: Sound, descriptor: int) -> None:
        self.command = command
        self.descriptor = descriptor
        self.played_ticks = command.played_ticks
        self.first_tick = 0  # of the first frame played here
        self.ended: Reason | None = None
        self._sound = sound
        self._volume = command.volume
        self._gain = self._wished_gain = _gain(command.volume)
        self._is_stopping = False

    def set_volume(self, volume: int) -> None:
        self._volume = volume
        if not self._is_stopping:
            self._wished_gain = _gain(volume)

    def stop(self) -> None:
        """Fade out over the next frame; at once when nothing sounds."""
        if self.first_tick:
            self._is_stopping = True
            self._wished_gain = 0.0
        else:
            self.ended = self.ended or "stopped"

    def going_on(self) -> StartPlayback:
        """The command that goes on with it elsewhere."""
        return msgspec.structs.replace(self.command, command_id=0, volume=self._volume, played_ticks=self.played_ticks)

    def prepare(self, tick: int, out: Samples) -> bool:
        """Put this tick's frame into `out`; False when there is none."""
        if self.ended:
            return False
        frame = None if self._is_stopping and not self._gain else self._sound.next_frame()
        if frame is None:
            self.ended = "stopped" if self._is_stopping else self._sound.ended
            return False
        self.first_tick = self.first_tick or tick
        self.played_ticks += 1
        if self._gain != self._wished_gain:
            self._ramp(frame, out)
        elif self._gain == 1.0:
            out[:] = frame
        else:
            _scale(frame, np.float32(self._gain), out)
        return True

    def _ramp(self, frame: Samples, out: Samples) -> None:
        gains = np.arange(1, len(frame) + 1, dtype=np.float32)
        gains *= (self._wished_gain - self._gain) / len(frame)
        gains += self._gain
        _scale(frame, gains, out)
        self._gain = self._wished_gain
        if self._is_stopping:
            self.ended = "stopped"


class Sources:
    """The playbacks of all rooms of one group.

    positions: (m,) each one's place among the talkers, NOWHERE = unheard
    frames: (m, n) and sounds: (m,) what each plays in the tick that was prepared, and whether it does
    """

    def __init__(self, playbacks: list[Playback], positions: Indices, frame_samples: int) -> None:
        self._playbacks = playbacks
        self.positions = positions
        self.frames = np.zeros((len(playbacks), frame_samples), np.int16)
        self.sounds = [False] * len(playbacks)
        self._outs = list(self.frames)
        self._is_heard = positions != NOWHERE

    def prepare(self, tick: int) -> None:
        """Before the mix of `tick`."""
        self.sounds = [playback.prepare(tick, out) for playback, out in zip(self._playbacks, self._outs, strict=True)]

    def join(self, talkers: Indices, frames: Samples) -> tuple[Indices, Samples]:
        """Talkers and frames with those of the sources behind them."""
        sounding = self._is_heard & self.sounds & is_loud(self.frames)
        return (
            np.concatenate([talkers, self.positions[sounding]]),
            np.concatenate([frames, self.frames[sounding]]),
        )


def _gain(volume: int) -> float:
    """3 dB a step (media.md 5)."""
    return float(10 ** (0.15 * volume))


def _scale(frame: Samples, gain: np.float32 | NDArray[np.float32], out: Samples) -> None:
    scaled = frame * gain
    np.rint(scaled, out=scaled)
    np.clip(scaled, -32768, 32767, out=scaled)
    out[:] = scaled
