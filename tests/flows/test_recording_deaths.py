"""Recordings through deaths and ends: of single processes, of the room, of the server, of all of it at once."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import numpy as np
import pytest

from tests.flows.conftest import Phones
from tests.flows.tools.events import Vsi
from tests.flows.tools.recorded import captured, heard_in, left_over, read, visible
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server

pytestmark = pytest.mark.flow


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
        assert {400, 440, 660} <= heard_in(mix[-8000:, 0], rate_hz)
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
    assert not visible(tmp_path)
    server = own_server(RECORDING_DIR=str(tmp_path))
    found = await asyncio.gather(*(finished_later(server, path) for path in (mono, leg, multi)))
    for path, tones_hz in ((mono, {440, 660}), (leg, {440}), (multi, {880, 1100})):
        samples, rate_hz = read(path)
        assert length_s - 1 <= len(samples) / rate_hz <= length_s + 0.5
        assert heard_in(samples[:6400, 0], rate_hz) == tones_hz
    mix, _ = read(multi)
    merged, rate_hz = read(found[2]["multi_channel_file"])
    assert merged.shape == (len(mix), 2)
    tracks = dict(one.split(": ") for one in found[2]["channels"].split(", "))
    assert len(tracks) == 2
    for channel, name in enumerate(tracks.values()):
        own, _ = read(str(tmp_path / name))
        assert np.array_equal(own[:, 0], merged[:, channel])
        assert heard_in(own[:6400, 0], rate_hz) in ({880}, {1100})
    assert not left_over(tmp_path)
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
    assert not left_over(tmp_path)


async def test_a_room_that_is_given_up_leaves_its_recording(own_server, tmp_path, phones: Phones) -> None:
    """The third death of its worker within 10 s ends the room; what was recorded until then is complete and told."""
    server = own_server(RECORDING_DIR=str(tmp_path))
    async with Rest(server.base) as rest, Vsi(server.base) as vsi:
        legs = await phones.meeting(rest, "r", (440, 660))
        path = (await rest.post("/rooms/r/record", {"multi_channel": True}))["file"]
        await captured(path)
        for _ in range(3):
            async with asyncio.timeout(5):
                while not await asyncio.to_thread(server.titled, "roomtone: room r"):  # noqa: ASYNC110 - foreign processes
                    await asyncio.sleep(0.02)
            await asyncio.to_thread(server.slay, "roomtone: room r")
        finished = await vsi.wait("recording.finished", room_id="r")
        mix, rate_hz = read(finished["file"])
        merged, _ = read(finished["multi_channel_file"])
        assert heard_in(mix[:6400, 0], rate_hz) == {440, 660}
        assert merged.shape == (len(mix), 2)
        assert set(finished["channels"]) == {leg_id for leg_id, _ in legs}
        assert vsi.of(room_id="r").count("recording.finished") == 1
        await rest.get("/rooms/r", expect=404)
        assert not left_over(tmp_path)
    await asyncio.to_thread(server.stop)
