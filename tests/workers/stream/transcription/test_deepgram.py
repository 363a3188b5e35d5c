"""Deepgram streaming transcription against its fake."""

import asyncio

import pytest

from tests.vendors.deepgram_stt import DeepgramStt
from tests.workers.stream.conversing import KEY, PATIENT, fed, in_time
from workers.stream.transcription.deepgram import Deepgram, ListenDialect
from workers.stream.transcription.protocol import Transcript, TranscriptionRequest, UtteranceEnded
from workers.stream.vendor_socket import STOPPED, VendorError

FINAL = Transcript("hello there", is_final=True, speech_final=True, start_ms=250, end_ms=1000)
HALF = Transcript("hello", is_final=False, start_ms=250, end_ms=1000)


async def first_utterance(http, fake, request):
    """What is reported up to the first final text and what comes with it."""
    said = []
    async with fed() as feed:
        running = asyncio.create_task(Deepgram(http, fake.url, PATIENT).transcribe(request, feed, said.append))
        await fake.until(lambda: FINAL in said)
        feed.close()
        assert await in_time(running) == STOPPED
    return said


async def test_finals(http):
    async with DeepgramStt(KEY) as fake:
        said = await first_utterance(http, fake, TranscriptionRequest(api_key=KEY))
    assert said[0] == FINAL
    assert said[-1].text == "goodbye"
    assert all(words.is_final for words in said)
    expected = ["encoding", "sample_rate", "channels", "model", "language"]
    assert [name for name, _ in fake.connections[0]["query"]] == expected


async def test_partials(http):
    async with DeepgramStt(KEY) as fake:
        said = await first_utterance(http, fake, TranscriptionRequest(partial=True, api_key=KEY))
    assert said[:2] == [HALF, FINAL]


async def test_ends_of_utterances_need_interim_results_which_stay_hidden(http):
    async with DeepgramStt(KEY) as fake:
        said = await first_utterance(http, fake, TranscriptionRequest(utterance_end_ms=1000, api_key=KEY))
    assert said[:2] == [FINAL, UtteranceEnded(980)]
    assert HALF not in said


@pytest.mark.parametrize(("endpointing_ms", "expected"), [(300, "300"), (0, "false")])
async def test_options(http, endpointing_ms, expected):
    request = TranscriptionRequest(
        language="pt-BR", model="nova-2", keyterms=("a b", "c&d"), endpointing_ms=endpointing_ms, api_key=KEY
    )
    async with DeepgramStt(KEY) as fake:
        await first_utterance(http, fake, request)
    query = fake.connections[0]["query"]
    assert [value for name, value in query if name == "keyterm"] == ["a b", "c&d"]
    assert {"language": "pt-BR", "model": "nova-2", "endpointing": expected}.items() <= dict(query).items()


def test_an_error_in_words():
    dialect = ListenDialect(TranscriptionRequest(api_key=KEY), lambda _: None)
    with pytest.raises(VendorError, match=r"deepgram: no …"):
        dialect.hear(f'{{"type":"Error","description":"no {KEY}","message":"m","variant":"v"}}')
