"""Recordings end up in the bucket that environment and request name, through whatever S3 and our own processes do meanwhile."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import soundfile
from moto.server import ThreadedMotoServer

from tests.flows.conftest import Phones
from tests.flows.tools.events import Vsi
from tests.flows.tools.recorded import captured, visible
from tests.flows.tools.rest import Rest
from tests.flows.tools.s3 import FakeS3
from tests.flows.tools.server import Server

pytestmark = pytest.mark.flow

SECRETS = ("env-secret-key", "own-secret-key")
OWN_KEYS = {"s3_access_key": "OWN", "s3_secret_key": "own-secret-key"}


def environment(folder: Path, endpoint: str) -> dict[str, str]:
    return {
        "RECORDING_DIR": str(folder),
        "S3_ENDPOINT": endpoint,
        "S3_BUCKET": "good",
        "S3_PREFIX": "2026/calls-",
        "S3_REGION": "eu-north-1",
        "AWS_ACCESS_KEY_ID": "ENV",
        "AWS_SECRET_ACCESS_KEY": "env-secret-key",
        "LOG_LEVEL": "debug",
    }


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def storing(moto: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests that leave it alive; its log is searched for secrets at the end."""
    server = Server(**environment(tmp_path_factory.mktemp("recordings"), moto)).start()
    yield server
    server.stop()
    assert not [line for line in server.lines if any(secret in line for secret in SECRETS)]
    assert not server.errors()


@pytest.fixture
async def s3() -> AsyncIterator[FakeS3]:
    async with FakeS3() as fake:
        yield fake


@pytest.fixture
async def rest(storing: Server, phones: Phones) -> AsyncIterator[Rest]:
    async with Rest(storing.base) as client:
        yield client
        for room in (await client.get("/rooms")).json:
            await client.delete(f"/rooms/{room['id']}", expect=None)
        for leg in (await client.get("/legs")).json:
            await client.delete(f"/legs/{leg['id']}", expect=None)


@pytest.fixture
async def vsi(storing: Server) -> AsyncIterator[Vsi]:
    async with Vsi(storing.base) as client:
        yield client


async def recorded(rest: Rest, path: str, **fields: Any) -> str:
    """The local path of a recording to s3 that has begun to hold sound."""
    file = (await rest.post(f"{path}/record", {"storage": "s3", **fields}))["file"]
    await captured(file)
    return file


def folder_of(server: Server) -> Path:
    return Path(server.environment["RECORDING_DIR"])


