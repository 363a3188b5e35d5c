"""Google's own: what is sent, the WAV in the answer, default credentials."""

import json

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.flows.tools.spectrum import level_db
from tests.vendors.google_tts import GoogleTts, wav
from tests.vendors.speech import sine
from workers.stream.speech.google import Google, language_of, pcm_of_wav
from workers.stream.speech.protocol import SpeechError, SpeechRequest


@pytest.fixture
async def fake():
    async with GoogleTts() as fake:
        yield fake


async def speak(synthesizer, voice="en-US-Neural2-F", **fields):
    request = SpeechRequest("Hello", voice, **fields)
    return b"".join([piece async for piece in synthesizer.synthesize(request)])


async def test_what_is_sent(session, fake):
    google = Google(session, fake.url)
    await speak(google, api_key=fake.key)
    await speak(google, "Kore", api_key=fake.key, language="de-DE", prompt="cheerful", model_id="gemini-2.5-flash-tts")
    format_ = {"audioEncoding": "LINEAR16", "sampleRateHertz": 16000}
    assert [request["body"] for request in fake.requests] == [
        {
            "input": {"text": "Hello"},
            "voice": {"languageCode": "en-US", "name": "en-US-Neural2-F"},
            "audioConfig": format_,
        },
        {
            "input": {"text": "Hello", "prompt": "cheerful"},
            "voice": {"languageCode": "de-DE", "name": "Kore", "modelName": "gemini-2.5-flash-tts"},
            "audioConfig": format_,
        },
    ]
    assert fake.requests[0]["path"] == "/v1/text:synthesize"


@pytest.mark.parametrize(
    ("voice", "language", "expected"),
    [
        ("en-GB-Wavenet-A", "", "en-GB"),
        ("cmn-CN-Standard-A", "", "cmn-CN"),
        ("Kore", "", "en-US"),
        ("en-GB-Wavenet-A", "fr-FR", "fr-FR"),
        ("de-DE", "", "de-DE"),
    ],
)
def test_language(voice, language, expected):
    assert language_of(SpeechRequest("x", voice, language=language)) == expected


async def test_long_audio_comes_in_pieces(session, fake):
    fake.audio_ms = 5000
    request = SpeechRequest("Hello", "en-US-Neural2-F", api_key=fake.key)
    pieces = [piece async for piece in Google(session, fake.url).synthesize(request)]
    assert len(pieces) == 5
    assert b"".join(pieces) == sine(440, 5000)


async def test_another_rate_is_converted(session, fake):
    fake.rate_hz = 24_000
    audio = np.frombuffer(await speak(Google(session, fake.url), api_key=fake.key), np.int16)
    assert audio.size == 6400
    assert level_db(audio, 16000, 440) == pytest.approx(-6.0, abs=0.2)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b'{"audioContent":7}',
        b'{"audioContent":"%%%"}',
        b'{"audioContent":""}',
        b'{"audioContent":"UklGRg=="}',
        b"\xff",
        b"[" * 9000,
    ],
)
async def test_an_answer_without_audio(session, fake, monkeypatch, body):
    monkeypatch.setattr(fake, "payload", lambda: body)
    with pytest.raises(SpeechError, match="google: sent no usable audio") as caught:
        await speak(Google(session, fake.url), api_key=fake.key)
    assert caught.value.category == "unknown"


def test_wav():
    pcm = sine(440, 20)
    assert pcm_of_wav(wav(pcm)) == pcm
    assert pcm_of_wav(wav(pcm, data_size=0)) == pcm
    assert pcm_of_wav(wav(pcm, data_size=0xFFFFFFFF)) == pcm
    assert pcm_of_wav(wav(pcm, data_size=9999)) == pcm
    assert pcm_of_wav(wav(pcm) + b"LIST\4\0\0\0abcd") == pcm
    assert pcm_of_wav(wav(pcm + b"x")) == pcm
    stereo = np.repeat(np.frombuffer(pcm, "<i2"), 2).tobytes()
    assert pcm_of_wav(wav(stereo, channels=2)) == pcm


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"RIFF\0\0\0\0WAVE",
        b"RIFX" + wav(b"ab")[4:],
        wav(b""),
        wav(b"ab", tag=7),
        wav(b"abcdef", channels=3),
        wav(b"ab", rate_hz=1),
        wav(b"ab")[:30],
        b"RIFF\0\0\0\0WAVEdata\2\0\0\0ab",
    ],
)
def test_what_is_no_wav(data):
    with pytest.raises(ValueError, match=r"WAV|PCM|format|data"):
        pcm_of_wav(data)


@pytest.fixture
def account(monkeypatch, tmp_path, fake):
    """A service account whose token endpoint is the fake's."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    fake.account_certificate = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "account.json"
    fields = {
        "type": "service_account",
        "project_id": "phones",
        "private_key_id": "1",
        "private_key": secret.decode(),
        "client_email": "voice@phones.example",
        "client_id": "1",
        "token_uri": f"{fake.url}/token",
    }
    path.write_text(json.dumps(fields))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    return path


async def test_default_credentials(session, fake, account):
    google = Google(session, fake.url)
    assert await speak(google) == sine(440, 400)
    assert await speak(google) == sine(440, 400)
    assert fake.tokens == 1
    assert fake.requests[0]["headers"]["Authorization"] == "Bearer token-1"
    assert "X-Goog-Api-Key" not in fake.requests[0]["headers"]


async def test_a_refused_account(session, fake, account):
    fake.token_status = 400
    with pytest.raises(SpeechError, match="no credentials") as caught:
        await speak(Google(session, fake.url))
    assert caught.value.category == "permanent_auth"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"type": "service_account"}', None])
async def test_a_credentials_file_that_is_none(session, fake, account, text):
    account.unlink() if text is None else account.write_text(text)
    with pytest.raises(SpeechError, match="no credentials") as caught:
        await speak(Google(session, fake.url))
    assert caught.value.category == "permanent_auth"
