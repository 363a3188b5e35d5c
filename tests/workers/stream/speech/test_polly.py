"""Polly's own: signatures that an independent implementation accepts, credentials from the request or the AWS chain."""

import pytest

from tests.vendors.polly import Polly as PollyFake
from tests.vendors.speech import sine
from workers.stream.speech.polly import Polly
from workers.stream.speech.protocol import SpeechError, SpeechRequest


@pytest.fixture
async def fake():
    async with PollyFake() as fake:
        yield fake


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch, tmp_path):
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


async def speak(synthesizer, **fields):
    request = SpeechRequest("Guten Tag", "Vicki", **fields)
    return b"".join([piece async for piece in synthesizer.synthesize(request)])


async def test_what_is_sent(session, fake):
    fake.region = "eu-central-1"
    polly = Polly(session, "eu-central-1", fake.url)
    assert await speak(polly, api_key=fake.key, language="de", prompt="x") == sine(440, 400)
    await speak(polly, api_key=fake.key, model_id="standard")
    assert fake.requests[0]["body"] == {
        "Engine": "neural",
        "OutputFormat": "pcm",
        "SampleRate": "16000",
        "Text": "Guten Tag",
        "VoiceId": "Vicki",
    }
    assert fake.requests[1]["body"]["Engine"] == "standard"


async def test_the_regional_host(session):
    assert Polly(session, "eu-west-3")._endpoint == "https://polly.eu-west-3.amazonaws.com"


async def test_the_secret_may_hold_colons(session, fake):
    fake.key = "AKID:a:b:c"
    assert await speak(Polly(session, endpoint=fake.url), api_key="AKID:a:b:c")


async def test_a_wrong_secret(session, fake):
    with pytest.raises(SpeechError, match="security token") as caught:
        await speak(Polly(session, endpoint=fake.url), api_key="AKIDEXAMPLE:wrong")
    assert (caught.value.category, caught.value.code) == ("permanent_auth", "UnrecognizedClientException")


@pytest.mark.parametrize("key", ["nocolon", ":secret", "access:", ":"])
async def test_a_key_that_is_no_pair(session, fake, key):
    with pytest.raises(SpeechError, match="ACCESS:SECRET") as caught:
        await speak(Polly(session, endpoint=fake.url), api_key=key)
    assert caught.value.category == "permanent_input"
    assert not fake.requests


async def test_an_unknown_engine(session, fake):
    with pytest.raises(SpeechError, match="generative, long-form, neural, standard") as caught:
        await speak(Polly(session, endpoint=fake.url), api_key=fake.key, model_id="nueral")
    assert caught.value.category == "permanent_input"
    assert not fake.requests


async def test_the_chain_of_the_environment(session, fake, monkeypatch):
    fake.session_token = "temporary"
    access, _, secret = fake.key.partition(":")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "temporary")
    assert await speak(Polly(session, endpoint=fake.url)) == sine(440, 400)


async def test_a_profile(session, fake, monkeypatch, tmp_path):
    access, _, secret = fake.key.partition(":")
    (tmp_path / "credentials").write_text(f"[phones]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n")
    monkeypatch.setenv("AWS_PROFILE", "phones")
    assert await speak(Polly(session, endpoint=fake.url)) == sine(440, 400)


async def test_no_credentials_anywhere(session, fake):
    with pytest.raises(SpeechError, match="no credentials") as caught:
        await speak(Polly(session, endpoint=fake.url))
    assert caught.value.category == "permanent_auth"


async def test_a_profile_that_does_not_exist(session, fake, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(SpeechError, match="no credentials") as caught:
        await speak(Polly(session, endpoint=fake.url))
    assert caught.value.category == "permanent_auth"


async def test_throttling_is_a_400_and_passes(session, fake, pauses):
    fake.outcomes.extend(["throttled"] * 2)
    assert await speak(Polly(session, endpoint=fake.url), api_key=fake.key)
    fake.outcomes.extend(["throttled"] * 3)
    with pytest.raises(SpeechError, match="Rate exceeded") as caught:
        await speak(Polly(session, endpoint=fake.url), api_key=fake.key)
    assert caught.value.category == "rate_limited"
    assert len(fake.requests) == 6
