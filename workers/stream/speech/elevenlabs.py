"""ElevenLabs speech (contract media.md, section 9.1).

Runs in: stream.
Owns: the streaming endpoint, and the ids of voices that callers call by name.

Rules
1. The voice is sent as the caller wrote it. Only when the service says `voice_not_found` is it looked up as a name, and the
   sentence asked for again with the id found. So a request that succeeds with an id is one call, and so is every later
   request with that name.
2. Names are looked up with the caller's own key: accounts have voices of their own. At most MAX_NAMES are remembered, the
   longest known goes first.
3. A failed look-up changes nothing: the first answer is the error.

Not here: `language` and `prompt`, which this endpoint does not have.
"""

from contextlib import aclosing
from urllib.parse import quote

import aiohttp
import msgspec

from workers.stream.speech.protocol import Category, Pieces, SpeechError, SpeechRequest
from workers.stream.speech.reply import checked_key, exchange, posted_audio, read_at_most
from workers.stream.speech.retries import retried

NAME = "elevenlabs"
DEFAULT_BASE = "https://api.elevenlabs.io"
DEFAULT_MODEL = "eleven_multilingual_v2"
MAX_NAMES = 1000
_VOICES_BYTES = 8 * 1024 * 1024


class _Voice(msgspec.Struct):
    voice_id: str
    name: str


class _Voices(msgspec.Struct):
    voices: list[_Voice]


class ElevenLabs:
    """Synthesizer."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str = DEFAULT_BASE) -> None:
        self._session = session
        self._base_url = base_url.rstrip("/")
        self._ids: dict[tuple[str, str], str] = {}  # (api key, name) → voice id

    async def synthesize(self, request: SpeechRequest) -> Pieces:
        """One POST, or three requests when the voice is a name not met before."""
        checked_key(NAME, request.api_key)
        name = (request.api_key, request.voice)
        voice_id = self._ids.get(name, request.voice)
        for is_last in (False, True):
            try:
                async with aclosing(self._spoken(request, voice_id)) as pieces:
                    async for piece in pieces:
                        yield piece
            except SpeechError as error:
                if is_last or error.code != "voice_not_found":
                    raise
                self._ids.pop(name, None)
                found = await self._look_up(request)
                if found is None:
                    raise
                self._remember(name, found)
                voice_id = found
            else:
                return

    def _spoken(self, request: SpeechRequest, voice_id: str) -> Pieces:
        if voice_id in {".", ".."}:  # the one text that quoting does not keep within its place in the path
            raise SpeechError(f"{NAME}: no such voice", Category.PERMANENT_INPUT)
        url = f"{self._base_url}/v1/text-to-speech/{quote(voice_id, safe='')}/stream?output_format=pcm_16000"
        body = msgspec.json.encode({"text": request.text, "model_id": request.model_id or DEFAULT_MODEL})
        headers = {"xi-api-key": request.api_key, "Content-Type": "application/json"}
        return retried(
            lambda: posted_audio(self._session, NAME, url, headers=headers, body=body, secrets=[request.api_key])
        )

    async def _look_up(self, request: SpeechRequest) -> str | None:
        """The id of the voice with this name: as written, else the first that differs in case only."""
        try:
            async with exchange(
                self._session, NAME, "GET", f"{self._base_url}/v1/voices", headers={"xi-api-key": request.api_key}
            ) as reply:
                body = await read_at_most(reply, _VOICES_BYTES)
            voices = msgspec.json.decode(body, type=_Voices).voices
        except (SpeechError, msgspec.DecodeError, UnicodeDecodeError):
            return None
        exact = [voice.voice_id for voice in voices if voice.name == request.voice]
        folded = request.voice.strip().casefold()
        alike = [voice.voice_id for voice in voices if voice.name.strip().casefold() == folded]
        return next(iter(exact + alike), None)

    def _remember(self, name: tuple[str, str], voice_id: str) -> None:
        while len(self._ids) >= MAX_NAMES:
            del self._ids[next(iter(self._ids))]
        self._ids[name] = voice_id
