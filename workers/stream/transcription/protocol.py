"""What transcription is to the rest of the process: one participant's audio in, texts out, until somebody ends it.

Runs in: stream.
Owns: the request, what is reported, the promise of a transcriber (contract media.md, section 10; rooms.md, A15 and B2).

Rules
1. Audio goes in as 640-byte chunks through an AudioFeed, silence included. Closing the feed is the graceful stop: what was said
   is finished, for at most 1 s.
2. Reports come from within `transcribe`, in the vendor's order, never after it has returned. Empty texts and unwanted partials
   are not reported.
3. `transcribe` returns how it ended and raises nothing of a vendor's. It is not tried again.

Not here: which participants, keys from the environment, checks of ranges, events → the owner.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from workers.stream.feed import AudioFeed
from workers.stream.vendor_socket import Ended

FINALS_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class TranscriptionRequest:
    """As the API caller wrote it; empty and None mean the vendor's default. Options a vendor does not know are ignored."""

    language: str = ""
    partial: bool = False
    api_key: str = field(default="", repr=False)
    model: str = ""
    keyterms: tuple[str, ...] = ()
    endpointing_ms: int | None = None  # 0: none
    utterance_end_ms: int | None = None


class Transcript(msgspec.Struct, frozen=True):
    """`stt.text`. Times count from the first chunk; None where the vendor tells none."""

    text: str
    is_final: bool
    speech_final: bool = False
    start_ms: int | None = None
    end_ms: int | None = None


class UtteranceEnded(msgspec.Struct, frozen=True):
    """`stt.turn` with `utterance_end`."""

    last_word_end_ms: int


class TranscriptionProblem(msgspec.Struct, frozen=True):
    """The vendor complained and goes on."""

    error: str


Outcome = Transcript | UtteranceEnded | TranscriptionProblem
Report = Callable[[Outcome], None]


class Transcriber(Protocol):
    """One vendor."""

    async def transcribe(self, request: TranscriptionRequest, audio: AudioFeed, report: Report) -> Ended:
        """One participant."""
        ...
