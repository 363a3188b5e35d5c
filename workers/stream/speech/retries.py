"""Trying again: which failures of a vendor are worth another attempt, and when (contract media.md, section 9.6).

Runs in: stream.
Owns: number and delays of attempts.

Rules
1. At most three attempts; before the second and third a pause of 100 and 400 ms, each ±25 %.
2. Only for 408, 429, 500, 502, 503, 504, timeouts and broken connections, and only before the first audio: who has heard half
   a sentence does not want its beginning again.
3. No attempt begins later than 5 s after the first. One that is under way has the time of the session's timeouts.
"""

from asyncio import get_running_loop, sleep
from collections.abc import Callable
from contextlib import aclosing
from secrets import SystemRandom

from workers.stream.speech.protocol import Category, Pieces, SpeechError

PAUSES_SECONDS = (0.1, 0.4)
JITTER = 0.25
BUDGET_SECONDS = 5.0
RETRIED_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


def is_worth_retrying(error: SpeechError) -> bool:
    """A status decides by itself; without one it was a timeout or the connection."""
    if error.status is not None:
        return error.status in RETRIED_STATUSES
    return error.category is Category.RETRYABLE


async def retried(attempt: Callable[[], Pieces]) -> Pieces:
    """The pieces of the first attempt that has any; the SpeechError of the last one otherwise."""
    loop = get_running_loop()
    last_start = loop.time() + BUDGET_SECONDS
    for pause in (*PAUSES_SECONDS, None):
        async with aclosing(attempt()) as pieces:
            try:
                first = await anext(pieces, b"")
            except SpeechError as error:
                if pause is None or not is_worth_retrying(error):
                    raise
                pause_seconds = pause * SystemRandom().uniform(1 - JITTER, 1 + JITTER)
                if loop.time() + pause_seconds > last_start:
                    raise
            else:
                if not first:
                    raise SpeechError("no audio came", Category.UNKNOWN)
                yield first
                async for piece in pieces:
                    yield piece
                return
        await sleep(pause_seconds)
