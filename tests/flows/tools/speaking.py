"""Asking the server to speak: a request for each provider that its fake (tests/vendors) takes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tests.flows.tools.rest import Rest
from tests.flows.tools.vendors import KEY, POLLY_KEY

VOICES: dict[str, dict[str, str]] = {
    "elevenlabs": {"voice": "21m00Tcm4TlvDq8ikWAM", "api_key": KEY},
    "aws": {"voice": "Joanna", "api_key": POLLY_KEY},
    "google": {"voice": "en-US-Neural2-F", "api_key": KEY},
    "deepgram": {"voice": "aura-2-asteria-en", "api_key": KEY},
    "local": {"voice": "en-us"},
}


async def speak(rest: Rest, venue: str, provider: str = "elevenlabs", **fields: Any) -> str:
    """The id of an utterance that begins in a venue, `rooms/<id>` or `legs/<id>`."""
    body = {"text": "Hello.", "provider": provider, **VOICES[provider], **fields}
    reply = await rest.post(f"/{venue}/tts", body)
    assert reply["status"] == "playing"
    assert reply["tts_id"].startswith("tts-")
    return reply["tts_id"]


def cache_name(*parts: str) -> str:
    """The file of provider, voice, model_id, language, prompt, text, and of the API key where it counts (media.md 9.7)."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def cached(folder: Path) -> set[str]:
    """The names of all files there, of unfinished ones too."""
    return {path.name for path in folder.iterdir()}
