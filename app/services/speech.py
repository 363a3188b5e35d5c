"""Speech: texts that are synthesised and played (rooms.md A11, legs.md 6.2).

Runs in: control.
Owns: the checks, in the contract's order; all else is a playback like any other.
"""

import secrets
from typing import Any

from app.services.playback import PlaybackFacts
from app.services.playbacks import Playbacks
from app.services.requests import SPEECH_PROVIDERS, Speak, check_provider, check_speech, speech_key
from app.services.venues import Venue, Venues
from shm.messages import Synthesize


class Speech:
    def __init__(self, venues: Venues, playbacks: Playbacks) -> None:
        self._venues = venues
        self._playbacks = playbacks

    async def speak(self, *, request: Speak, room_id: str = "", leg_id: str = "") -> dict[str, Any]:
        venue = Venue(room_id=room_id, leg_id=leg_id)
        app_id = self._venues.app_id(venue)
        check_provider(request.provider, SPEECH_PROVIDERS)
        key = speech_key(self._venues.config, request.provider, request.api_key)
        check_speech(request, key)
        self._venues.check_audible(venue)
        tts_id = f"tts-{secrets.token_hex(4)}"
        speech = Synthesize(
            clip_id=tts_id,
            provider=request.provider,
            text=request.text,
            voice=request.voice,
            model_id=request.model_id,
            language=request.language,
            prompt=request.prompt,
            api_key=key,
            rate_hz=0,
        )
        self._playbacks.begin(
            PlaybackFacts(id=tts_id, venue=venue, app_id=app_id, speech=speech, volume=request.volume)
        )
        return {"tts_id": tts_id, "status": "playing"}
