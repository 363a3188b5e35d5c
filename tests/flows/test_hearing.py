"""People in a room hear all the others and not themselves, whatever codec, packetisation and rate they use."""

from __future__ import annotations

import asyncio

import pytest

from tests.flows.conftest import Phones
from tests.flows.tools.events import Vsi
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server
from tests.flows.tools.spectrum import assert_hears, assert_silent, level_db

pytestmark = pytest.mark.flow

TONES = (310, 430, 570, 690, 830, 970, 1130, 1290, 1470, 1670)


async def test_two_phones_hear_each_other(rest: Rest, phones: Phones) -> None:
    (_, alice), (_, bob) = await phones.meeting(rest, "two", (440, 660))
    at_alice, at_bob = await asyncio.gather(alice.media.listen(1.0), bob.media.listen(1.0))
    assert_hears(at_alice, {660}, not_={440}, only=True)
    assert_hears(at_bob, {440}, not_={660}, only=True)
    for heard in (at_alice, at_bob):
        assert heard.lost == 0
        assert heard.present.all()
        assert len({p.ssrc for p in heard.packets}) == 1
        assert {len(p.payload) for p in heard.packets} == {160}


async def test_one_phone_alone_hears_comfort_noise_at_most(rest: Rest, phones: Phones) -> None:
    _, alice = await phones.dialled(rest, tone_hz=440, fields={"room_id": "alone"})
    assert_silent(await alice.media.listen(0.5))


async def test_a_leg_in_no_room_hears_silence(rest: Rest, phones: Phones) -> None:
    _, alice = await phones.dialled(rest, tone_hz=440)
    assert_silent(await alice.media.listen(0.5))


async def test_three_codecs_in_one_room(rest: Rest, phones: Phones) -> None:
    options = [(310, "PCMU"), (430, "PCMA"), (570, "G722")]
    legs = await asyncio.gather(
        *(phones.dialled(rest, tone_hz=t, codecs=(codec,), fields={"room_id": "three"}) for t, codec in options)
    )
    for (_, call), (own, _) in zip(legs, options, strict=True):
        others = {t for t, _ in options} - {own}
        await call.media.settled(others)
        assert_hears(await call.media.listen(0.6), others, not_={own}, only=True)


async def test_ten_legs_of_mixed_codecs(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    """Nine sines of amplitude 2500 stay below full scale, so that the mix has no tone of its own."""
    codecs = ("PCMU", "PCMA", "G722", "L16/8000", "L16/16000", "L16/48000", "PCMU", "PCMA", "G722", "PCMU")
    calls = []
    for tone_hz, codec in zip(TONES, codecs, strict=True):
        leg_id, call = await phones.calling(
            server, vsi, rest, name=f"p{tone_hz}", tone_hz=tone_hz, amplitude=2500.0, codecs=(codec,)
        )
        await rest.join("ten", leg_id)
        calls.append(call)
    participants = (await rest.get("/rooms/ten"))["participants"]
    assert len(participants) == 10
    await asyncio.gather(*(c.media.settled(set(TONES) - {t}) for c, t in zip(calls, TONES, strict=True)))
    heard = await asyncio.gather(*(call.media.listen(0.8) for call in calls))
    for recording, own in zip(heard, TONES, strict=True):
        assert_hears(recording, set(TONES) - {own}, not_={own}, only=True)
        assert recording.lost == 0


@pytest.mark.parametrize("rate_hz", [8000, 16000, 48000])
async def test_rooms_of_every_rate(rate_hz: int, rest: Rest, phones: Phones) -> None:
    room_id = f"rate-{rate_hz}"
    assert (await rest.room(room_id, sample_rate=rate_hz))["sample_rate"] == rate_hz
    (_, narrow), (_, wide) = await asyncio.gather(
        phones.dialled(rest, tone_hz=440, codecs=("PCMU",), fields={"room_id": room_id}),
        phones.dialled(rest, tone_hz=2900, codecs=("G722",), fields={"room_id": room_id}),
    )
    await asyncio.gather(narrow.media.settled({2900}), wide.media.settled({440}))
    at_narrow, at_wide = await asyncio.gather(narrow.media.listen(0.5), wide.media.listen(0.5))
    assert_hears(at_narrow, {2900}, not_={440}, only=True)
    assert_hears(at_wide, {440}, not_={2900}, only=True)


@pytest.mark.parametrize("ptime_ms", [10, 30, 40, 60])
async def test_phones_of_every_packetisation(ptime_ms: int, rest: Rest, phones: Phones) -> None:
    (_, odd), (_, usual) = await asyncio.gather(
        phones.dialled(rest, tone_hz=440, ptime_ms=ptime_ms, fields={"room_id": "ptime"}),
        phones.dialled(rest, tone_hz=660, fields={"room_id": "ptime"}),
    )
    await asyncio.gather(odd.media.settled({660}), usual.media.settled({440}))
    at_odd, at_usual = await asyncio.gather(odd.media.listen(0.6), usual.media.listen(0.6))
    assert_hears(at_odd, {660}, only=True)
    assert_hears(at_usual, {440}, only=True)
    expected_ms = ptime_ms if ptime_ms in (20, 40, 60) else 20
    assert {len(p.payload) for p in at_odd.packets} == {8 * expected_ms}


async def test_half_frames_are_heard_whole_at_any_phase(rest: Rest, phones: Phones) -> None:
    """Two packets of 10 ms share a frame: the second is in time too, wherever in the frame the phone happens to be."""
    fields = {"room_id": "halves"}
    await asyncio.gather(
        *(phones.dialled(rest, name=f"p{t}", tone_hz=t, amplitude=2500.0, ptime_ms=10, fields=fields) for t in TONES)
    )
    _, ear = await phones.dialled(rest, name="ear", fields=fields)
    await ear.media.settled(set(TONES))
    heard = await ear.media.listen(0.6)
    assert_hears(heard, set(TONES), only=True)
    levels = [level_db(heard.audio, heard.rate_hz, t) for t in TONES]
    assert max(levels) - min(levels) < 3, f"some are heard in part: {[round(level, 1) for level in levels]}"


async def test_two_loud_talkers_clip_instead_of_wrapping(rest: Rest, phones: Phones) -> None:
    """Two sines of 20 000 sum to 40 000 at their common peaks: clipped at 32 767, never folded over."""
    fields = {"room_id": "loud"}
    (_, first), (_, second), (_, ear) = await asyncio.gather(
        phones.dialled(rest, name="first", tone_hz=440, amplitude=20000.0, fields=fields),
        phones.dialled(rest, name="second", tone_hz=660, amplitude=20000.0, fields=fields),
        phones.dialled(rest, name="ear", codecs=("G722",), fields=fields),
    )
    await ear.media.settled({440, 660})
    heard = await ear.media.listen(0.5)
    assert_hears(heard, {440, 660})
    steps = abs(heard.audio[1:].astype(int) - heard.audio[:-1].astype(int))
    assert steps.max() < 20000, "a wrapped sum jumps by almost the whole range"
    await asyncio.gather(first.hang_up(), second.hang_up())
