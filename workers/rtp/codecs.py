"""The codecs of RTP legs: what a payload type means, and from payloads to samples and back, many at once.

Runs in: rtp.
Owns: the table below. An id is an index into it; 0 means "unknown, ignore". Opus takes its place here when it comes.

Rules
1. Payloads of one call have one codec and one length: the caller groups.
2. G722 remembers: a decoder belongs to one leg, an encoder to one source row that any number of legs hear.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shm.messages import Codec
from workers.audio import g711, l16
from workers.audio.g722 import G722Decoder, G722Encoder


@dataclass(frozen=True)
class Wire:
    """One codec on the wire. 20 ms are `frame_bytes`; a payload of `step_bytes * n` bytes holds `step_samples * n` samples."""

    name: str
    wire_hz: int
    clock_hz: int
    step_bytes: int = 1
    step_samples: int = 1

    @property
    def frame_bytes(self) -> int:
        return self.wire_hz // 50 * self.step_bytes // self.step_samples

    @property
    def clock_step(self) -> int:
        """RTP clock units in 20 ms."""
        return self.clock_hz // 50


IGNORED, PCMU, PCMA, G722, L16_8, L16_16, L16_48, TELEPHONE_EVENT, COMFORT_NOISE = range(9)
WIRES: tuple[Wire, ...] = (
    Wire("", 8000, 8000),
    Wire("PCMU", 8000, 8000),
    Wire("PCMA", 8000, 8000),
    Wire("G722", 16000, 8000, step_samples=2),  # RFC 3551 section 4.5.2: the clock is 8000 by an old mistake
    Wire("L16", 8000, 8000, step_bytes=2),
    Wire("L16", 16000, 16000, step_bytes=2),
    Wire("L16", 48000, 48000, step_bytes=2),
)
FIRST_AUDIO, LAST_AUDIO = PCMU, L16_48
STATIC_COMFORT_NOISE_TYPE = 13
_IDS = {(wire.name.upper(), wire.clock_hz): index for index, wire in enumerate(WIRES) if wire.name}


def codec_id(codec: Codec) -> int:
    """The table's index for an agreed codec, IGNORED for one that we do not speak."""
    return _IDS.get((codec.name.upper(), codec.clock_hz), IGNORED)


class Decoders:
    """Payloads to samples."""

    def __init__(self) -> None:
        self._g722: dict[int, G722Decoder] = {}

    def decode(self, codec: int, legs: NDArray[np.int64], payloads: NDArray[np.uint8]) -> NDArray[np.int16]:
        """(k, bytes) of legs (k,) → (k, samples) at the wire's rate."""
        if codec == PCMU:
            return g711.ulaw_decode(payloads)
        if codec == PCMA:
            return g711.alaw_decode(payloads)
        if codec == G722:
            rows = [self._decoder(int(leg)).decode(payload) for leg, payload in zip(legs, payloads, strict=True)]
            return np.array(rows, np.int16)
        return l16.l16_decode(payloads)

    def _decoder(self, leg: int) -> G722Decoder:
        decoder = self._g722.get(leg)
        if decoder is None:
            decoder = self._g722[leg] = G722Decoder()
        return decoder

    def forget(self, leg: int) -> None:
        """The stream of this leg begins anew."""
        self._g722.pop(leg, None)


class Encoders:
    """Samples to payloads; `place` names what a G722 encoder goes on from: the row heard."""

    def __init__(self) -> None:
        self._g722: dict[tuple[int, int], tuple[G722Encoder, int]] = {}  # (bank, row) → encoder, tick of its last frame
        self._silences: dict[int, NDArray[np.uint8]] = {
            codec: self.encode(codec, np.zeros((1, WIRES[codec].wire_hz // 50), np.int16), 0, np.array([-1]), 0)[0]
            for codec in range(FIRST_AUDIO, LAST_AUDIO + 1)
        }

    def silence(self, codec: int) -> NDArray[np.uint8]:
        """(frame_bytes,): 20 ms of nothing."""
        return self._silences[codec]

    def encode(
        self, codec: int, frames: NDArray[np.int16], bank: int, rows: NDArray[np.integer], tick: int
    ) -> NDArray[np.uint8]:
        """Frames (u, 20 ms at the wire's rate) that `rows` of `bank` said at `tick` → payloads (u, frame_bytes)."""
        if codec == PCMU:
            return g711.ulaw_encode(frames)
        if codec == PCMA:
            return g711.alaw_encode(frames)
        if codec == G722:
            coded = [
                self._encoder((bank, int(row)), tick).encode(frame) for row, frame in zip(rows, frames, strict=True)
            ]
            return np.frombuffer(b"".join(coded), np.uint8).reshape(len(frames), -1)
        return l16.l16_encode(frames)

    def _encoder(self, key: tuple[int, int], tick: int) -> G722Encoder:
        encoder = self._g722[key][0] if key in self._g722 else G722Encoder()
        self._g722[key] = encoder, tick
        return encoder

    def forget_unused(self, tick: int) -> None:
        """Once a second: drop encoders of rows that nobody has heard for a second."""
        for key in [key for key, (_encoder, used) in self._g722.items() if used < tick - 50]:
            del self._g722[key]
