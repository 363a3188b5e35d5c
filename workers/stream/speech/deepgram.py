"""Deepgram speech (contract media.md, section 9.4).

Runs in: stream.
Owns: the speak endpoint; a voice is a Deepgram model, so `model_id` is unused, as are `language` and `prompt`.

Not here: Deepgram's transcription and agents → their own folders.
"""

from urllib.parse import quote

import aiohttp
import msgspec

from workers.stream.speech.protocol import Pieces, SpeechRequest
from workers.stream.speech.reply import checked_key, posted_audio
from workers.stream.speech.retries import retried

NAME = "deepgram"
DEFAULT_BASE = "https://api.deepgram.com"


class Deepgram:
    """Synthesizer."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str = DEFAULT_BASE) -> None:
        self._session = session
        self._base_url = base_url.rstrip("/")

    def synthesize(self, request: SpeechRequest) -> Pieces:
        """One POST."""
        return retried(lambda: self._attempt(request))

    def _attempt(self, request: SpeechRequest) -> Pieces:
        key = checked_key(NAME, request.api_key)
        model = quote(request.voice, safe="")
        url = f"{self._base_url}/v1/speak?model={model}&encoding=linear16&sample_rate=16000&container=none"
        headers = {"Authorization": f"token {key}", "Content-Type": "application/json"}
        body = msgspec.json.encode({"text": request.text})
        return posted_audio(self._session, NAME, url, headers=headers, body=body, secrets=[key])
