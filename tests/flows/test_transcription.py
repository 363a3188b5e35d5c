"""What is said becomes text: each participant by himself, wherever he goes, beside everything else that runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.flows.conftest import Phones
from tests.flows.tools.events import Event, Vsi
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server
from tests.flows.tools.spectrum import tones
from tests.flows.tools.vendors import KEY, Vendors
from tests.vendors.socket_fake import SocketFake

pytestmark = pytest.mark.flow

RATE_HZ = 16_000
SECOND_BYTES = 2 * RATE_HZ
ELEVENLABS = {"api_key": KEY}
DEEPGRAM = {"provider": "deepgram", "api_key": KEY}


def tones_heard(audio: bytes | bytearray, seconds: float = 0.4) -> set[int]:
    """The tones in the last that a vendor was sent."""
    samples = np.frombuffer(bytes(audio), "<i2")[-int(seconds * RATE_HZ) :]
    return tones(samples, RATE_HZ)


async def hears(fake: SocketFake, conversation: int, wanted: set[int]) -> None:
    """Until the last that this conversation was sent holds these tones and no other."""

    def is_heard() -> bool:
        if len(fake.heard) <= conversation or len(fake.heard[conversation]) < 0.4 * SECOND_BYTES:
            return False
        return tones_heard(fake.heard[conversation]) == wanted

    try:
        await fake.until(is_heard)
    except TimeoutError:
        heard = [(len(audio), tones_heard(audio)) for audio in fake.heard]
        raise AssertionError(f"conversation {conversation} shall hold {wanted}: {heard}, {fake.closes}") from None


async def test_each_participant_has_a_session_of_what_he_says(
    rest: Rest, vsi: Vsi, phones: Phones, vendors: Vendors
) -> None:
    fake = vendors.elevenlabs_stt
    fake.commit_after_chunks = 20
    (alice_id, _), (bob_id, _) = await phones.meeting(rest, "s", (1000, 1300))
    await rest.post(f"/legs/{bob_id}/mute")
    started = (await rest.post("/rooms/s/stt", ELEVENLABS)).json
    assert started == {
        "instance_id": started["instance_id"],
        "status": "stt_started",
        "room_id": "s",
        "leg_ids": [leg["id"] for leg in (await rest.get("/rooms/s"))["participants"]],
    }
    assert set(started["leg_ids"]) == {alice_id, bob_id}
    await rest.post("/rooms/s/stt", DEEPGRAM, expect=409)
    await rest.post("/rooms/s/play", {"tone": "us_dial"})  # nobody says that
    for leg_id in (alice_id, bob_id):
        said = await vsi.wait("stt.text", leg_id=leg_id, room_id="s")
        assert (said["text"], said["is_final"]) == ("hello there", True)
    await fake.until(lambda: all(len(heard) > SECOND_BYTES for heard in fake.heard))
    assert sorted(map(tones_heard, fake.heard), key=min) == [{1000}, {1300}]
    assert [dict(one["query"])["language_code"] for one in fake.connections] == ["en", "en"]
    assert not vsi.events.matching(lambda e: e["type"] == "stt.text" and not e["is_final"])


async def test_who_comes_is_heard_and_who_leaves_is_not(rest: Rest, vsi: Vsi, phones: Phones, vendors: Vendors) -> None:
    fake = vendors.deepgram_stt
    fake.final_after_chunks = 20
    alice_id, _ = await phones.dialled(rest, tone_hz=1000, fields={"room_id": "s"})
    assert (await rest.post("/rooms/s/stt", {**DEEPGRAM, "language": "de"}))["leg_ids"] == [alice_id]
    await hears(fake, 0, {1000})
    bob_id, _ = await phones.dialled(rest, tone_hz=1300, fields={"room_id": "s"})
    await hears(fake, 1, {1300})
    await rest.delete(f"/rooms/s/legs/{bob_id}")
    await vsi.wait("stt.text", leg_id=bob_id, room_id="s", text="goodbye")  # what was said before is still told
    await fake.until(lambda: fake.closes == [1000])
    await rest.join("s", bob_id)
    await hears(fake, 2, {1300})
    await rest.join("elsewhere", bob_id)
    await fake.until(lambda: len(fake.closes) == 2)
    await rest.join("s", bob_id)
    await hears(fake, 3, {1300})
    await rest.delete(f"/legs/{bob_id}", expect=202)
    await vsi.wait("leg.disconnected", leg_id=bob_id)
    await fake.until(lambda: len(fake.closes) == 3)
    assert vsi.of(leg_id=bob_id)[-1] == "leg.disconnected"
    await hears(fake, 0, {1000})
    assert len(fake.connections) == 4  # alice's all along
    assert {dict(one["query"])["language"] for one in fake.connections} == {"de"}
    assert not vsi.all("stt.error")
    await rest.delete(f"/rooms/s/legs/{alice_id}")  # nobody is left
    await fake.until(lambda: len(fake.closes) == 4)
    await rest.delete("/rooms/s/stt", expect=404)


async def test_the_last_words_come_with_the_stop(rest: Rest, vsi: Vsi, phones: Phones, vendors: Vendors) -> None:
    alice_id, _ = await phones.dialled(rest, tone_hz=1000, fields={"room_id": "s"})
    for fake, body in ((vendors.elevenlabs_stt, ELEVENLABS), (vendors.deepgram_stt, DEEPGRAM)):
        before = len(vsi.events)
        await rest.post("/rooms/s/stt", body)
        await fake.until(lambda fake=fake: fake.audio_bytes)
        began_s = asyncio.get_running_loop().time()
        assert (await rest.delete("/rooms/s/stt"))["status"] == "stt_stopped"
        took_s = asyncio.get_running_loop().time() - began_s
        assert took_s < 3.0  # 1 s by the contract, the rest is for a loaded machine
        said = await vsi.wait("stt.text", after=before, leg_id=alice_id, room_id="s")
        assert (said["text"], said["is_final"]) == ("goodbye", True)
        await rest.delete("/rooms/s/stt", expect=404)
    assert not vsi.all("stt.error")


async def test_partials_and_options_of_deepgram(rest: Rest, vsi: Vsi, phones: Phones, vendors: Vendors) -> None:
    fake = vendors.deepgram_stt
    fake.final_after_chunks = 20
    alice_id, _ = await phones.dialled(rest)
    options = {
        "partial": False,
        "model": "nova-2",
        "keyterms": ["Roomtone", "mix-minus"],
        "endpointing": 0,
        "utterance_end_ms": 1000,
        "eager_eot_threshold": 0.5,  # of another provider
    }
    await rest.post(f"/legs/{alice_id}/stt", {**DEEPGRAM, **options})
    final = await vsi.wait("stt.text", leg_id=alice_id)
    assert (final["text"], final["is_final"], final["speech_final"]) == ("hello there", True, True)
    assert (final["audio_start_ms"], final["audio_end_ms"]) == (250, 1000)
    assert fake.connections[0]["query"] == [
        ["encoding", "linear16"], ["sample_rate", "16000"], ["channels", "1"], ["model", "nova-2"],
        ["language", "en"], ["interim_results", "true"], ["endpointing", "false"], ["utterance_end_ms", "1000"],
        ["keyterm", "Roomtone"], ["keyterm", "mix-minus"],
    ]  # fmt: skip
    await rest.delete(f"/legs/{alice_id}/stt")
    assert not vsi.all("stt.text", is_final=False)  # on the wire only
    for body in ({**DEEPGRAM, "partial": True}, {**ELEVENLABS, "partial": True}):
        before = len(vsi.events)
        await rest.post(f"/legs/{alice_id}/stt", body)
        partial = await vsi.wait("stt.text", after=before, leg_id=alice_id)
        assert (partial["text"], partial["is_final"]) == ("hello", False)
        await vsi.wait("stt.text", after=before, leg_id=alice_id, text="hello there", is_final=True)
        await rest.delete(f"/legs/{alice_id}/stt")


async def test_a_leg_is_followed_from_row_to_row(rest: Rest, vsi: Vsi, phones: Phones, vendors: Vendors) -> None:
    """In no room, with another codec, in rooms of other rates, and out again: one session, and no word of anybody else."""
    fake = vendors.elevenlabs_stt
    fake.commit_after_chunks = 20
    (alice_id, alice), (bob_id, _) = await asyncio.gather(
        phones.dialled(rest, tone_hz=1000, codecs=("G722", "PCMU")), phones.dialled(rest, tone_hz=1300)
    )
    started = (await rest.post(f"/legs/{alice_id}/stt", ELEVENLABS)).json
    assert started == {"instance_id": started["instance_id"], "status": "stt_started", "leg_id": alice_id}
    await rest.post(f"/legs/{alice_id}/stt", ELEVENLABS, expect=409)
    await hears(fake, 0, {1000})
    await alice.reinvite(codecs=("PCMU",))
    for room_id, rate_hz in (("", 0), ("m", 48_000), ("n", 8_000), ("o", 16_000)):
        if room_id:
            await rest.room(room_id, sample_rate=rate_hz)
            await rest.join(room_id, bob_id)
            await rest.join(room_id, alice_id)
        alice.media.say(tone_hz=700)
        await hears(fake, 0, {700})
        alice.media.say(tone_hz=1000)
        await hears(fake, 0, {1000})
    await rest.delete(f"/rooms/o/legs/{alice_id}")
    alice.media.say(tone_hz=700)
    await hears(fake, 0, {700})
    assert len(fake.connections) == 1
    await rest.delete(f"/legs/{alice_id}/stt")
    texts = vsi.all("stt.text")
    assert texts
    assert all(event["leg_id"] == alice_id and "room_id" not in event for event in texts)


async def test_room_leg_and_recording_do_not_disturb_each_other(
    own_server: Callable[..., Server], tmp_path: Path, phones: Phones, vendors: Vendors
) -> None:
    of_room, of_leg = vendors.elevenlabs_stt, vendors.deepgram_stt
    of_room.commit_after_chunks = of_leg.final_after_chunks = 20
    server = own_server(RECORDING_DIR=str(tmp_path), **vendors.environment)

    def from_room(event: Event) -> bool:
        return event["type"] == "stt.text" and event.get("room_id") == "s"

    def from_leg(event: Event) -> bool:
        return event["type"] == "stt.text" and "room_id" not in event

    async with Rest(server.base) as rest, Vsi(server.base) as vsi:
        alice_id, _ = await phones.dialled(rest, tone_hz=1000, fields={"room_id": "s"})
        await rest.post("/rooms/s/stt", ELEVENLABS)
        await rest.post(f"/legs/{alice_id}/stt", DEEPGRAM)
        await rest.post(f"/legs/{alice_id}/record")
        await vsi.events.first(from_room, named="text of the room")
        await vsi.events.first(from_leg, named="text of the leg")
        await hears(of_room, 0, {1000})
        await hears(of_leg, 0, {1000})
        samples, rate_hz = soundfile.read((await rest.delete(f"/legs/{alice_id}/record"))["file"], dtype="int16")
        assert tones(samples[-rate_hz // 4 :, 0], rate_hz) == {1000}
        await rest.delete("/rooms/s/stt")
        before = len(vsi.events)
        await vsi.events.first(from_leg, after=before, named="text of the leg")
        await hears(of_leg, 0, {1000})
        await rest.post("/rooms/s/stt", ELEVENLABS)
        await rest.delete(f"/legs/{alice_id}/stt")
        before = len(vsi.events)
        await vsi.events.first(from_room, after=before, named="text of the room")
        assert (len(of_leg.connections), len(of_room.connections)) == (1, 2)
    await asyncio.to_thread(server.stop)
