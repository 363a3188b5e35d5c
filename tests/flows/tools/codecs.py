"""Audio codecs of the test phones: written from the recommendations, sharing nothing with the product.

PCMU and PCMA by ITU-T G.711 segment arithmetic (tables built once), L16 by RFC 3551 (network byte order), G722 by the
`G722` wheel (stateful, one coder per direction and call).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from G722 import G722
from numpy.typing import NDArray

Samples = NDArray[np.int16]


@dataclass(frozen=True)
class Codec:
    """One codec as SDP names it; `clock_hz` counts RTP timestamps, `rate_hz` counts samples (they differ for G722)."""

    name: str
    payload_type: int
    clock_hz: int
    rate_hz: int
    encoder: Callable[[], Callable[[Samples], bytes]]
    decoder: Callable[[], Callable[[bytes], Samples]]

    @property
    def rtpmap(self) -> str:
        return f"{self.name.split('/')[0]}/{self.clock_hz}"


def _ulaw_byte(sample: int) -> int:
    """G.711 μ-law: bias 33 on the 14-bit value, 8 segments, all bits inverted."""
    magnitude = min(abs(sample) >> 2 if sample >= 0 else (~sample) >> 2, 8158) + 33
    segment = magnitude.bit_length() - 6
    return ~((0x80 if sample < 0 else 0) | segment << 4 | (magnitude >> (segment + 1)) & 0x0F) & 0xFF


def _ulaw_sample(byte: int) -> int:
    byte = ~byte & 0xFF
    magnitude = (((byte & 0x0F) * 2 + 33) << (byte >> 4 & 7)) - 33
    return -4 * magnitude if byte & 0x80 else 4 * magnitude


def _alaw_byte(sample: int) -> int:
    """G.711 A-law: 12-bit magnitude, 8 segments, even bits inverted."""
    magnitude = (sample if sample >= 0 else ~sample) >> 4
    segment = max(magnitude.bit_length() - 4, 0)
    byte = segment << 4 | (magnitude >> max(segment - 1, 0)) & 0x0F
    return (byte | (0x80 if sample >= 0 else 0)) ^ 0x55


def _alaw_sample(byte: int) -> int:
    byte ^= 0x55
    segment, mantissa = byte >> 4 & 7, byte & 0x0F
    magnitude = (mantissa << 1 | 1) if segment == 0 else (mantissa << 1 | 0x21) << (segment - 1)
    return (magnitude if byte & 0x80 else -magnitude) << 3


_DECODE = {
    "PCMU": np.array([_ulaw_sample(b) for b in range(256)], np.int16),
    "PCMA": np.array([_alaw_sample(b) for b in range(256)], np.int16),
}
_ENCODE = {
    "PCMU": np.array([_ulaw_byte(s) for s in range(-32768, 32768)], np.uint8),
    "PCMA": np.array([_alaw_byte(s) for s in range(-32768, 32768)], np.uint8),
}


def _g711(name: str, payload_type: int) -> Codec:
    encode, decode = _ENCODE[name], _DECODE[name]
    return Codec(
        name,
        payload_type,
        8000,
        8000,
        encoder=lambda: lambda samples: encode[samples.astype(np.int32) + 32768].tobytes(),
        decoder=lambda: lambda payload: decode[np.frombuffer(payload, np.uint8)],
    )


def _l16(rate_hz: int, payload_type: int) -> Codec:
    return Codec(
        f"L16/{rate_hz}",
        payload_type,
        rate_hz,
        rate_hz,
        encoder=lambda: lambda samples: samples.astype(">i2").tobytes(),
        decoder=lambda: lambda payload: np.frombuffer(payload[: len(payload) & ~1], ">i2").astype(np.int16),
    )


def _g722_encoder() -> Callable[[Samples], bytes]:
    coder = G722(16000, 64000)
    return lambda samples: bytes(coder.encode(samples))


def _g722_decoder() -> Callable[[bytes], Samples]:
    coder = G722(16000, 64000)
    return lambda payload: np.array(coder.decode(payload), np.int16)


CODECS = {
    codec.name: codec
    for codec in (
        _g711("PCMU", 0),
        _g711("PCMA", 8),
        Codec("G722", 9, 8000, 16000, _g722_encoder, _g722_decoder),
        _l16(8000, 96),
        _l16(16000, 97),
        _l16(48000, 98),
    )
}


def sine(tone_hz: float, rate_hz: int, samples: int, *, start: int = 0, amplitude: float = 4000.0) -> Samples:
    """A sine whose phase is a function of the sample number, so that consecutive calls join without a seam."""
    angle = 2 * np.pi * tone_hz / rate_hz * np.arange(start, start + samples)
    return np.round(amplitude * np.sin(angle)).astype(np.int16)
