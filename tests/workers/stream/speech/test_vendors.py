"""What all four HTTP vendors have in common, each against its fake: audio as it comes, errors by category, nothing leaked."""

import asyncio
from contextlib import aclosing

import pytest

from tests.vendors.deepgram_tts import DeepgramTts
from tests.vendors.elevenlabs_tts import ElevenLabsTts
from tests.vendors.google_tts import GoogleTts
from tests.vendors.polly import Polly as PollyFake
from tests.vendors.speech import sine
from workers.stream.client import open_session
from workers.stream.speech.deepgram import Deepgram
from workers.stream.speech.elevenlabs import ElevenLabs
from workers.stream.speech.google import Google
from workers.stream.speech.polly import Polly
from workers.stream.speech.protocol import SpeechError, SpeechRequest

VENDORS = {
    "elevenlabs": (ElevenLabsTts, ElevenLabs),
    "deepgram": (DeepgramTts, Deepgram),
    "google": (GoogleTts, Google),
    "aws": (PollyFake, lambda session, url: Polly(session, "us-east-1", url)),
}
VOICES = {"elevenlabs": "plain-voice", "deepgram": "aura-2-thalia-en", "google": "en-US-Neural2-F", "aws": "Joanna"}
streaming = pytest.mark.parametrize("vendor", ["elevenlabs", "deepgram", "aws"])


@pytest.fixture(params=VENDORS)
def vendor(request):
    return request.param


@pytest.fixture
async def fake(vendor):
    async with VENDORS[vendor][0]() as fake:
        yield fake


@pytest.fixture
def synthesizer(vendor, fake, session):
    return VENDORS[vendor][1](session, fake.url)


@pytest.fixture
def request_(vendor, fake):
    return SpeechRequest("Good morning, Grüße.", VOICES[vendor], api_key=fake.key)


async def heard(synthesizer, request):
    pieces = [piece async for piece in synthesizer.synthesize(request)]
    assert all(piece and len(piece) % 2 == 0 for piece in pieces)
    return b"".join(pieces)


async def failure(synthesizer, request):
    with pytest.raises(SpeechError) as caught:
        await heard(synthesizer, request)
    error = caught.value
    assert error.__cause__ is None
    assert request.api_key.rpartition(":")[2] not in str(error)
    assert request.text not in str(error)
    return error


async def test_audio_is_what_the_vendor_sent(synthesizer, request_, fake):
    assert await heard(synthesizer, request_) == sine(440, 400)
    assert len(fake.requests) == 1
    assert request_.text in fake.requests[0]["raw"]


@streaming
async def test_the_beginning_is_heard_before_the_end_exists(synthesizer, request_, fake):
    fake.may_go_on.clear()
    async with asyncio.timeout(5), aclosing(synthesizer.synthesize(request_)) as pieces:
        first = await anext(pieces)
        assert 0 < len(first) < len(sine(440, 400))
        fake.may_go_on.set()
        rest = [piece async for piece in pieces]
    assert first + b"".join(rest) == sine(440, 400)


@streaming
async def test_who_stops_listening_hangs_up(synthesizer, request_, fake):
    fake.may_go_on.clear()
    async with aclosing(synthesizer.synthesize(request_)) as pieces:
        await anext(pieces)
    async with asyncio.timeout(5):
        await fake.was_abandoned.wait()


async def test_cancelling_before_the_answer_hangs_up(synthesizer, request_, fake):
    fake.outcomes.append("stall")
    task = asyncio.create_task(heard(synthesizer, request_))
    await fake.was_asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(5):
        await fake.was_abandoned.wait()


@pytest.mark.usefixtures("pauses")
@pytest.mark.parametrize(
    "case",
    [
        (400, "permanent_input", 1),
        (401, "permanent_auth", 1),
        (403, "permanent_auth", 1),
        (404, "permanent_input", 1),
        (408, "retryable", 3),
        (409, "unknown", 1),
        (422, "permanent_input", 1),
        (429, "rate_limited", 3),
        (500, "service_unavailable", 3),
        (501, "service_unavailable", 1),
        (503, "service_unavailable", 3),
    ],
)
async def test_statuses(synthesizer, request_, fake, case):
    status, category, attempts = case
    fake.outcomes.extend([status] * 3)
    error = await failure(synthesizer, request_)
    assert (error.category, error.status, len(fake.requests)) == (category, status, attempts)
    assert f": {status} " in str(error)


async def test_a_wrong_key(synthesizer, request_, fake, vendor):
    fake.key = "another:key"
    error = await failure(synthesizer, request_)
    assert error.category == ("permanent_input" if vendor == "google" else "permanent_auth")  # Google says 400


