"""Uploads to moto's S3 server: through failures, restarts and deaths of ours."""

import asyncio
import stat

import boto3
import pytest
from moto.server import ThreadedMotoServer

from shm import messages as wire
from shm.reach import Reach
from workers.stream import upload
from workers.stream.storage import Bucket, StorageError, is_there, put

from .conftest import EVENT_S


@pytest.fixture(scope="module")
def s3():
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3):
    client = boto3.client(
        "s3", endpoint_url=s3, region_name="us-east-1", aws_access_key_id="AK", aws_secret_access_key="SK"
    )
    client.create_bucket(Bucket="calls")
    yield client
    for found in client.list_objects_v2(Bucket="calls").get("Contents", []):
        client.delete_object(Bucket="calls", Key=found["Key"])
    client.delete_bucket(Bucket="calls")


@pytest.fixture
def files(tmp_path):
    made = [tmp_path / "20260101_120000_aaaaaaaa.wav", tmp_path / "20260101_120000_multichannel_aaaaaaaa.wav"]
    for number, path in enumerate(made):
        path.write_bytes(b"RIFF" + bytes([number]) * 1000)
    return made


async def order(control, files, endpoint, **more):
    fields = {
        "upload_id": "u1",
        "paths": tuple(map(str, files)),
        "bucket": "calls",
        "region": "us-east-1",
        "endpoint": endpoint,
        "prefix": "2026/rec-",
        "access_key": "AK",
        "secret_key": "very-secret",
    }
    await control.ok(wire.UploadRecording, **(fields | more))


