"""What a WAV file says about itself, and its bytes as samples (RIFF; RFC 2361 format tags; EBU Tech 3306 for RF64).

Runs in: the decoders of stream.
Owns: where the samples begin and end, and their encodings.

Rules
1. Files lie: chunk sizes are hints. A data size of 0 or 0xFFFFFFFF, or one beyond the end, means "to the end of the file";
   unknown chunks are skipped, odd ones are padded, and at most CHUNKS_LIMIT are looked at.
2. Encodings: PCM of 8, 16, 24 and 32 bits, float of 32 bits, A-law, µ-law; plain or WAVE_FORMAT_EXTENSIBLE.

Not here: other encodings inside WAV, and other formats → the library; rates → whoever reads on.
"""

import struct
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from workers.audio.g711 import alaw_decode, ulaw_decode

CHUNKS_LIMIT = 1000
CHANNELS_LIMIT = 8
_EXTENSIBLE = 0xFFFE
_UNKNOWN_SIZES = (0, 0xFFFFFFFF)

Encoding = Literal["pcm8", "pcm16", "pcm24", "pcm32", "float32", "alaw", "ulaw"]
_ENCODINGS: dict[tuple[int, int], Encoding] = {
    (1, 8): "pcm8",
    (1, 16): "pcm16",
    (1, 24): "pcm24",
    (1, 32): "pcm32",
    (3, 32): "float32",
    (6, 8): "alaw",
    (7, 8): "ulaw",
}
_SAMPLE_BYTES: dict[Encoding, int] = {"pcm8": 1, "pcm16": 2, "pcm24": 3, "pcm32": 4, "float32": 4, "alaw": 1, "ulaw": 1}


class NotWav(ValueError):
    """Not a WAV file, or none that can be read here."""


class UnknownEncoding(NotWav):
    """A WAV file whose samples somebody else may understand."""


@dataclass(frozen=True)
class WavFormat:
    encoding: Encoding
    channels: int
    rate_hz: int
    data_bytes: int | None  # None: to the end of the file

    @property
    def frame_bytes(self) -> int:
        """One sample of every channel."""
        return self.channels * _SAMPLE_BYTES[self.encoding]


def read_format(file: BinaryIO) -> WavFormat:
    """Leaves the file at its first sample. Raises NotWav."""
    head = file.read(12)
    if len(head) < 12 or head[:4] not in (b"RIFF", b"RF64") or head[8:] != b"WAVE":
        raise NotWav("not a WAV file")
    described: tuple[Encoding, int, int] | None = None
    for _ in range(CHUNKS_LIMIT):
        header = file.read(8)
        if len(header) < 8:
            break
        name, size = header[:4], struct.unpack("<I", header[4:])[0]
        if name == b"data":
            if described is None:
                raise NotWav("a WAV file that says nothing of its format")
            return WavFormat(*described, None if size in _UNKNOWN_SIZES else size)
        if name == b"fmt ":
            body = file.read(min(size, 40))
            described = _described(body)
            file.seek(size - len(body) + size % 2, 1)
        else:
            file.seek(size + size % 2, 1)
    raise NotWav("a WAV file without samples")


def _described(body: bytes) -> tuple[Encoding, int, int]:
    if len(body) < 16:
        raise NotWav("a WAV file with a broken header")
    tag, channels, rate_hz, _bytes_per_second, _frame_bytes, bits = struct.unpack("<HHIIHH", body[:16])
    if tag == _EXTENSIBLE and len(body) >= 26:
        tag = struct.unpack("<H", body[24:26])[0]  # the sub-format's GUID begins with the plain tag
    encoding = _ENCODINGS.get((tag, bits))
    if encoding is None:
        raise UnknownEncoding(f"a WAV file with format {tag} of {bits} bits")
    if not 1 <= channels <= CHANNELS_LIMIT:
        raise NotWav(f"a WAV file with {channels} channels")
    return encoding, channels, rate_hz


def samples_of(data: bytes, encoding: Encoding, channels: int) -> NDArray[np.float32]:
    """(frames, channels) between -1 and 1; `data` holds whole frames."""
    flat: NDArray[np.float32]
    match encoding:
        case "pcm8":
            flat = (np.frombuffer(data, np.uint8).astype(np.float32) - np.float32(128)) / np.float32(128)
        case "pcm16":
            flat = np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)
        case "pcm24":
            wide = np.zeros((len(data) // 3, 4), np.uint8)
            wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
            flat = wide.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31)
        case "pcm32":
            flat = np.frombuffer(data, "<i4").astype(np.float32) / np.float32(2**31)
        case "float32":
            flat = np.nan_to_num(np.frombuffer(data, "<f4").astype(np.float32).clip(-1, 1))
        case "alaw":
            flat = alaw_decode(np.frombuffer(data, np.uint8)).astype(np.float32) / np.float32(32768)
        case "ulaw":
            flat = ulaw_decode(np.frombuffer(data, np.uint8)).astype(np.float32) / np.float32(32768)
    return flat.reshape(-1, channels)
