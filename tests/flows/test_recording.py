"""What was recorded holds everybody at his time, in the files that replies and events name, by the contract's rules."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.flows.conftest import Phones
from tests.flows.tools.events import Vsi
from tests.flows.tools.recorded import captured, heard_in, hidden, left_over, read, tidy, visible
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server
from tests.flows.tools.spectrum import HEARD_DB, level_db

pytestmark = pytest.mark.flow


@pytest.fixture(scope="module")
def _shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("recordings") / "made when missing"
    server = Server(RECORDING_DIR=str(folder)).start()
    assert not folder.exists()
    yield server
    server.stop()
    assert not left_over(folder)


@pytest.fixture
def folder(server: Server) -> Path:
    return Path(server.environment["RECORDING_DIR"])


async def test_a_room_is_recorded_with_all_its_channels(rest: Rest, vsi: Vsi, folder: Path, phones: Phones) -> None:
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
    recorded = ("recording.started", "recording.paused", "recording.resumed", "recording.finished")
    assert [kind for kind in vsi.of(room_id="r") if kind in recorded] == list(recorded)
    assert (await vsi.wait("recording.paused", room_id="r"))["file"] == begun["file"]
    assert all(finished[key] == stopped[key] for key in ("file", "multi_channel_file", "channels"))
    assert stopped["file"] == begun["file"]
    mix, rate_hz = read(stopped["file"])
    merged, merged_hz = read(stopped["multi_channel_file"])
    assert (rate_hz, merged_hz, merged.shape) == (16000, 16000, (len(mix), 3))
    assert {400, 440, 660} <= heard_in(mix[8000:16000, 0], rate_hz)
    channels = stopped["channels"]
    assert set(channels) == {alice_id, bob_id, carol_id}
    for leg_id, tone_hz in ((alice_id, 440), (bob_id, 660), (carol_id, 880)):
        own, _ = read(channels[leg_id]["file"])
        channel = merged[:, channels[leg_id]["channel"]]
        assert np.array_equal(own[:, 0], channel)
        assert heard_in(channel[-6400:], rate_hz) == {tone_hz}
    assert channels[alice_id]["start_ms"] == channels[bob_id]["start_ms"] == 0
    assert not merged[: channels[carol_id]["start_ms"] * 16, channels[carol_id]["channel"]].any()
    await tidy(folder)


async def test_who_comes_while_it_is_paused_starts_paused_and_who_returns_goes_on(
    rest: Rest, vsi: Vsi, phones: Phones
) -> None:
    """One channel for each, whatever their ways: silence before, between, behind, and in the pause."""
    (alice_id, _), (bob_id, _) = await phones.meeting(rest, "r", (440, 660))
    begun = await rest.post("/rooms/r/record", {"multi_channel": True})
    await captured(begun["file"])
    await rest.post("/rooms/r/record/pause")
    carol_id, _ = await phones.dialled(rest, tone_hz=880, fields={"room_id": "r"})
    await rest.delete(f"/rooms/r/legs/{bob_id}")
    await asyncio.sleep(0.5)
    await rest.post("/rooms/r/record/resume")
    await asyncio.sleep(0.5)
    await rest.join("r", bob_id)
    await asyncio.sleep(0.5)
    await rest.delete(f"/rooms/r/legs/{bob_id}")
    await asyncio.sleep(0.3)
    stopped = (await rest.delete("/rooms/r/record")).json
    mix, rate_hz = read(stopped["file"])
    merged, _ = read(stopped["multi_channel_file"])
    alice, bob, carol = (stopped["channels"][leg_id] for leg_id in (alice_id, bob_id, carol_id))
    assert sorted(one["channel"] for one in (alice, bob)) == [0, 1]
    assert carol["channel"] == 2
    length_ms = len(mix) * 1000 // rate_hz
    assert (alice["start_ms"], bob["start_ms"], alice["end_ms"], carol["end_ms"]) == (0, 0, length_ms, length_ms)
    assert carol["start_ms"] > 400
    assert bob["end_ms"] <= length_ms - 200
    sounding = {
        name: np.abs(merged[: len(mix) // 320 * 320, one["channel"]].reshape(-1, 320)).max(axis=1) > 1000
        for name, one in (("alice", alice), ("bob", bob), ("carol", carol))
    }
    pause = np.flatnonzero(~sounding["alice"])
    assert len(pause) >= 25
    assert not any(voice[pause[0] : pause[-1] + 1].any() for voice in sounding.values())
    assert not mix[pause[0] * 320 : (pause[-1] + 1) * 320].any()
    assert not sounding["carol"][: pause[-1]].any()
    assert sounding["carol"][pause[-1] + 2 :].all()
    talks = np.flatnonzero(np.diff(np.concatenate([[False], sounding["bob"], [False]]).astype(int)))
    assert len(talks) == 4, "once before he left, once after he returned"
    assert talks[-1] * 20 == pytest.approx(bob["end_ms"], abs=40)


async def test_a_leg_recording_follows_its_leg_and_ends_with_it(
    rest: Rest, vsi: Vsi, folder: Path, phones: Phones
) -> None:
    """From no room at all, where it hears what is played to it, into one of another rate."""
    alice_id, _ = await phones.dialled(rest, tone_hz=440)
    path = (await rest.post(f"/legs/{alice_id}/record", {"filename": "Alice-1"}))["file"]
    await rest.post(f"/legs/{alice_id}/record", {}, expect=409)
    playback_id = (await rest.post(f"/legs/{alice_id}/play", {"tone": "jp_dial"}))["playback_id"]
    await vsi.wait("playback.started", playback_id=playback_id)
    await asyncio.sleep(0.5)
    await rest.delete(f"/legs/{alice_id}/play/{playback_id}")
    assert not (await rest.get("/rooms")).json
    await rest.room("r", sample_rate=16000)
    await phones.dialled(rest, tone_hz=660, fields={"room_id": "r"})
    await rest.join("r", alice_id)
    await asyncio.sleep(1)
    await rest.delete(f"/legs/{alice_id}", expect=202)
    finished = await vsi.wait("recording.finished", leg_id=alice_id)
    await vsi.wait("leg.disconnected", leg_id=alice_id)
    assert vsi.of(leg_id=alice_id)[-2:] == ["recording.finished", "leg.disconnected"]
    assert "room_id" not in finished
    assert finished["file"] == path == str(folder / "Alice-1.wav")
    samples, rate_hz = read(path)
    assert (samples.shape[1], rate_hz) == (2, 8000)
    assert heard_in(samples[:3200, 0], rate_hz) == {440}
    assert heard_in(samples[-3200:, 0], rate_hz) == {440}
    assert heard_in(samples[-3200:, 1], rate_hz) == {660}
    windows = samples[: len(samples) // 1600 * 1600, 1].reshape(-1, 1600)
    assert sum(level_db(window, rate_hz, 400) > HEARD_DB for window in windows) >= 2, "what was played to it"


async def test_a_leg_recording_is_whole_when_the_room_is_deleted(
    rest: Rest, vsi: Vsi, folder: Path, phones: Phones
) -> None:
    (alice_id, _), _ = await phones.meeting(rest, "gone", (440, 660))
    path = (await rest.post(f"/legs/{alice_id}/record"))["file"]
    await asyncio.sleep(1)  # the length of what is recorded
    await rest.delete("/rooms/gone")
    finished = await vsi.wait("recording.finished", leg_id=alice_id)
    await vsi.wait("leg.disconnected", leg_id=alice_id)
    assert vsi.of(leg_id=alice_id)[-2:] == ["recording.finished", "leg.disconnected"]
    assert finished["file"] == path
    samples, rate_hz = read(path)
    assert heard_in(samples[-3200:, 1], rate_hz) == {660}


async def test_names_of_files(rest: Rest, vsi: Vsi, folder: Path, phones: Phones) -> None:
    alice_id, _ = await phones.dialled(rest, fields={"room_id": "n"})
    leg, room = f"/legs/{alice_id}/record", "/rooms/n/record"
    before = visible(folder)
    for name in (
        "   ",
        "a b",
        "a/b",
        "../a",
        ".a",
        "a.",
        "a..b",
        ".wav",
        "a\\b",
        "a\0b",
        "a:b",
        "x" * 125,
        "ü" * 63,
        "a.wav.WAV.",
    ):
        await rest.post(room, {"filename": name}, expect=400)
    for name, file in (
        (" Grüße-1_b.WAV ", "Grüße-1_b.wav"),
        ("запись.v2", "запись.v2.wav"),
        ("x" * 124, f"{'x' * 124}.wav"),
    ):
        begun = await rest.post(room, {"filename": name})
        assert begun["file"] == str(folder / file)
        await rest.post(leg, {"filename": name}, expect=409)  # in use by another recording
        await captured(begun["file"])
        assert (await rest.delete(room))["file"] == str(folder / file)
        await rest.post(leg, {"filename": name}, expect=409)  # there
        await rest.delete(leg, expect=404)
    assert len(visible(folder)) == len(before) + 3
    assert len(vsi.all("recording.started")) == 3


async def test_a_recording_ends_with_the_last_participant(rest: Rest, vsi: Vsi, folder: Path, phones: Phones) -> None:
    """L4; and an empty room is not recorded at all."""
    await rest.room("r")
    await rest.post("/rooms/r/record", expect=409)
    await rest.post("/rooms/none/record", expect=404)
    for word in ("pause", "resume"):
        await rest.post(f"/rooms/r/record/{word}", expect=404)
    leg_id, _ = await phones.dialled(rest, tone_hz=440)
    for leave in ("removed", "moved", "hung up"):
        await rest.join("r", leg_id)
        await captured((await rest.post("/rooms/r/record"))["file"])
        before = len(vsi.events)
        if leave == "removed":
            await rest.delete(f"/rooms/r/legs/{leg_id}")
        elif leave == "moved":
            await rest.join("other", leg_id)
        else:
            await rest.delete(f"/legs/{leg_id}", expect=202)
        finished = await vsi.wait("recording.finished", room_id="r", after=before)
        assert heard_in(read(finished["file"])[0][:6400, 0], 16000) == {440}, leave
        await rest.delete("/rooms/r/record", expect=404)


async def test_an_unusable_directory_is_a_500_that_leaves_nothing(
    rest: Rest, vsi: Vsi, folder: Path, phones: Phones
) -> None:
    leg_id, _ = await phones.dialled(rest, fields={"room_id": "u"})
    with a_file_in_place_of(folder):
        for path in ("/rooms/u/record", f"/legs/{leg_id}/record"):
            refused = await rest.post(path, {"multi_channel": True}, expect=500)
            assert "the file cannot be created" in refused["error"]
            await rest.delete(path, expect=404)
    assert not vsi.all("recording.started")
    await captured((await rest.post("/rooms/u/record"))["file"])
    await rest.delete("/rooms/u/record")


@contextmanager
def a_file_in_place_of(folder: Path) -> Iterator[None]:
    elsewhere = folder.with_name("elsewhere")
    folder.rename(elsewhere)
    folder.write_text("in the way")
    yield
    folder.unlink()
    elsewhere.rename(folder)


def fill(folder: Path) -> None:
    """Until not even a header fits."""
    with suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(1024)):
            pass


async def test_a_full_disk_costs_the_recording_and_nothing_else(
    own_server: Any, tmp_path: Path, phones: Phones
) -> None:
    """A directory of its own with room for two seconds: the file is valid, as long as the recording, and silent at its end."""
    if os.geteuid():
        pytest.skip("no mount namespace without privileges")
    mounted = f'mount -t tmpfs -o size=64k none {tmp_path} && exec "$@"'
    server = own_server(RECORDING_DIR=str(tmp_path), wrapper=("unshare", "--mount", "sh", "-c", mounted, "sh"))
    inside = Path(f"/proc/{server.process.pid}/root{tmp_path}")
    async with Rest(server.base) as rest, Vsi(server.base) as vsi:
        _, (_, bob) = await phones.meeting(rest, "d", (440, 660))
        path = (await rest.post("/rooms/d/record"))["file"]
        await asyncio.sleep(3.5)  # 112 kB
        await bob.media.settled({440})
        stopped = (await rest.delete("/rooms/d/record")).json
        assert (await vsi.wait("recording.finished", room_id="d"))["file"] == stopped["file"] == path
        samples, rate_hz = read(inside / Path(path).name)
        assert 3 < len(samples) / rate_hz < 6
        assert heard_in(samples[:6400, 0], rate_hz) == {440, 660}
        assert not samples[-rate_hz:].any()
        async with asyncio.timeout(5):
            while not any("No space left" in line.get("error", "") for line in server.logged()):  # noqa: ASYNC110 - a pipe
                await asyncio.sleep(0.02)
        fill(inside)
        await rest.post("/rooms/d/record", {"multi_channel": True}, expect=500)
        assert not left_over(inside)
        await bob.media.settled({440})
    await asyncio.to_thread(server.stop)


async def test_the_file_is_a_recording_at_every_moment(rest: Rest, phones: Phones) -> None:
    await phones.meeting(rest, "m", (440, 660))
    path = (await rest.post("/rooms/m/record"))["file"]
    await captured(path)
    lengths = []
    for _ in range(8):
        lengths.append(len(read(hidden(path))[0]))
        await asyncio.sleep(0.2)
    assert lengths == sorted(lengths)
    assert lengths[-1] - lengths[0] > 0.9 * 16000
    await rest.delete("/rooms/m/record")
