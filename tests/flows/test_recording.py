"""What was recorded holds everybody at his time, whatever happened meanwhile, and lies where the reply says."""

from __future__ import annotations

import asyncio
import signal
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.flows.conftest import Phones
from tests.flows.tools.events import Vsi
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server
from tests.flows.tools.spectrum import tones

pytestmark = pytest.mark.flow

HEADER_BYTES = 44


def read(path: str) -> tuple[np.ndarray, int]:
    """(samples (frames, channels), rate)"""
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o644
    samples, rate_hz = soundfile.read(path, dtype="int16", always_2d=True)
    return samples, rate_hz


async def captured(path: str, within_s: float = 5.0) -> None:
    """Wait until something of the recording `path` is on disk: one that is stopped before leaves no file, and rightly so."""
    hidden = Path(path).with_name(f".{Path(path).name}.rec")
    async with asyncio.timeout(within_s):
        while hidden.stat().st_size <= HEADER_BYTES:  # noqa: ASYNC110 - nobody announces what a thread writes
            await asyncio.sleep(0.02)


async def test_a_room_is_recorded_with_all_its_channels(own_server, tmp_path, phones: Phones) -> None:
    server = own_server(RECORDING_DIR=str(tmp_path))
    async with Rest(server.base) as rest, Vsi(server.base) as vsi:
        (alice_id, _), (bob_id, _) = await phones.meeting(rest, "r", (440, 660))
        begun = await rest.post("/rooms/r/record", {"multi_channel": True, "storage": "", "s3_bucket": ""})
        await rest.post("/rooms/r/record", {}, expect=409)
        assert (await vsi.wait("recording.started", room_id="r"))["file"] == begun["file"]
        await rest.post("/rooms/r/play", {"tone": "jp_dial"})
        await asyncio.sleep(1)  # the length of what is recorded
        carol_id, _ = await phones.dialled(rest, tone_hz=880, fields={"room_id": "r"})
        await rest.post(f"/legs/{bob_id}/mute")
        assert (await rest.post("/rooms/r/record/pause"))["status"] == "paused"
        assert (await rest.post("/rooms/r/record/pause"))["status"] == "already_paused"
        await asyncio.sleep(0.5)
        assert (await rest.post("/rooms/r/record/resume"))["status"] == "resumed"
        assert (await rest.post("/rooms/r/record/resume"))["status"] == "not_paused"
        await asyncio.sleep(0.5)
        stopped = (await rest.delete("/rooms/r/record")).json
        await rest.delete("/rooms/r/record", expect=404)
        finished = await vsi.wait("recording.finished", room_id="r")
        assert vsi.of(room_id="r").count("recording.finished") == 1
        assert all(finished[key] == stopped[key] for key in ("file", "multi_channel_file", "channels"))
        assert stopped["file"] == begun["file"]
        mix, rate_hz = read(stopped["file"])
        merged, merged_hz = read(stopped["multi_channel_file"])
        assert (rate_hz, merged_hz, merged.shape) == (16000, 16000, (len(mix), 3))
        assert {400, 440, 660} <= {round(tone, -1) for tone in tones(mix[8000:16000, 0], rate_hz)}
        channels = stopped["channels"]
        assert set(channels) == {alice_id, bob_id, carol_id}
        for leg_id, tone_hz in ((alice_id, 440), (bob_id, 660), (carol_id, 880)):
            own, _ = read(channels[leg_id]["file"])
            channel = merged[:, channels[leg_id]["channel"]]
            assert np.array_equal(own[:, 0], channel)
            assert {round(tone, -1) for tone in tones(channel[-6400:], rate_hz)} == {tone_hz}
        assert channels[alice_id]["start_ms"] == channels[bob_id]["start_ms"] == 0
        assert not merged[: channels[carol_id]["start_ms"] * 16, channels[carol_id]["channel"]].any()
        await rest.delete("/rooms/r")
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".") and path.is_file()]
    server.stop()


async def test_a_leg_recording_follows_its_leg_and_ends_with_it(own_server, tmp_path, phones: Phones) -> None:
    server = own_server(RECORDING_DIR=str(tmp_path))
    async with Rest(server.base) as rest, Vsi(server.base) as vsi:
        alice_id, _ = await phones.dialled(rest, tone_hz=440)
        path = (await rest.post(f"/legs/{alice_id}/record", {"filename": "Alice 1"}, expect=400)) and (
            await rest.post(f"/legs/{alice_id}/record", {"filename": "Alice-1"})
        )["file"]
        await asyncio.sleep(0.5)
        await rest.room("r", sample_rate=16000)
        await phones.dialled(rest, tone_hz=660, fields={"room_id": "r"})
        await rest.join("r", alice_id)
        await asyncio.sleep(1)
        await rest.delete(f"/legs/{alice_id}", expect=202)
        finished = await vsi.wait("recording.finished", leg_id=alice_id)
        await vsi.wait("leg.disconnected", leg_id=alice_id)
        assert vsi.of(leg_id=alice_id)[-2:] == ["recording.finished", "leg.disconnected"]
        assert finished["file"] == path == str(tmp_path / "Alice-1.wav")
        samples, rate_hz = read(path)
        assert (samples.shape[1], rate_hz) == (2, 8000)
        assert len(samples) > 1.5 * rate_hz
        assert {round(tone, -1) for tone in tones(samples[:3200, 0], rate_hz)} == {440}
        assert {round(tone, -1) for tone in tones(samples[-3200:, 0], rate_hz)} == {440}
        assert {round(tone, -1) for tone in tones(samples[-3200:, 1], rate_hz)} == {660}
    server.stop()