async def test_a_passing_fault_is_not_heard(synthesizer, request_, fake, pauses):
    fake.outcomes.extend([503, "reset"])
    assert await heard(synthesizer, request_) == sine(440, 400)
    assert len(fake.requests) == 3
    assert 0.075 <= pauses[0] <= 0.125
    assert 0.3 <= pauses[1] <= 0.5


@pytest.mark.usefixtures("pauses")
@pytest.mark.parametrize("read_timeout_seconds", [0.3])
@pytest.mark.parametrize(("outcome", "words"), [("reset", "the connection broke"), ("stall", "timed out")])
async def test_no_answer(synthesizer, request_, fake, outcome, words):
    fake.outcomes.extend([outcome] * 3)
    error = await failure(synthesizer, request_)
    assert error.category == "retryable"
    assert words in str(error)
    assert len(fake.requests) == 3


@streaming
@pytest.mark.parametrize("read_timeout_seconds", [0.3])
@pytest.mark.parametrize(("outcome", "words"), [("cut", "the connection broke"), ("stall_midway", "timed out")])
async def test_an_end_in_mid_sentence_is_told_and_not_begun_again(synthesizer, request_, fake, outcome, words):
    fake.outcomes.append(outcome)
    pieces = []

    async def listen():
        async for piece in synthesizer.synthesize(request_):
            pieces.append(piece)  # noqa: PERF401 - what came before the error counts

    with pytest.raises(SpeechError, match=words) as caught:
        await listen()
    got = b"".join(pieces)
    assert caught.value.category == "retryable"
    assert sine(440, 400).startswith(got)
    assert len(got) > 5000
    assert len(fake.requests) == 1


@pytest.mark.parametrize("outcome", ["html", "empty", "redirect"])
async def test_a_200_without_audio_and_a_redirect(synthesizer, request_, fake, outcome):
    fake.outcomes.append(outcome)
    error = await failure(synthesizer, request_)
    assert error.category == "unknown"
    assert len(fake.requests) == 1


async def test_audio_without_end(synthesizer, request_, fake, vendor, monkeypatch):
    monkeypatch.setattr("workers.stream.speech.reply.MAX_AUDIO_BYTES", 200_000)
    monkeypatch.setattr("workers.stream.speech.google.MAX_ANSWER_BYTES", 200_000)
    fake.outcomes.append("endless")
    async with asyncio.timeout(10):
        error = await failure(synthesizer, request_)
    assert "does not end" in str(error)
    await fake.was_abandoned.wait()


async def test_nobody_there(vendor, pauses):
    async with VENDORS[vendor][0]() as gone:
        url = gone.url
    async with open_session() as session:
        request = SpeechRequest("Hello", VOICES[vendor], api_key="good:key")
        error = await failure(VENDORS[vendor][1](session, url), request)
    assert error.category == "retryable"
    assert "cannot connect to 127.0.0.1" in str(error)
    assert len(pauses) == 2


@pytest.mark.parametrize("key", ["a\r\nX-Evil: 1", "schlüssel", " \x00"])
async def test_a_key_that_is_no_header_value(synthesizer, fake, vendor, key):
    error = await failure(synthesizer, SpeechRequest("Hello", VOICES[vendor], api_key=key))
    assert error.category == "permanent_auth"
    assert not fake.requests


async def test_the_vendors_words_are_short_printable_and_without_the_key(
    synthesizer, request_, fake, vendor, monkeypatch
):
    def error(status):
        from aiohttp import web

        return web.json_response({"message": f"no \x1b[31m{fake.key} " + "x" * 3000}, status=status)

    monkeypatch.setattr(fake, "error", error)
    fake.outcomes.append(422)
    text = str(await failure(synthesizer, request_))
    assert text.isprintable()
    assert len(text) < 230
    assert "xxx" in text


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"[[]]", b'{"detail":[]}', b'{"error":7}', b"\xff\xfe", b"[" * 4000, b"null"]
)
async def test_an_error_body_of_any_kind(synthesizer, request_, fake, monkeypatch, body):
    from aiohttp import web

    monkeypatch.setattr(fake, "error", lambda status: web.Response(body=body, status=status))
    fake.outcomes.append(422)
    error = await failure(synthesizer, request_)
    assert error.category == "permanent_input"


async def test_the_proxy_of_the_environment_is_used(vendor, monkeypatch, pauses):
    seen = []

    async def proxy(reader, writer):
        seen.append(await reader.readline())
        writer.write(b"HTTP/1.1 422 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    monkeypatch.setenv("no_proxy", "")
    async with server, open_session() as session:
        synthesizer = VENDORS[vendor][1](session, "http://vendor.invalid")
        error = await failure(synthesizer, SpeechRequest("Hello", VOICES[vendor], api_key="good:key"))
    assert error.status == 422
    assert seen[0].startswith(b"POST http://vendor.invalid/v1/")