async def test_stored_and_removed(new_control, s3, bucket, files, tmp_path):
    control = new_control(recording_dir=str(tmp_path))
    await order(control, files, s3)
    event = await control.event(wire.Uploaded, upload_id="u1")
    assert event.is_final
    assert not event.error
    assert event.locations == tuple(f"s3://calls/2026/rec-{path.name}" for path in files)
    stored = bucket.get_object(Bucket="calls", Key=f"2026/rec-{files[1].name}")
    assert stored["ContentType"] == "audio/wav"
    assert stored["Body"].read() == b"RIFF" + b"\1" * 1000
    assert not any(path.exists() for path in files)
    async with asyncio.timeout(EVENT_S):
        while any((tmp_path / upload.SPOOL).iterdir()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert "u1" not in await control.inventory()


async def test_no_such_bucket(new_control, s3, files, tmp_path):
    """Told at once; the files stay, the order waits for its next attempt, its keys readable by nobody else."""
    control = new_control(recording_dir=str(tmp_path))
    await order(control, files, s3)
    event = await control.event(wire.Uploaded)
    assert not event.is_final
    assert "NoSuchBucket" in event.error
    assert event.locations == tuple(map(str, files))
    assert all(path.exists() for path in files)
    assert "u1" in await control.inventory()
    spooled = tmp_path / upload.SPOOL / "u1"
    assert stat.S_IMODE(spooled.stat().st_mode) == 0o600
    assert stat.S_IMODE(spooled.parent.stat().st_mode) == 0o700
    assert not [event for event in control.events if "very-secret" in str(event)]


async def test_a_successor_goes_on(new_control, s3, bucket, files, tmp_path):
    control = new_control(recording_dir=str(tmp_path))
    await order(control, files, s3, bucket="not-there")
    await control.event(wire.Uploaded, is_final=False)
    control.kill()
    spooled = tmp_path / upload.SPOOL / "u1"
    spooled.write_text(spooled.read_text().replace("not-there", "calls"))  # somebody has made the bucket
    torn = tmp_path / upload.SPOOL / "u2"
    torn.write_text('{"type":"UploadRec')
    later = new_control(recording_dir=str(tmp_path))
    assert not (await later.event(wire.Uploaded, upload_id="u1", is_final=True)).error
    assert not any(path.exists() for path in files)
    assert not torn.exists()


async def test_killed_between_storing_and_confirming(new_control, s3, bucket, files, tmp_path):
    """One file was stored and removed before the death: it is not an error, and its location is told."""
    control = new_control(recording_dir=str(tmp_path))
    await order(control, files, s3, bucket="not-there")
    await control.event(wire.Uploaded, is_final=False)
    control.kill()
    spooled = tmp_path / upload.SPOOL / "u1"
    spooled.write_text(spooled.read_text().replace("not-there", "calls"))
    bucket.upload_file(str(files[0]), "calls", f"2026/rec-{files[0].name}")
    files[0].unlink()
    later = new_control(recording_dir=str(tmp_path))
    event = await later.event(wire.Uploaded, upload_id="u1", is_final=True)
    assert not event.error
    assert all(location.startswith("s3://") for location in event.locations)


async def test_another_process_at_work_is_left_alone(new_control, s3, bucket, files, tmp_path):
    control = new_control(recording_dir=str(tmp_path))
    await order(control, files, s3, bucket="not-there")
    await control.event(wire.Uploaded, is_final=False)
    second = new_control(recording_dir=str(tmp_path))
    assert not await second.inventory()
    assert "u1" in await control.inventory()


async def test_no_room_for_the_order(new_control, s3, files, tmp_path):
    (tmp_path / upload.SPOOL).write_text("in the way")
    control = new_control(recording_dir=str(tmp_path))
    fields = {"upload_id": "u1", "paths": (), "bucket": "b", "region": "r"}
    reply = await control.do(wire.UploadRecording, **fields)
    assert isinstance(reply, wire.Failed)
    assert reply.blame == "resource"
    (tmp_path / upload.SPOOL).unlink()
    reply = await control.do(wire.UploadRecording, **(fields | {"upload_id": "../u1"}))
    assert isinstance(reply, wire.Failed)
    assert not (tmp_path / "u1").exists()


async def test_retries_and_the_end(s3, files, tmp_path):
    """The whole life of an order that never succeeds, with short pauses."""
    events, logs = [], []
    uploads = upload.Uploads(
        str(tmp_path),
        Reach(private_allowed=True),
        events.append,
        lambda *words, **fields: logs.append(words),
        pauses_s=(0.0, 0.0, 0.0),
    )
    command = wire.UploadRecording(
        upload_id="u1",
        paths=tuple(map(str, files)),
        bucket="nowhere",
        region="us-east-1",
        endpoint=s3,
        access_key="AK",
        secret_key="SK",
    )
    await uploads.start(command)
    async with asyncio.timeout(EVENT_S):
        while uploads.ids():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert [event.is_final for event in events] == [False, True]
    assert len(logs) == 3
    assert events[-1].locations == tuple(map(str, files))
    assert not list((tmp_path / upload.SPOOL).iterdir())
    uploads.close()


async def test_one_of_two(s3, bucket, files, tmp_path):
    files[1].unlink()
    events = []
    uploads = upload.Uploads(
        str(tmp_path), Reach(private_allowed=True), events.append, lambda *_, **__: None, pauses_s=()
    )
    await uploads.start(
        wire.UploadRecording(
            upload_id="u1",
            paths=tuple(map(str, files)),
            bucket="calls",
            region="us-east-1",
            endpoint=s3,
            access_key="AK",
            secret_key="SK",
        )
    )
    async with asyncio.timeout(EVENT_S):
        while uploads.ids():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert events[-1].locations == (f"s3://calls/{files[0].name}", str(files[1]))
    assert events[-1].error == "the file is gone"
    uploads.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_private_endpoint_is_refused(s3, bucket, files, host):
    """Fails when botocore or urllib3 no longer connect the way storage.py relies on."""
    place = Bucket("calls", "us-east-1", s3.replace("127.0.0.1", host), "", "AK", "SK")
    with pytest.raises(StorageError, match="leads to a private address"):
        put(place, str(files[0]), Reach(private_allowed=False))
    assert not bucket.list_objects_v2(Bucket="calls").get("Contents")
    put(place, str(files[0]), Reach(private_allowed=True))
    assert is_there(place, str(files[0]), Reach(private_allowed=True))
    assert not is_there(place, "elsewhere.wav", Reach(private_allowed=True))


def test_a_metadata_endpoint_is_refused(files):
    place = Bucket("calls", "us-east-1", "http://169.254.169.254", "", "AK", "SK")
    with pytest.raises(StorageError, match="leads to a link-local"):
        put(place, str(files[0]), Reach(private_allowed=True))
