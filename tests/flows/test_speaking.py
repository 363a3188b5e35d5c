"""Who is speaking: events by the thresholds of media.md §8, only for legs that asked for them."""

from __future__ import annotations

import pytest

from tests.flows.conftest import Phones
from tests.flows.tools.events import Vsi
from tests.flows.tools.rest import Rest

pytestmark = pytest.mark.flow


async def test_speech_starts_and_stops(rest: Rest, phones: Phones, vsi: Vsi) -> None:
    leg_id, call = await phones.dialled(rest, fields={"speech_detection": True, "room_id": "talk"})
    await call.media.listen(0.4)
    assert not vsi.all("speaking.started")
    call.media.say(tone_hz=440)
    started = await vsi.wait("speaking.started", leg_id=leg_id)
    assert started["room_id"] == "talk"
    call.media.say()
    await vsi.wait("speaking.stopped", leg_id=leg_id)
    call.media.say(tone_hz=440, amplitude=300)  # RMS 212: below the threshold of 300
    await call.media.listen(0.5)
    assert len(vsi.all("speaking.started")) == 1


async def test_muting_a_speaker_stops_at_once_and_muted_legs_say_nothing(rest: Rest, phones: Phones, vsi: Vsi) -> None:
    leg_id, call = await phones.dialled(rest, tone_hz=440, fields={"speech_detection": True})
    started = await vsi.wait("speaking.started", leg_id=leg_id)
    assert "room_id" not in started
    await rest.post(f"/legs/{leg_id}/mute")
    await vsi.wait("speaking.stopped", leg_id=leg_id, within_s=1)
    await call.media.listen(0.4)
    assert len(vsi.all("speaking.started")) == 1
    await rest.delete(f"/legs/{leg_id}/mute")
    await vsi.events.first(lambda _: len(vsi.all("speaking.started")) == 2)
    await call.hang_up()
    await vsi.wait("leg.disconnected", leg_id=leg_id)
    assert vsi.of(leg_id=leg_id)[-2:] == ["speaking.stopped", "leg.disconnected"]


async def test_without_asking_there_are_no_speaking_events(rest: Rest, phones: Phones, vsi: Vsi) -> None:
    _, call = await phones.dialled(rest, tone_hz=440)
    await call.media.listen(0.5)
    assert not vsi.all("speaking.started")