async def spool_is_empty(folder: Path, within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while list((folder / ".uploads").glob("*")):  # noqa: ASYNC110 - a foreign process removes them
            await asyncio.sleep(0.02)


async def test_all_files_of_a_room_go_to_the_bucket_of_the_environment(
    rest: Rest, vsi: Vsi, phones: Phones, moto: str
) -> None:
    client = boto3.client("s3", endpoint_url=moto, aws_access_key_id="x", aws_secret_access_key="y")
    client.create_bucket(Bucket="good", CreateBucketConfiguration={"LocationConstraint": "eu-north-1"})
    legs = await phones.meeting(rest, "r", (440, 660))
    local = await recorded(rest, "/rooms/r", multi_channel=True)
    began_s = time.monotonic()
    stopped = (await rest.delete("/rooms/r/record")).json
    assert time.monotonic() - began_s < 10
    finished = await vsi.wait("recording.finished", room_id="r")
    assert all(finished[key] == stopped[key] for key in ("file", "multi_channel_file", "channels"))
    channels = [stopped["channels"][leg_id]["file"] for leg_id, _ in legs]
    places = [stopped["file"], stopped["multi_channel_file"], *channels]
    assert stopped["file"] == f"s3://good/2026/calls-{Path(local).name}"
    lengths = set()
    for place, sides in zip(places, (1, 2, 1, 1), strict=True):
        found = client.get_object(Bucket="good", Key=place.removeprefix("s3://good/"))
        assert found["ContentType"] == "audio/wav"
        samples, rate_hz = soundfile.read(io.BytesIO(found["Body"].read()), always_2d=True)
        assert (samples.shape[1], rate_hz) == (sides, 16000)
        lengths.add(len(samples))
    assert len(lengths) == 1
    assert len(client.list_objects_v2(Bucket="good")["Contents"]) == 4
    await spool_is_empty(Path(local).parent)
    assert [path.name for path in Path(local).parent.iterdir()] == [".uploads"]
    assert vsi.of(room_id="r").count("recording.finished") == 1


async def test_each_field_of_the_request_overrides_the_environment(
    rest: Rest, vsi: Vsi, phones: Phones, s3: FakeS3
) -> None:
    s3.buckets.add("other")
    leg_id, _ = await phones.dialled(rest, tone_hz=440)
    await recorded(rest, f"/legs/{leg_id}", s3_endpoint=s3.url)
    stopped = (await rest.delete(f"/legs/{leg_id}/record")).json
    first = await s3.put("good")
    assert (first.access_key, first.region, first.key[:11]) == ("ENV", "eu-north-1", "2026/calls-")
    assert stopped["file"] == first.location
    await recorded(
        rest, f"/legs/{leg_id}", s3_endpoint=s3.url, s3_bucket="other", s3_prefix="my/", s3_region="us-west-2",
        filename="Sunday", **OWN_KEYS,
    )  # fmt: skip
    await rest.delete(f"/legs/{leg_id}", expect=202)  # the leg's end ends its recording
    finished = await vsi.wait("recording.finished", leg_id=leg_id, after=len(vsi.events) - 1)
    second = await s3.put("other")
    assert (second.access_key, second.region, second.key, second.content_type) == (
        "OWN", "us-west-2", "my/Sunday.wav", "audio/wav",
    )  # fmt: skip
    assert finished["file"] == "s3://other/my/Sunday.wav"
    assert soundfile.info(io.BytesIO(second.body)).channels == 2
    assert "secret" not in (await rest.get("/rooms")).text + (await rest.get("/legs")).text


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"storage": "s3", "s3_access_key": "OWN"}, 400),
        ({"storage": "s3", "s3_secret_key": "own-secret-key"}, 400),
        ({"storage": "s3", "s3_endpoint": "http://objects.example.com"}, 400),
        ({"storage": "s3", "s3_endpoint": "ftp://127.0.0.1"}, 400),
        ({"storage": "s3", "s3_endpoint": "http://169.254.169.254"}, 400),
        ({"storage": "s3", "s3_endpoint": "http://[fe80::1]:9000"}, 400),
        ({"storage": "tape"}, 400),
        ({"storage": "gcs"}, 501),
    ],
)
async def test_what_cannot_be_meant_is_refused_without_a_trace(
    rest: Rest, vsi: Vsi, storing: Server, fields: dict[str, str], status: int
) -> None:
    await rest.room("r")
    await rest.post("/rooms/r/record", fields, expect=status)  # before it is looked at whether somebody is there
    await rest.delete("/rooms/r/record", expect=404)
    assert not vsi.all("recording.started")
    assert not visible(folder_of(storing))


async def test_without_a_bucket_s3_is_refused(server: Server, phones: Phones) -> None:
    async with Rest(server.base) as rest:
        await rest.room("bucketless")
        await rest.post("/rooms/bucketless/record", {"storage": "s3"}, expect=400)
        await rest.post("/rooms/bucketless/record", {"storage": "s3", "s3_bucket": "b"}, expect=409)  # nobody is there
        await rest.delete("/rooms/bucketless")