@pytest.mark.parametrize("victim", ["room r", "control", "stream 0"])
async def test_a_recording_survives_a_death(own_server, tmp_path, phones: Phones, victim: str) -> None:
    server = own_server(RECORDING_DIR=str(tmp_path))
    async with Rest(server.base) as rest, Vsi(server.base) as vsi:
        (_, alice), _ = await phones.meeting(rest, "r", (440, 660))
        await rest.post("/rooms/r/record")
        playback_id = (await rest.post("/rooms/r/play", {"tone": "jp_dial"}))["playback_id"]
        await vsi.wait("playback.started", playback_id=playback_id)
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        await asyncio.sleep(0.7)
        await asyncio.to_thread(server.slay, f"roomtone: {victim}")
        await asyncio.sleep(1.5)
        await alice.media.settled({400, 660})
    async with Rest(server.base) as rest, Vsi(server.base) as vsi:
        path = (await rest.delete("/rooms/r/record"))["file"]
        length_s = loop.time() - began_s
        mix, rate_hz = read(path)
        assert len(mix) / rate_hz == pytest.approx(length_s, abs=0.5)
        assert {400, 440, 660} <= {round(tone, -1) for tone in tones(mix[-8000:, 0], rate_hz)}
        await rest.delete(f"/rooms/r/play/{playback_id}")
        ended = await vsi.wait("playback.finished", playback_id=playback_id)
        assert ended["played_ms"] / 1000 == pytest.approx(length_s, abs=0.5)
    server.stop()


async def test_deleting_the_room_finishes_its_recording(own_server, tmp_path, phones: Phones) -> None:
    server = own_server(RECORDING_DIR=str(tmp_path))
    async with Rest(server.base) as rest, Vsi(server.base) as vsi:
        await phones.meeting(rest, "r", (440, 660))
        await captured((await rest.post("/rooms/r/record"))["file"])
        await rest.delete("/rooms/r")
        samples, rate_hz = read((await vsi.wait("recording.finished", room_id="r"))["file"])
        assert len(samples) > 0.4 * rate_hz
        await phones.meeting(rest, "r", (440, 660))
        await captured((await rest.post("/rooms/r/record"))["file"])
    server.stop()
    assert len(list(tmp_path.glob("*.wav"))) == 2


async def test_what_an_abrupt_end_leaves_behind_is_finished_by_the_next_server(
    own_server, tmp_path, phones: Phones
) -> None:
    """`kill -9` of every process at once, as a crash of the container: a room, a multi-channel room and a leg are recorded."""
    server = own_server(RECORDING_DIR=str(tmp_path))
    async with Rest(server.base) as rest:
        (alice_id, _), _ = await phones.meeting(rest, "a", (440, 660))
        await phones.meeting(rest, "b", (880, 1100))
        mono = (await rest.post("/rooms/a/record"))["file"]
        leg = (await rest.post(f"/legs/{alice_id}/record"))["file"]
        multi = (await rest.post("/rooms/b/record", {"multi_channel": True}))["file"]
        began_s = asyncio.get_running_loop().time()
        await asyncio.sleep(1.7)  # the length of what is recorded
        server.kill()
        length_s = asyncio.get_running_loop().time() - began_s
    assert not list(tmp_path.glob("[!.]*"))
    server = own_server(RECORDING_DIR=str(tmp_path))
    found = await asyncio.gather(*(finished_later(server, path) for path in (mono, leg, multi)))
    for path, tones_hz in ((mono, {440, 660}), (leg, {440}), (multi, {880, 1100})):
        samples, rate_hz = read(path)
        assert length_s - 1 <= len(samples) / rate_hz <= length_s + 0.5
        assert {round(tone, -1) for tone in tones(samples[:6400, 0], rate_hz)} == tones_hz
    mix, _ = read(multi)
    merged, rate_hz = read(found[2]["multi_channel_file"])
    assert merged.shape == (len(mix), 2)
    tracks = dict(one.split(": ") for one in found[2]["channels"].split(", "))
    assert len(tracks) == 2
    for channel, name in enumerate(tracks.values()):
        own, _ = read(str(tmp_path / name))
        assert np.array_equal(own[:, 0], merged[:, channel])
        assert {round(tone, -1) for tone in tones(own[:6400, 0], rate_hz)} in ({880}, {1100})
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    server.stop()


async def finished_later(server: Server, path: str, within_s: float = 10.0) -> dict[str, Any]:
    """What the log says of a recording that was left behind."""
    async with asyncio.timeout(within_s):
        while not (lines := [line for line in server.logged() if line.get("file") == path]):  # noqa: ASYNC110 - no waiting on a pipe here
            await asyncio.sleep(0.02)
    return lines[0]


async def test_recordings_are_finished_when_the_master_is_killed(own_server, tmp_path, phones: Phones) -> None:
    server = own_server(RECORDING_DIR=str(tmp_path))
    async with Rest(server.base) as rest:
        await phones.meeting(rest, "r", (440, 660))
        path = (await rest.post("/rooms/r/record", {"multi_channel": True}))["file"]
        began_s = asyncio.get_running_loop().time()
        await captured(path)
        server.processes()
        server.signal(signal.SIGKILL)
        length_s = asyncio.get_running_loop().time() - began_s
    async with asyncio.timeout(6):
        while server.processes():  # noqa: ASYNC110 - foreign processes tell nobody here
            await asyncio.sleep(0.05)
    mix, rate_hz = read(path)
    assert len(mix) / rate_hz > length_s - 0.2
    (merged,) = tmp_path.glob("*_multichannel_*.wav")
    assert read(str(merged))[0].shape == (len(mix), 2)
    assert not [one for one in tmp_path.iterdir() if one.name.startswith(".")]
