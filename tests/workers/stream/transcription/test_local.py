"""PocketSphinx for real: espeak-ng speaks, it understands. Slow machines are waited for, so the limits are wide."""

import asyncio
import os
import signal

import pytest

from tests.workers.stream.conversing import in_time
from workers.stream.feed import CHUNK_BYTES, AudioFeed
from workers.stream.speech.local import Local as LocalSpeech
from workers.stream.speech.protocol import SpeechRequest
from workers.stream.transcription.local import Local
from workers.stream.transcription.protocol import TranscriptionRequest
from workers.stream.vendor_socket import STOPPED

SECOND = bytes(32_000)
FINALS_SECONDS = 60.0


@pytest.fixture
async def local():
    transcriber = Local(FINALS_SECONDS)
    yield transcriber
    await transcriber.close()


async def spoken(text):
    request = SpeechRequest(text=text, voice="en-us")
    return b"".join([piece async for piece in LocalSpeech().synthesize(request)])


async def heard(local, audio, **options):
    feed, said = AudioFeed(len(audio) // CHUNK_BYTES), []
    running = asyncio.create_task(local.transcribe(TranscriptionRequest(**options), feed, said.append))
    for start in range(0, len(audio) - CHUNK_BYTES + 1, CHUNK_BYTES):
        feed.push(audio[start : start + CHUNK_BYTES])
    feed.close()
    return await in_time(running, FINALS_SECONDS), said


async def test_two_utterances_on_their_timeline(local):
    numbers, request = await spoken("one two three four five"), await spoken("please open the door")
    audio = SECOND + numbers + SECOND + request  # it ends in mid-sentence, more or less
    ended, said = await heard(local, audio, language="en-US")
    assert ended == STOPPED
    assert all(text.is_final and text.speech_final for text in said)
    words = " ".join(text.text for text in said).split()
    assert len({"two", "three", "four", "five"} & set(words)) >= 3
    assert len({"open", "the", "door"} & set(words)) >= 2
    assert 900 <= said[0].start_ms <= 1300
    second_begins_ms = 2000 + len(numbers) // 32
    assert abs(said[-1].start_ms - second_begins_ms) < 400
    assert said[-1].end_ms <= len(audio) // 32 + 30


async def test_partials_come_before_the_final(local):
    _, said = await heard(local, SECOND + await spoken("one two three four five") + SECOND, partial=True)
    kinds = [text.is_final for text in said]
    assert kinds.count(True) == 1
    assert kinds[-1] is True
    assert len(kinds) > 1


async def test_silence_says_nothing(local):
    assert await heard(local, SECOND * 3) == (STOPPED, [])


async def test_other_languages_are_refused(local):
    ended = await local.transcribe(TranscriptionRequest(language="de"), AudioFeed(1), lambda _: None)
    assert (ended.reason, ended.category) == ("failed", "permanent_input")


async def test_a_dead_parent_is_replaced(local):
    await heard(local, SECOND)
    process, _ = local._starting.result()
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    assert (await heard(local, SECOND))[0] == STOPPED


async def test_a_dead_recogniser_is_told(local):
    feed = AudioFeed(100)
    running = asyncio.create_task(local.transcribe(TranscriptionRequest(), feed, lambda _: None))
    child = await child_of(local)
    os.kill(child, signal.SIGKILL)
    ended = await in_time(running, FINALS_SECONDS)
    assert (ended.reason, ended.error) == ("failed", "local: the recogniser ended")


async def test_cancelling_ends_the_process(local):
    running = asyncio.create_task(local.transcribe(TranscriptionRequest(), AudioFeed(100), lambda _: None))
    gone = os.pidfd_open(await child_of(local))  # readable when the process has ended
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(gone, ended.set)
    await in_time(ended.wait(), FINALS_SECONDS)
    asyncio.get_running_loop().remove_reader(gone)
    os.close(gone)


async def child_of(local):
    """The recogniser's process id, once it exists."""
    async with asyncio.timeout(FINALS_SECONDS):
        while True:
            if local._starting is not None and local._starting.done():
                pid = local._starting.result()[0].pid
                with open(f"/proc/{pid}/task/{pid}/children") as children:  # noqa: ASYNC230, PTH123
                    if found := children.read().split():
                        return int(found[0])
            await asyncio.sleep(0.01)
