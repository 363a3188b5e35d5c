"""What holds for every transcription vendor: how it ends, and that nobody sees the key."""

import asyncio

import pytest

from tests.vendors.deepgram_stt import DeepgramStt
from tests.vendors.elevenlabs_stt import ElevenLabsStt
from tests.workers.stream.conversing import FAILURES, KEY, LIMITS, PATIENT, fed, in_time
from workers.stream.feed import AudioFeed
from workers.stream.transcription.deepgram import Deepgram
from workers.stream.transcription.elevenlabs import ElevenLabs
from workers.stream.transcription.protocol import Transcript, TranscriptionRequest
from workers.stream.vendor_socket import STOPPED, SocketLimits

VENDORS = {"elevenlabs": (ElevenLabs, ElevenLabsStt), "deepgram": (Deepgram, DeepgramStt)}


@pytest.fixture(params=VENDORS)
def vendor(request):
    return VENDORS[request.param]


@pytest.mark.parametrize("outcome", FAILURES)
async def test_every_failure_is_one_end(http, vendor, outcome):
    transcriber, fake_type = vendor
    async with fake_type(KEY) as fake, fed() as feed:
        fake.outcomes += [outcome, outcome]  # aiohttp asks once more after a reset
        said = []
        ended = await in_time(
            transcriber(http, fake.url, LIMITS).transcribe(TranscriptionRequest(api_key=KEY), feed, said.append)
        )
    assert (ended.reason, ended.category) == FAILURES[outcome]
    assert bool(ended.error) == (ended.reason == "failed")
    assert KEY not in ended.error
    assert said == []


async def test_a_wrong_key_is_the_callers_fault(http, vendor):
    transcriber, fake_type = vendor
    async with fake_type(KEY) as fake, fed() as feed:
        for key in ("wrong", "two\r\nX-Lines: 1", "schlüssel"):
            request = TranscriptionRequest(api_key=key)
            ended = await in_time(transcriber(http, fake.url, LIMITS).transcribe(request, feed, lambda _: None))
            assert (ended.reason, ended.category) == ("failed", "permanent_auth")
            assert key not in ended.error
    assert len(fake.connections) == 1


async def test_nobody_there(http, vendor, unused_tcp_port):
    transcriber, _ = vendor
    async with fed() as feed:
        ended = await in_time(
            transcriber(http, f"http://127.0.0.1:{unused_tcp_port}", LIMITS).transcribe(
                TranscriptionRequest(), feed, lambda _: None
            )
        )
    assert (ended.reason, ended.category) == ("failed", "retryable")


async def test_a_stop_does_not_wait_for_the_connection(http, vendor):
    transcriber, fake_type = vendor
    async with fake_type(KEY) as fake, fed() as feed:
        fake.outcomes.append("stall")
        running = asyncio.create_task(
            transcriber(http, fake.url).transcribe(TranscriptionRequest(api_key=KEY), feed, lambda _: None)
        )
        await fake.until(lambda: fake.connections)
        feed.close()
        assert await in_time(running, 0.25) == STOPPED


async def test_who_only_answers_pings_is_alive(http, vendor):
    transcriber, fake_type = vendor
    async with fake_type(KEY) as fake:
        feed = AudioFeed(10)
        running = asyncio.create_task(
            transcriber(http, fake.url, LIMITS).transcribe(TranscriptionRequest(api_key=KEY), feed, lambda _: None)
        )
        done, _ = await asyncio.wait({running}, timeout=3 * LIMITS.silence_seconds)
        assert not done
        feed.close()
        assert await in_time(running) == STOPPED


async def test_a_vendor_that_stops_reading_is_left(http, vendor):
    transcriber, fake_type = vendor
    limits = SocketLimits(stall_seconds=0.3, close_seconds=0.1)  # the pings are left out of it
    async with fake_type(KEY) as fake, fed(limit_chunks=50, chunk=bytes(200_000)) as feed:
        fake.outcomes.append("deaf")
        ended = await in_time(
            transcriber(http, fake.url, limits).transcribe(TranscriptionRequest(api_key=KEY), feed, lambda _: None)
        )
        assert "stopped reading" in ended.error
        assert feed.dropped_chunks > 0


async def test_the_last_words_after_a_stop(http, vendor):
    transcriber, fake_type = vendor
    async with fake_type(KEY) as fake, fed() as feed:
        said = []
        running = asyncio.create_task(
            transcriber(http, fake.url, PATIENT).transcribe(TranscriptionRequest(api_key=KEY), feed, said.append)
        )
        await fake.until(lambda: fake.audio_bytes >= 640 * 5)
        feed.close()
        assert await in_time(running, 2.0) == STOPPED
        assert [(type(words), words.text, words.is_final) for words in said] == [(Transcript, "goodbye", True)]
        await fake.until(lambda: fake.closes == [1000])


async def test_a_vendor_silent_after_the_stop_is_waited_for_one_second(http, vendor):
    transcriber, fake_type = vendor
    async with fake_type(KEY) as fake, fed() as feed:
        fake.outcomes.append("mute")
        running = asyncio.create_task(
            transcriber(http, fake.url, PATIENT).transcribe(TranscriptionRequest(api_key=KEY), feed, lambda _: None)
        )
        await fake.until(lambda: fake.connections)
        await asyncio.sleep(0.1)
        feed.close()
        assert await in_time(running, 2.0) == STOPPED
        done, _ = await asyncio.wait({running}, timeout=0)
        assert done


async def test_cancelling_closes_the_connection(http, vendor):
    transcriber, fake_type = vendor
    async with fake_type(KEY) as fake, fed() as feed:
        running = asyncio.create_task(
            transcriber(http, fake.url, PATIENT).transcribe(TranscriptionRequest(api_key=KEY), feed, lambda _: None)
        )
        await fake.until(lambda: fake.audio_bytes)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await fake.until(lambda: fake.closes)


@pytest.mark.parametrize(
    ("base", "expected"), [("http", b"GET http://vendor.test"), ("https", b"CONNECT vendor.test:443")]
)
async def test_proxies_of_the_environment(http, vendor, monkeypatch, base, expected):
    first_lines = []

    async def refuse(reader, writer):
        first_lines.append(await reader.readline())
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    monkeypatch.setenv(f"{base}_proxy", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with server, fed() as feed:
        transcriber, _ = vendor
        ended = await in_time(
            transcriber(http, f"{base}://vendor.test", LIMITS).transcribe(
                TranscriptionRequest(api_key=KEY), feed, lambda _: None
            )
        )
    assert ended.reason == "failed"
    assert first_lines[0].startswith(expected)
