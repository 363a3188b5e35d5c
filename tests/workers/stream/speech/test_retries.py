"""When another attempt is made, on a clock of the test's own."""

import asyncio
from contextlib import aclosing

import pytest

from workers.stream.speech.protocol import Category, SpeechError
from workers.stream.speech.retries import retried

RETRYABLE = SpeechError("broken", Category.RETRYABLE)


class Attempts:
    """Each attempt raises or yields the next of `outcomes`; counts those still open."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.made = 0
        self.open = 0

    async def __call__(self):
        self.made += 1
        self.open += 1
        try:
            for outcome in self.outcomes.pop(0):
                if isinstance(outcome, Exception):
                    raise outcome
                yield outcome
        finally:
            self.open -= 1


async def test_every_attempt_is_closed(pauses):
    attempts = Attempts([RETRYABLE], [RETRYABLE], [b"ab", b"cd"])
    assert [piece async for piece in retried(attempts)] == [b"ab", b"cd"]
    assert (attempts.made, attempts.open, len(pauses)) == (3, 0, 2)


async def test_closing_early_closes_the_attempt():
    attempts = Attempts([b"ab", b"cd"])
    async with aclosing(retried(attempts)) as pieces:
        assert await anext(pieces) == b"ab"
        assert attempts.open == 1
    assert attempts.open == 0


async def test_pauses_spread_by_a_quarter(pauses):
    for _ in range(200):
        with pytest.raises(SpeechError):
            await anext(retried(Attempts(*[[RETRYABLE]] * 3)))
    first, second = pauses[::2], pauses[1::2]
    assert min(first) >= 0.075
    assert max(first) <= 0.125
    assert min(second) >= 0.3
    assert max(second) <= 0.5
    assert max(first) - min(first) > 0.03
    assert max(second) - min(second) > 0.12


async def test_no_attempt_after_the_budget(pauses, monkeypatch):
    loop = asyncio.get_running_loop()
    now = 0.0

    class Clock:
        @staticmethod
        def time():
            return now

    monkeypatch.setattr("workers.stream.speech.retries.get_running_loop", Clock)
    attempts = Attempts([RETRYABLE], [RETRYABLE], [b"ab"])
    inner = attempts.__call__

    async def slow():
        nonlocal now
        now += 2.6  # what an attempt takes to fail
        async for piece in inner():
            yield piece

    with pytest.raises(SpeechError, match="broken"):
        await anext(retried(slow))
    assert attempts.made == 2
    assert loop.is_running()


async def test_no_audio_is_an_error_of_its_own():
    attempts = Attempts([])
    with pytest.raises(SpeechError, match="no audio") as caught:
        await anext(retried(attempts))
    assert (caught.value.category, attempts.made) == ("unknown", 1)
