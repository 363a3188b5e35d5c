"""What speech synthesis is to the rest of the process: a text and a voice in, 16 kHz audio out, piece by piece.

Runs in: stream.
Owns: the request, the promise of a synthesizer, the ways to fail (contract media.md, sections 9 and 9.6).

Rules
1. Audio is signed 16-bit little-endian mono at RATE_HZ. Every piece has an even number of bytes and at least two.
2. Pieces come as the vendor sends them. Who stops early closes the generator (`contextlib.aclosing`): that hangs up.
3. The only exception out of a synthesizer is SpeechError. Its text is for people and holds no key.
4. No more than MAX_AUDIO_BYTES per utterance: an endless reply is an error.

Not here: which vendor, its keys from the environment, volume, playing → the owner of the utterance.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from shm.errors import PeerError

RATE_HZ = 16_000
MAX_AUDIO_BYTES = 64 * 1024 * 1024  # 35 minutes
PIECE_BYTES = 32 * 1024  # one second, where we choose the size

Pieces = AsyncGenerator[bytes, None]


class Category(StrEnum):
    """Why speech failed, in the words of `tts.error`."""

    PERMANENT_AUTH = "permanent_auth"
    PERMANENT_INPUT = "permanent_input"
    RATE_LIMITED = "rate_limited"
    SERVICE_UNAVAILABLE = "service_unavailable"
    RETRYABLE = "retryable"
    CANCELED = "canceled"
    UNKNOWN = "unknown"
    PLAYBACK = "playback"


class SpeechError(PeerError):
    """Synthesis failed. `status` is the vendor's HTTP status, if there was one; `code` the vendor's own word for the error."""

    def __init__(self, text: str, category: Category, *, status: int | None = None, code: str = "") -> None:
        super().__init__(text)
        self.category = category
        self.status = status
        self.code = code


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """As the API caller wrote it; what is empty means the vendor's default. `api_key` is the one to be used, whoever gave it."""

    text: str = field(repr=False)
    voice: str
    model_id: str = ""
    language: str = ""
    prompt: str = field(default="", repr=False)
    api_key: str = field(default="", repr=False)


class Synthesizer(Protocol):
    """One vendor."""

    def synthesize(self, request: SpeechRequest) -> Pieces:
        """Nothing happens before the first piece is asked for."""
        ...