async def test_what_s3_refuses_stays_here(rest: Rest, vsi: Vsi, phones: Phones, storing: Server, s3: FakeS3) -> None:
    """403, 404, a broken answer and no answer at all, at once: the local path is replied within 10 s, retries follow."""

    async def refused(bucket: str) -> tuple[str, float]:
        leg_id, _ = await phones.dialled(rest, tone_hz=440)
        local = await recorded(rest, f"/legs/{leg_id}", s3_endpoint=s3.url, s3_bucket=bucket, **OWN_KEYS)
        began_s = time.monotonic()
        stopped = (await rest.delete(f"/legs/{leg_id}/record")).json
        assert stopped["file"] == local
        return leg_id, time.monotonic() - began_s

    buckets = (s3.FORBIDDEN, "nowhere", s3.HALF, s3.HANGING)
    outcomes = dict(zip(buckets, await asyncio.gather(*map(refused, buckets)), strict=True))
    assert max(took_s for _, took_s in outcomes.values()) < 12
    assert outcomes[s3.FORBIDDEN][1] < 5
    folder = folder_of(storing)
    assert not vsi.all("recording.finished")
    assert len(visible(folder)) == 4
    s3.release.set()
    finished = await vsi.wait("recording.finished", leg_id=outcomes[s3.HANGING][0])
    assert finished["file"] == (await s3.put(s3.HANGING)).location
    assert len(visible(folder)) == 3
    logged = [line for line in storing.logged() if line.get("event") == "upload"]
    assert any("AccessDenied" in line["error"] for line in logged)
    assert any("NoSuchBucket" in line["error"] for line in logged)
    # A killed stream process tries again at once what its predecessor would have tried in 20 s.
    s3.buckets.add("nowhere")
    await asyncio.to_thread(storing.slay, "roomtone: stream 0")
    finished = await vsi.wait("recording.finished", leg_id=outcomes["nowhere"][0], within_s=10)
    assert finished["file"].startswith("s3://nowhere/")


@pytest.mark.parametrize("victim", ["stream 0", "control"])
async def test_an_upload_survives_a_death(
    own_server: Any, tmp_path: Path, phones: Phones, s3: FakeS3, victim: str
) -> None:
    server = own_server(**environment(tmp_path, s3.url))
    async with Rest(server.base) as rest:
        leg_id, _ = await phones.dialled(rest, tone_hz=440)
        local = await recorded(rest, f"/legs/{leg_id}", s3_bucket=s3.HANGING)
        stopping = asyncio.ensure_future(rest.delete(f"/legs/{leg_id}/record"))
        await s3.put(s3.HANGING)
        await asyncio.to_thread(server.slay, f"roomtone: {victim}")
        if victim == "control":
            await asyncio.wait({stopping})
            assert stopping.exception()
        async with Vsi(server.base) as vsi:
            s3.release.set()
            location = f"s3://hanging/2026/calls-{Path(local).name}"
            if victim == "control":
                assert (await vsi.wait("recording.finished", leg_id=leg_id))["file"] == location
            else:
                assert (await stopping)["file"] == location
        assert soundfile.info(io.BytesIO(s3.objects[location])).channels == 2
        await spool_is_empty(tmp_path)
        assert not visible(tmp_path)
    await asyncio.to_thread(server.stop)


async def test_an_upload_that_the_end_cuts_short_is_resumed_by_the_next_start(
    own_server: Any, tmp_path: Path, phones: Phones, s3: FakeS3
) -> None:
    server = own_server(**environment(tmp_path, s3.url))
    async with Rest(server.base) as rest, Vsi(server.base) as vsi:
        await phones.meeting(rest, "quick", (440, 660))
        leg_id, _ = await phones.dialled(rest, tone_hz=440)
        quick = await recorded(rest, "/rooms/quick")
        local = await recorded(rest, f"/legs/{leg_id}", s3_bucket=s3.HANGING, **OWN_KEYS)
        await asyncio.to_thread(server.stop)
        finished = await vsi.wait("recording.finished", room_id="quick")
        assert finished["file"] == f"s3://good/2026/calls-{Path(quick).name}"
        finished = await vsi.wait("recording.finished", leg_id=leg_id)
        assert finished["file"] == local
        assert vsi.of(leg_id=leg_id)[-2:] == ["recording.finished", "leg.disconnected"]
    assert visible(tmp_path) == [Path(local).name]
    s3.release.set()
    server = own_server(**environment(tmp_path, s3.url))
    await spool_is_empty(tmp_path, within_s=10)
    assert f"s3://hanging/2026/calls-{Path(local).name}" in s3.objects
    assert not visible(tmp_path)
    await asyncio.to_thread(server.stop)
    assert not [line for line in server.lines if any(secret in line for secret in SECRETS)]


def test_a_plain_endpoint_far_away_ends_the_start(own_server: Any) -> None:
    server = Server(S3_ENDPOINT="http://objects.example.com", S3_BUCKET="b")
    with pytest.raises(AssertionError, match="S3_ENDPOINT: plain http"):
        server.start()
