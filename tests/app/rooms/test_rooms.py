import asyncio

import pytest

from app.legs import legs
from app.legs.requests import EarlyMedia
from app.rooms import rooms
from app.rooms.requests import CreateRoom
from app.services.requests import Record
from shm.errors import CallerError
from shm.messages import CallEnded, Hangup, RecordingFinished, Reject, StartRecording


async def status_of(awaitable):
    with pytest.raises(CallerError) as caught:
        await awaitable
    return caught.value.status


async def test_create_list_get(stage):
    room = await stage.rooms.create(request=CreateRoom(app_id="crm"))
    assert room == {"id": room["id"], "participants": [], "sample_rate": 16000, "app_id": "crm"}
    await stage.room("second", sample_rate=8000)
    assert [one["id"] for one in await stage.rooms.list()] == [room["id"], "second"]
    assert (await stage.room_view("second"))["sample_rate"] == 8000
    assert [(e["type"], e["room_id"], e.get("app_id")) for e in stage.events()] == [
        ("room.created", room["id"], "crm"),
        ("room.created", "second", None),
    ]


async def test_refused_creations_leave_nothing(stage):
    await stage.room("taken")
    stage.quiet()
    assert await status_of(stage.room("taken")) == 409
    assert await status_of(stage.room("taken", sample_rate=44100)) == 400
    assert await status_of(stage.room("x" * 1025)) == 400
    assert await status_of(stage.room("u", webhook_url="ftp://example.org/")) == 400
    assert await status_of(stage.room_view("u")) == 404
    assert await status_of(stage.rooms.delete(room_id="u")) == 404
    assert stage.told() == []
    assert len(stage.rooms) == 1


async def test_one_of_many_concurrent_creations_succeeds(stage):
    outcomes = await asyncio.gather(*(stage.room("one") for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(outcome, dict) for outcome in outcomes) == 1


async def test_a_rooms_webhook_is_there_from_its_first_event_to_its_last(stage):
    seen = []
    destination = stage.webhooks.destination
    stage.webhooks.destination = lambda leg_id, room_id: seen.append(destination("", room_id)) and None
    await stage.room("r", webhook_url="http://192.0.2.9/hook", webhook_secret="s")
    await stage.rooms.delete(room_id="r")
    assert [one.url for one in seen] == ["http://192.0.2.9/hook"] * 2
    assert destination("", "r") is None


async def test_deleting_hangs_everybody_up_and_tells_it_in_order(stage):
    talking, early, apart = await stage.connected_in(), stage.ring_in(), await stage.connected_in()
    await stage.add("r", talking)
    await stage.conference.answering.early_media(leg_id=early, request=EarlyMedia())
    await stage.settle()
    await stage.add("r", early)
    stage.quiet()
    assert await stage.rooms.delete(room_id="r") == {"status": "deleted"}
    events = stage.events()
    assert [event["type"] for event in events] == ["room.deleted", "leg.disconnected", "leg.disconnected"]
    assert [event["cdr"]["reason"] for event in events[1:]] == ["room_deleted"] * 2
    await stage.settle()
    assert [command.leg_id for command in stage.sip.of(Hangup)] == [talking]
    assert [command.leg_id for command in stage.sip.of(Reject)] == [early]
    assert [leg["id"] for leg in await stage.conference.control.list()] == [apart]
    assert stage.supervisor.released[-1] == ("r", True)
    assert stage.rooms.mixing.loads == [0, 0, 0, 0]
    stage.report(CallEnded(leg_id=talking, reason="remote_bye"))
    assert stage.told() == []
    await stage.room("r")  # at once


async def test_a_hopeless_room_ends_with_its_legs(stage):
    leg_id = await stage.connected_in()
    await stage.add("r", leg_id)
    stage.quiet()
    stage.conference.room_is_hopeless("r")
    deleted, gone = stage.events()
    assert deleted["type"] == "room.deleted"
    assert gone["cdr"]["reason"] == "mixer_panic"


async def test_a_room_outlives_its_last_leg(stage):
    leg_id = await stage.connected_in()
    await stage.add("r", leg_id)
    await stage.delete_leg(leg_id)
    assert (await stage.room_view("r"))["participants"] == []
    assert stage.supervisor.released == [("r", False)]
    assert await stage.add("r", await stage.connected_in()) == {"status": "added"}


async def recorded(stage, **fields):
    """A room that is recorded, with one leg in it; gives what its worker will report at the end."""
    await stage.room("r", **fields)
    await stage.add("r", await stage.connected_in())
    await stage.services.recordings.start(request=Record(), room_id="r")
    (started,) = stage.mixer("r").of(StartRecording)
    stage.quiet()
    return RecordingFinished(room_id="r", recording_id=started.recording_id, path=started.path)


LAST_EVENTS = ["recording.finished", "room.deleted", "leg.disconnected"]


async def test_the_last_events_wait_for_the_recording(stage):
    finished = await recorded(stage)
    mixer = stage.mixer("r")
    deleting = asyncio.ensure_future(stage.rooms.delete(room_id="r"))
    await stage.settle()
    assert await stage.rooms.list() == []
    assert await stage.conference.control.list() == []
    assert stage.told() == []
    stage.conference.on_event(mixer, finished)
    assert await deleting == {"status": "deleted"}
    await stage.settle()
    assert stage.told() == LAST_EVENTS


async def test_a_new_room_of_the_same_id_does_not_wait_for_the_old_one(stage):
    finished = await recorded(stage, webhook_url="http://192.0.2.9/hook")
    mixer = stage.mixer("r")
    deleting = asyncio.ensure_future(stage.rooms.delete(room_id="r"))
    await stage.settle()
    await stage.room("r")
    await deleting
    await stage.settle()
    assert stage.told() == ["room.deleted", "room.created", "leg.disconnected"]
    assert stage.webhooks.destination("", "r") is None
    stage.conference.on_event(mixer, finished)
    await stage.settle()
    stage.restart()
    assert [room["id"] for room in await stage.rooms.list()] == ["r"]


async def test_a_new_control_tells_what_the_old_one_waited_with(stage, monkeypatch):
    monkeypatch.setattr(rooms, "FAREWELL_SETTLE_S", 0)
    monkeypatch.setattr(legs, "FAREWELL_SETTLE_S", 0.01)
    await recorded(stage)
    deleting = asyncio.ensure_future(stage.rooms.delete(room_id="r"))
    await stage.settle()
    deleting.cancel()
    stage.restart()
    assert await stage.rooms.list() == []
    await asyncio.wait(stage.legs._tasks)
    assert stage.told() == LAST_EVENTS[1:]
    stage.restart()
    assert len(stage.legs._tasks) == 0
