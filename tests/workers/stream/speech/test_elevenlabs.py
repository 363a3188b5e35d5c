"""ElevenLabs' own: voices called by name, what is sent."""

import pytest

from tests.vendors.elevenlabs_tts import ElevenLabsTts
from tests.vendors.speech import sine
from workers.stream.speech.elevenlabs import ElevenLabs
from workers.stream.speech.protocol import SpeechError, SpeechRequest

SARAH = "EXAVITQu4vr4xnSDxMaL"


@pytest.fixture
async def fake():
    async with ElevenLabsTts() as fake:
        yield fake


@pytest.fixture
def elevenlabs(session, fake):
    return ElevenLabs(session, fake.url + "/")


def wanted(voice, key="good-key", **fields):
    return SpeechRequest("Hello", voice, api_key=key, **fields)


async def speak(synthesizer, request):
    return b"".join([piece async for piece in synthesizer.synthesize(request)])


def spoken_paths(fake):
    return [request["path"].split("/")[3] for request in fake.requests]


async def test_what_is_sent(elevenlabs, fake):
    await speak(elevenlabs, wanted(SARAH))
    await speak(elevenlabs, wanted(SARAH, model_id="eleven_flash_v2_5", language="de", prompt="whisper"))
    assert [request["body"] for request in fake.requests] == [
        {"text": "Hello", "model_id": "eleven_multilingual_v2"},
        {"text": "Hello", "model_id": "eleven_flash_v2_5"},
    ]
    assert fake.requests[0]["query"] == {"output_format": "pcm_16000"}
    assert fake.requests[0]["headers"]["Content-Type"] == "application/json"
    assert fake.look_ups == 0


@pytest.mark.parametrize("status", [400, 404])
@pytest.mark.parametrize("name", ["Sarah", "sarah", " SARAH"])
async def test_a_name_is_looked_up_once(elevenlabs, fake, name, status):
    fake.not_found_status = status
    assert await speak(elevenlabs, wanted(name)) == sine(440, 400)
    assert await speak(elevenlabs, wanted(name)) == sine(440, 400)
    assert spoken_paths(fake) == [name, SARAH, SARAH]
    assert fake.look_ups == 1


async def test_an_unknown_name_is_the_vendors_error(elevenlabs, fake):
    with pytest.raises(SpeechError, match="A voice with that voice_id was not found") as caught:
        await speak(elevenlabs, wanted("Nobody"))
    assert caught.value.category == "permanent_input"
    assert (spoken_paths(fake), fake.look_ups) == (["Nobody"], 1)


async def test_a_failed_look_up_leaves_the_first_error(elevenlabs, fake):
    fake.look_up_status = 500
    with pytest.raises(SpeechError, match="404") as caught:
        await speak(elevenlabs, wanted("Sarah"))
    assert caught.value.category == "permanent_input"


async def test_another_404_is_not_a_name(elevenlabs, fake, monkeypatch):
    from aiohttp import web

    monkeypatch.setattr(fake, "error", lambda status: web.json_response({"detail": "Not Found"}, status=status))
    fake.outcomes.append(404)
    with pytest.raises(SpeechError, match="elevenlabs: 404 Not Found"):
        await speak(elevenlabs, wanted(SARAH))
    assert fake.look_ups == 0


async def test_names_belong_to_a_key(elevenlabs, fake):
    await speak(elevenlabs, wanted("Sarah"))
    fake.key = "second"
    await speak(elevenlabs, wanted("Sarah", "second"))
    assert fake.look_ups == 2


async def test_an_id_that_went_is_looked_up_again(elevenlabs, fake):
    await speak(elevenlabs, wanted("Sarah"))
    fake.voices = {"new-id": "Sarah"}
    await speak(elevenlabs, wanted("Sarah"))
    assert spoken_paths(fake) == ["Sarah", SARAH, SARAH, "new-id"]


async def test_few_names_are_remembered(elevenlabs, fake, monkeypatch):
    monkeypatch.setattr("workers.stream.speech.elevenlabs.MAX_NAMES", 2)
    for name in ("Sarah", "sarah", "SARAH", "Sarah"):
        await speak(elevenlabs, wanted(name))
    assert fake.look_ups == 4


async def test_a_voice_stays_in_its_place_in_the_path(elevenlabs, fake):
    with pytest.raises(SpeechError):
        await speak(elevenlabs, wanted("a/../../x?y=1#z"))
    assert fake.requests[0]["path"] == "/v1/text-to-speech/a/../../x?y=1#z/stream"  # decoded by the fake: one segment
    assert fake.requests[0]["query"] == {"output_format": "pcm_16000"}
    with pytest.raises(SpeechError) as caught:
        await speak(elevenlabs, wanted(".."))
    assert caught.value.category == "permanent_input"
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b'{"voices":null}', b'{"voices":[{"name":"Sarah"}]}', b'{"voices":[1]}', b"\xff"]
)
async def test_a_list_of_voices_that_is_none(elevenlabs, fake, monkeypatch, answer):
    from aiohttp import web

    async def voices(request):
        return web.Response(body=answer)

    monkeypatch.setattr(fake, "list_voices", voices)
    await fake.__aexit__()
    await fake.start()
    elevenlabs._base_url = fake.url
    with pytest.raises(SpeechError, match="404"):
        await speak(elevenlabs, wanted("Sarah"))
