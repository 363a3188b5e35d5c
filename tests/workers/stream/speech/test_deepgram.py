"""Deepgram's own: what is sent."""

from tests.vendors.deepgram_tts import DeepgramTts
from workers.stream.speech.deepgram import Deepgram
from workers.stream.speech.protocol import SpeechRequest


async def test_the_voice_is_the_model_and_is_escaped(session):
    async with DeepgramTts() as fake:
        request = SpeechRequest(
            "Hello", "a&encoding=mp3 ü", model_id="unused", language="de", prompt="x", api_key="good-key"
        )
        pieces = [piece async for piece in Deepgram(session, fake.url).synthesize(request)]
        assert pieces
        (seen,) = fake.requests
    assert seen["query"] == {
        "model": "a&encoding=mp3 ü",
        "encoding": "linear16",
        "sample_rate": "16000",
        "container": "none",
    }
    assert seen["body"] == {"text": "Hello"}
    assert seen["headers"]["Authorization"] == "token good-key"
