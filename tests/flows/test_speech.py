"""Texts are spoken: by every vendor, to rooms and to single legs, from the first audio that comes to the one last event."""

from __future__ import annotations

import pytest

from tests.flows.conftest import Phones
from tests.flows.tools.events import Vsi
from tests.flows.tools.rest import Rest
from tests.flows.tools.vendors import KEY, POLLY_KEY, Vendors

pytestmark = pytest.mark.flow

VENDORS = {
    "elevenlabs": ("elevenlabs_tts", {"voice": "21m00Tcm4TlvDq8ikWAM", "api_key": KEY}),
    "aws": ("polly", {"voice": "Joanna", "api_key": POLLY_KEY}),
    "google": ("google", {"voice": "en-US-Neural2-F", "api_key": KEY}),
    "deepgram": ("deepgram_tts", {"voice": "aura-2-asteria-en", "api_key": KEY}),
}


@pytest.mark.parametrize("provider", VENDORS)
async def test_a_room_hears_every_vendor(rest: Rest, vsi: Vsi, phones: Phones, vendors: Vendors, provider: str) -> None:
    attribute, fields = VENDORS[provider]
    fake = getattr(vendors, attribute)
    fake.tone_hz, fake.audio_ms = 700, 1000
    _, alice = await phones.dialled(rest, fields={"room_id": "t"})
    tts_id = (await rest.post("/rooms/t/tts", {"text": "Hello.", "provider": provider, **fields}))["tts_id"]
    await vsi.wait("tts.started", tts_id=tts_id, room_id="t")
    await alice.media.settled({700})
    ended = await vsi.wait("tts.finished", tts_id=tts_id)
    assert (ended["reason"], ended["played_ms"]) == ("completed", 1000)
    assert vsi.of(tts_id=tts_id) == ["tts.started", "tts.finished"]
    assert len(fake.requests) == 1
