"""ElevenLabs realtime transcription against its fake."""

import asyncio

import pytest

from tests.vendors.elevenlabs_stt import ElevenLabsStt
from tests.workers.stream.conversing import KEY, PATIENT, fed, in_time
from workers.stream.feed import AudioFeed
from workers.stream.transcription.elevenlabs import ElevenLabs
from workers.stream.transcription.protocol import Transcript, TranscriptionProblem, TranscriptionRequest
from workers.stream.vendor_socket import STOPPED


async def transcribed(http, fake, request, chunks=101):
    """`chunks` distinct chunks at once, then the stop: what was reported, and what had been fed."""
    feed, said = AudioFeed(chunks), []
    audio = [bytes([number % 256]) * 640 for number in range(chunks)]
    for chunk in audio:
        feed.push(chunk)
    feed.close()
    # A feed that is closed from the beginning is a stop before the start; so it closes while the vendor is being connected.
    feed = _Late(feed)
    ended = await in_time(ElevenLabs(http, fake.url, PATIENT).transcribe(request, feed, said.append))
    return ended, said, b"".join(audio)


class _Late:
    """A feed whose end shows only when it is read."""

    def __init__(self, feed):
        self._feed = feed
        self._ended = asyncio.Event()

    @property
    def is_closed(self):
        return self._ended.is_set()

    async def get(self):
        chunk = await self._feed.get()
        if chunk is None:
            self._ended.set()
        return chunk

    async def wait_closed(self):
        await self._ended.wait()


async def test_partials_and_finals(http):
    async with ElevenLabsStt(KEY) as fake:
        ended, said, audio = await transcribed(http, fake, TranscriptionRequest(partial=True, api_key=KEY))
    assert ended == STOPPED
    half, whole = Transcript("hello", is_final=False), Transcript("hello there", is_final=True)
    assert said == [half, whole, half, whole, Transcript("goodbye", is_final=True)]
    assert bytes(fake.audio) == audio
    assert dict(fake.connections[0]["query"])["language_code"] == "en"


async def test_finals_only_in_another_language(http):
    async with ElevenLabsStt(KEY) as fake:
        _, said, _ = await transcribed(http, fake, TranscriptionRequest(language="de & x", api_key=KEY))
    assert [words.is_final for words in said] == [True, True, True]
    assert dict(fake.connections[0]["query"])["language_code"] == "de & x"


async def test_nothing_left_to_commit_is_no_problem(http):
    async with ElevenLabsStt(KEY) as fake:
        fake.last_text = ""
        ended, said, _ = await transcribed(http, fake, TranscriptionRequest(api_key=KEY), chunks=10)
    assert (ended, said) == (STOPPED, [])


async def test_a_passing_complaint_is_reported(http):
    async with ElevenLabsStt(KEY) as fake:
        fake.complaint = "commit_throttled"
        ended, said, _ = await transcribed(http, fake, TranscriptionRequest(api_key=KEY))
    assert ended == STOPPED
    assert said[0] == TranscriptionProblem("elevenlabs: commit_throttled: so it is, …")
    assert [words.text for words in said[1:]] == ["hello there", "hello there", "goodbye"]


@pytest.mark.parametrize(
    ("complaint", "category"),
    [("auth_error", "permanent_auth"), ("quota_exceeded", "rate_limited"), ("error", "unknown")],
)
async def test_a_grave_complaint_ends_it(http, complaint, category):
    async with ElevenLabsStt(KEY) as fake, fed() as feed:
        fake.complaint = complaint
        ended = await in_time(
            ElevenLabs(http, fake.url, PATIENT).transcribe(TranscriptionRequest(api_key=KEY), feed, lambda _: None)
        )
    assert (ended.reason, ended.category) == ("failed", category)
    assert ended.error == f"elevenlabs: {complaint}: so it is, …"
