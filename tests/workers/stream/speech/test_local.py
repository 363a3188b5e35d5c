"""Local speech: real espeak-ng processes. What they say is a voice, and none is left behind."""

import asyncio
import sys
from contextlib import aclosing

import numpy as np
import psutil
import pytest

from workers.stream.speech import local as local_module
from workers.stream.speech.espeak_process import candidates
from workers.stream.speech.local import MAX_STARTING, Local
from workers.stream.speech.protocol import SpeechError, SpeechRequest

LONG = "The quick brown fox jumps over the lazy dog. " * 200


def children():
    """Zombies too: they are dead, but nobody has waited for them."""
    return [child for child in psutil.Process().children() if is_espeak(child)]


def is_espeak(child):
    try:
        return "espeak_process.py" in " ".join(child.cmdline())
    except psutil.ZombieProcess:
        return True
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(autouse=True)
def nobody_left():
    yield
    assert not children()


async def speak(voice, text="Good morning.", *, local=None, **fields):
    pieces = [piece async for piece in (local or Local()).synthesize(SpeechRequest(text, voice, **fields))]
    assert all(piece and len(piece) % 2 == 0 for piece in pieces)
    return np.frombuffer(b"".join(pieces), np.int16)


async def test_it_speaks():
    audio = await speak("en-us", "Good morning, this is a test.")
    assert 1.0 < audio.size / 16000 < 4.0
    spectrum = np.abs(np.fft.rfft(audio.astype(float))) ** 2
    hertz = np.fft.rfftfreq(audio.size, 1 / 16000)
    assert np.abs(audio).max() > 5000
    assert spectrum[(hertz > 80) & (hertz < 4000)].sum() > 0.7 * spectrum.sum()  # a voice, at the right rate


def is_same(audio, other):
    """The resampler dithers its last bit."""
    return audio.size == other.size and np.abs(audio.astype(int) - other).max() <= 2


async def test_however_the_pipe_cuts_it_there_is_no_seam(monkeypatch):
    whole = await speak("en-us", LONG[:500])
    monkeypatch.setattr(local_module, "_READ_BYTES", 777)  # odd: samples are torn
    assert is_same(whole, await speak("en-us", LONG[:500]))


async def test_voices_and_languages():
    said = {voice: await speak(voice, "Information") for voice in ("en-us", "de", "fr", "en-us+f3")}
    for voice, audio in said.items():
        assert [other for other in said if is_same(audio, said[other])] == [voice]
    assert is_same(await speak("de-AT", "Information"), said["de"])
    assert is_same(await speak("DE_de", "Information"), said["de"])
    assert is_same(await speak("default", "Information"), said["en-us"])
    assert is_same(await speak("default", "Information", language="fr-FR"), said["fr"])
    assert is_same(await speak("Rachel", "Information", language="de"), said["de"])


def test_candidates():
    assert candidates("de-AT") == ["de-AT", "de-at", "de", "de"]
    assert candidates("zh-CN")[-1] == "cmn"
    assert candidates("en_US+f3") == ["en_US+f3", "en-us+f3", "en+f3", "en+f3"]
    for bad in ("", "  ", "../../etc/passwd", "/etc/passwd", "en\n"):
        assert candidates(bad) in ([], ["en", "en", "en"])


@pytest.mark.parametrize("voice", ["Rachel", "../../../etc/passwd", "/etc/passwd", "x" * 5000, "en\0us", "ü"])
async def test_no_such_voice(voice):
    with pytest.raises(SpeechError, match="no such voice") as caught:
        await speak(voice)
    assert caught.value.category == "permanent_input"


@pytest.mark.parametrize(
    "text", ["Grüße, 東京 😀", "a\0b", "<speak>&amp;</speak>", "[[h@'loU]]", "'; rm -rf /", "x" * 20_000]
)
async def test_any_text_is_spoken(text):
    async with aclosing(Local().synthesize(SpeechRequest(text, "en"))) as pieces:
        assert await anext(pieces)


async def test_closing_kills_it_in_mid_sentence():
    pieces = Local().synthesize(SpeechRequest(LONG, "en"))
    await anext(pieces)
    assert len(children()) == 1
    async with asyncio.timeout(10):
        await pieces.aclose()


@pytest.mark.parametrize("is_there", [psutil.Process().children, children], ids=["forked", "executed"])
async def test_cancelling_kills_it(is_there):
    local = Local()
    task = asyncio.create_task(speak("en", LONG * 20, local=local))
    while not is_there():  # noqa: ASYNC110 - a process list has no event
        await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_few_start_at_once_and_playing_ones_do_not_count(monkeypatch):
    local = Local()
    heard = [local.synthesize(SpeechRequest(LONG, "en")) for _ in range(MAX_STARTING + 2)]
    async with asyncio.timeout(30):
        for pieces in heard:
            await anext(pieces)  # each is left in mid-sentence, and yet the next one starts
    assert len(children()) == MAX_STARTING + 2
    for pieces in heard:
        await pieces.aclose()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("import time; time.sleep(60)", "stands still"),
        ("print('{\"rate_hz\": 22050}', flush=True); import time; time.sleep(60)", "stands still"),
        ("pass", "does not run"),
        ("print('x' * 200000)", "does not run"),
        ("print('[7]')", "does not run"),
        ("print('{\"rate_hz\": 1}')", "unknown rate"),
        ("print('{\"rate_hz\": 22050}'); raise SystemExit(3)", "broke off"),
        ("print('{\"rate_hz\": 22050}')", "nothing to say"),
    ],
)
async def test_a_process_that_fails(monkeypatch, tmp_path, script, words):
    path = tmp_path / "espeak_process.py"
    path.write_text(script + "\n")
    monkeypatch.setattr(local_module, "_SCRIPT", path)
    with pytest.raises(SpeechError, match=words):
        await speak("en", local=Local(stall_seconds=0.5 if words == "stands still" else 20))


async def test_no_process_can_be_made(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(SpeechError, match="no process") as caught:
        await speak("en")
    assert caught.value.category == "service_unavailable"


async def test_a_text_of_hours(monkeypatch):
    monkeypatch.setattr(local_module, "MAX_AUDIO_BYTES", 200_000)
    with pytest.raises(SpeechError, match="too long") as caught:
        await speak("en", LONG)
    assert caught.value.category == "permanent_input"


async def test_it_does_not_outlive_a_killed_stream():
    """The process that hears it is killed with SIGKILL: nothing is left to end espeak-ng but its pipe."""
    code = (
        "import asyncio\n"
        "from workers.stream.speech.local import Local\n"
        "from workers.stream.speech.protocol import SpeechRequest\n"
        "async def main():\n"
        f"    pieces = Local().synthesize(SpeechRequest({LONG!r} * 20, 'en'))\n"
        "    await anext(pieces)\n"
        "    print('speaking', flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    stream = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert await stream.stdout.readline() == b"speaking\n"
    (espeak,) = psutil.Process(stream.pid).children()
    stream.kill()
    await stream.wait()
    await asyncio.to_thread(espeak.wait, 10)
