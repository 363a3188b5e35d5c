"""The steps of a recording, as control takes them: what is replied and told, and when."""

import asyncio

import pytest

from app.services.requests import Record
from shm.errors import ResourceError
from shm.messages import (
    FinishRecording,
    RecordedChannel,
    RecordingFinished,
    StartRecording,
    StopRecording,
    Uploaded,
    UploadRecording,
)

S3 = Record(storage="s3", s3_bucket="b", s3_access_key="AK", s3_secret_key="SK", multi_channel=True)


@pytest.fixture
async def recorded(stage, tmp_path):
    """(stage, leg id) of a room "r" that is recorded into S3."""
    leg_id = await stage.connected_out()
    await stage.room("r")
    await stage.add("r", leg_id)
    await stage.services.recordings.start(request=S3, room_id="r")
    return stage, leg_id


def command(stage):
    """Of the first recording."""
    return stage.mixer("r").of(StartRecording)[0]


def report(stage, leg_id):
    """The room worker's word of the end."""
    started = command(stage)
    channel = RecordedChannel(participant_id=leg_id, channel=0, start_ms=0, end_ms=1000, path="/t.wav")
    stage.conference.on_event(
        stage.mixer("r"),
        RecordingFinished(
            room_id="r",
            recording_id=started.recording_id,
            path=started.path,
            multi_channel_path="/m.wav",
            channels=(channel,),
        ),
    )


def uploaded(stage, *locations, **more):
    stage.conference.on_event(
        stage.supervisor.stream[0],
        Uploaded(upload_id=command(stage).recording_id, locations=locations, **more),
    )


async def stopping(stage):
    stop = asyncio.ensure_future(stage.services.recordings.stop(room_id="r"))
    await stage.settle()
    assert len(stage.mixer("r").of(StopRecording)) == 1
    assert not stop.done()
    return stop


async def test_the_reply_waits_for_the_first_attempt_and_names_the_final_places(recorded):
    stage, leg_id = recorded
    stop = await stopping(stage)
    report(stage, leg_id)
    await stage.settle()
    (order,) = stage.supervisor.stream[0].of(UploadRecording)
    assert order.paths == (command(stage).path, "/m.wav", "/t.wav")
    assert not stop.done()
    uploaded(stage, "s3://b/mix", "s3://b/m", "s3://b/t")
    reply = await stop
    assert (reply["file"], reply["multi_channel_file"]) == ("s3://b/mix", "s3://b/m")
    assert reply["channels"][leg_id] == {"channel": 0, "start_ms": 0, "end_ms": 1000, "file": "s3://b/t"}
    (told,) = [event for event in stage.events() if event["type"] == "recording.finished"]
    assert {key: told[key] for key in reply if key != "status"} == {k: v for k, v in reply.items() if k != "status"}


@pytest.mark.parametrize("is_stored_at_last", [True, False])
async def test_a_failed_attempt_is_replied_by_the_local_path_and_the_event_tells_how_it_ended(
    recorded, is_stored_at_last
):
    stage, leg_id = recorded
    stop = await stopping(stage)
    report(stage, leg_id)
    await stage.settle()
    path = command(stage).path
    uploaded(stage, path, "/m.wav", "/t.wav", error="s3: 503", is_final=False)
    assert (await stop)["file"] == path
    assert "recording.finished" not in stage.told()
    await stage.services.recordings.start(request=Record(), room_id="r")  # meanwhile another one
    if is_stored_at_last:
        uploaded(stage, "s3://b/x", "/m.wav", "/t.wav")
    else:
        uploaded(stage, path, "/m.wav", "/t.wav", error="s3: 503")
    (told,) = [event for event in stage.events() if event["type"] == "recording.finished"]
    assert told["file"] == ("s3://b/x" if is_stored_at_last else path)


async def test_the_servers_end_tells_of_what_it_does_not_wait_for(recorded):
    stage, leg_id = recorded
    ending = asyncio.ensure_future(stage.services.recordings.end_all(0.05))
    await stage.settle()
    report(stage, leg_id)
    await ending
    assert len(stage.supervisor.stream[0].of(UploadRecording)) == 1
    (told,) = [event for event in stage.events() if event["type"] == "recording.finished"]
    assert told["file"] == command(stage).path
    uploaded(stage, "s3://b/mix", "s3://b/m", "s3://b/t")
    assert "recording.finished" not in stage.told()


@pytest.mark.parametrize("stream_can", [True, False])
async def test_without_a_worker_stream_finishes_it(recorded, stream_can):
    stage, leg_id = recorded
    mixer = stage.mixer("r")
    mixer.wanted = False
    if not stream_can:
        stage.supervisor.stream[0].failures[FinishRecording].append(ResourceError("held"))
    stop = asyncio.ensure_future(stage.services.recordings.stop(room_id="r"))
    await stage.settle()
    assert not stage.supervisor.stream[0].of(FinishRecording)  # the worker leaves, and may have the files until then
    mixer.gone.set()
    await stage.settle()
    (order,) = stage.supervisor.stream[0].of(FinishRecording)
    assert order.path == command(stage).path
    if stream_can:
        report(stage, leg_id)
        await stage.settle()
    (upload,) = stage.supervisor.stream[0].of(UploadRecording)
    assert len(upload.paths) == (3 if stream_can else 1)
    uploaded(stage, *(f"s3://b/{number}" for number in range(len(upload.paths))))
    assert (await stop)["file"] == "s3://b/0"


async def test_the_late_end_of_one_recording_is_not_the_end_of_the_next(recorded):
    stage, leg_id = recorded
    recordings = stage.services.recordings
    stop = asyncio.ensure_future(recordings.stop(room_id="r"))
    await stage.settle()
    await recordings.start(request=Record(), room_id="r")
    report(stage, leg_id)
    await stage.settle()
    assert (await recordings.pause(room_id="r"))["status"] == "paused"
    stop.cancel()


async def test_a_recording_that_is_stopped_between_two_workers_is_finished_by_stream(stage):
    leg_id = await stage.connected_out()
    await stage.add("old", leg_id)
    recordings = stage.services.recordings
    await recordings.start(request=Record(), leg_id=leg_id)
    old, gate = stage.mixer("old"), asyncio.Event()
    old.gates[StopRecording] = gate
    await stage.add("new", leg_id)
    await stage.settle()
    (handing_over,) = old.of(StopRecording)
    assert handing_over.hand_over
    stop = asyncio.ensure_future(recordings.stop(leg_id=leg_id))
    await stage.settle()
    assert not stage.supervisor.stream[0].of(FinishRecording)  # the old worker has the files yet
    await stage.rooms.delete(room_id="old")
    assert ("old", True) not in stage.supervisor.released
    gate.set()
    await stage.settle()
    assert not stage.mixer("new").of(StartRecording, StopRecording)
    (order,) = stage.supervisor.stream[0].of(FinishRecording)
    finished = RecordingFinished(room_id="old", recording_id=order.recording_id, path=order.path)
    stage.conference.on_event(stage.supervisor.stream[0], finished)
    assert (await stop)["file"] == order.path
    assert ("old", True) in stage.supervisor.released
