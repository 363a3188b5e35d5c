import asyncio

import pytest

from app.legs.requests import EarlyMedia
from app.rooms import membership
from app.rooms.room import Guest
from shm.clock import tick_now
from shm.errors import CallerError, ResourceError
from shm.messages import (
    AddParticipant,
    Answer,
    CallConfirmed,
    CallEnded,
    CloseLeg,
    Hold,
    MediaChanged,
    OpenRoom,
    PlaceLeg,
    RemoveParticipant,
    SetParticipant,
)


async def refused(awaitable, status=400):
    with pytest.raises(CallerError) as caught:
        await awaitable
    assert caught.value.status == status


async def test_a_connected_leg_is_added_on_a_row_of_the_rooms_rate(stage):
    await stage.room("r")
    leg_id = await stage.connected_in()
    stage.quiet()
    assert await stage.add("r", leg_id) == {"status": "added"}
    opening, entry = stage.mixer("r").sent
    assert isinstance(opening, OpenRoom)
    assert opening.rate_hz == 16000
    assert isinstance(entry, AddParticipant)
    assert entry.row.rate_hz == 16000
    assert entry.at_tick == 0
    (place,) = stage.rtp_of(leg_id).of(PlaceLeg)
    assert (place.row, place.phase) == (entry.row, opening.phase)
    (joined,) = stage.events()
    assert (joined["type"], joined["leg_id"], joined["room_id"]) == ("leg.joined_room", leg_id, "r")
    assert (await stage.view(leg_id))["room_id"] == "r"
    assert [one["id"] for one in (await stage.room_view("r"))["participants"]] == [leg_id]


async def test_refusals_come_in_order_and_leave_no_trace(stage):
    leg_id = await stage.connected_in()
    ringing_out = await stage.dial()
    await stage.add("r", leg_id)
    stage.quiet()
    await refused(stage.add("new", ""))
    await refused(stage.add("new", "nobody"))
    await refused(stage.add("r", leg_id, mute=True))
    await refused(stage.add("new", ringing_out))
    other = await stage.connected_in()
    stage.quiet()
    await refused(stage.add("new", other, streams=[{"stream_id": "0"}], mute=True))
    await refused(stage.add("new", other, streams=[{"stream_id": "7"}]), 404)
    await refused(stage.add("x" * 1025, other))
    await refused(stage.take_out("new", leg_id))
    await refused(stage.take_out("r", "nobody"))
    await refused(stage.take_out("r", other))
    assert stage.told() == []
    assert stage.rooms.find("new") is None
    assert not (await stage.view(leg_id))["muted"]
    assert not (await stage.view(other))["muted"]


async def test_a_room_is_made_for_the_leg_with_its_app_id(stage):
    leg_id = await stage.connected_in(headers={"X-App-ID": "crm"}, trusted=True)
    stage.quiet()
    await stage.add("made", leg_id)
    created, joined = stage.events()
    assert (created["type"], created["app_id"]) == ("room.created", "crm")
    assert (joined["type"], joined["app_id"]) == ("leg.joined_room", "crm")


async def test_flags_are_in_force_before_the_first_frame_and_make_no_events(stage):
    leg_id = await stage.connected_in()
    stage.quiet()
    await stage.add("r", leg_id, mute=True, deaf=True, accept_dtmf=False, role="agent")
    (entry,) = stage.mixer("r").of(AddParticipant)
    assert (entry.muted, entry.deaf) == (True, True)
    assert stage.told() == ["room.created", "leg.joined_room"]
    view = await stage.view(leg_id)
    assert (view["muted"], view["deaf"], view["accept_dtmf"], view["role"]) == (True, True, False, "agent")
    await stage.take_out("r", leg_id)
    await stage.add("r", leg_id, mute=False, role="")
    view = await stage.view(leg_id)
    assert (view["muted"], view["deaf"]) == (False, True)
    assert "role" not in view


async def test_a_move_holds_from_one_tick_everywhere_and_keeps_the_row(stage):
    leg_id = await stage.connected_in()
    await stage.add("a", leg_id)
    row = stage.legs.get(leg_id).facts.path.row
    await stage.room("b")
    stage.quiet()
    before = tick_now()
    assert await stage.add("b", leg_id) == {"status": "moved", "from": "a", "to": "b"}
    (out,) = stage.mixer("a").of(RemoveParticipant)
    (entry,) = stage.mixer("b").of(AddParticipant)
    (place,) = stage.rtp_of(leg_id).of(PlaceLeg)
    assert entry.row == row
    assert out.at_tick == entry.at_tick == place.at_tick >= before + membership.MOVE_TICKS
    events = stage.events()
    assert [(event["type"], event["room_id"]) for event in events] == [
        ("leg.left_room", "a"),
        ("leg.joined_room", "b"),
    ]
    assert stage.supervisor.released == [("a", False)]


async def test_a_move_between_rates_takes_a_new_row_and_rests_the_old(stage):
    leg_id = await stage.connected_in()
    await stage.add("a", leg_id)
    old = stage.legs.get(leg_id).facts.path.row
    await stage.room("b", sample_rate=48000)
    await stage.add("b", leg_id)
    assert stage.legs.get(leg_id).facts.path.row.rate_hz == 48000
    again = await stage.connected_in()
    await stage.add("c", again)
    assert stage.legs.get(again).facts.path.row != old  # it rests for 64 ticks


async def test_a_held_leg_is_not_added_but_moved(stage, make_media):
    leg_id, other = await stage.connected_in(), await stage.connected_in()
    await stage.add("a", leg_id)
    for one in (leg_id, other):
        stage.report(MediaChanged(leg_id=one, media=make_media(direction="recvonly"), held=True))
    await refused(stage.add("b", other))
    assert (await stage.add("b", leg_id))["status"] == "moved"
    assert (await stage.view(leg_id))["state"] == "held"


async def test_removing_leaves_the_leg_connected_on_its_codecs_row(stage):
    leg_id = await stage.connected_in()
    await stage.add("r", leg_id, mute=True)
    stage.quiet()
    assert await stage.take_out("r", leg_id) == {"status": "removed"}
    (place,) = stage.rtp_of(leg_id).of(PlaceLeg)
    assert (place.row.rate_hz, place.phase) == (8000, None)
    assert stage.told() == ["leg.left_room"]
    view = await stage.view(leg_id)
    assert (view["state"], view["muted"]) == ("connected", True)
    assert "room_id" not in view
    assert stage.supervisor.released == [("r", False)]


async def test_participants_are_in_join_order(stage):
    first, second, third = [await stage.connected_in() for _ in range(3)]
    for leg_id in (third, first, second):
        await stage.add("r", leg_id)
    assert [one["id"] for one in (await stage.room_view("r"))["participants"]] == [third, first, second]
    stage.restart()
    assert [one["id"] for one in (await stage.room_view("r"))["participants"]] == [third, first, second]


# ---------------------------------------------------------------------------------------------- races


async def test_a_leg_that_ends_while_it_joins_leaves_nothing_behind(stage):
    leg_id = await stage.connected_in()
    await stage.room("r")
    mixer = await stage.supervisor.room_worker("r")
    mixer.gates[AddParticipant] = asyncio.Event()
    rtp = stage.rtp_of(leg_id)
    stage.quiet()
    adding = asyncio.ensure_future(stage.add("r", leg_id))
    await stage.settle()
    stage.report(CallEnded(leg_id=leg_id, reason="remote_bye"))
    mixer.gates[AddParticipant].set()
    await refused(adding)
    assert stage.told() == ["leg.disconnected"]
    assert [type(command) for command in mixer.sent] == [OpenRoom, AddParticipant, RemoveParticipant]
    assert [type(command) for command in rtp.sent] == [PlaceLeg, CloseLeg]
    assert stage.legs.paths._unsettled == set()
    assert stage.rooms.mixing.loads == [0, 0, 0, 0]
    assert (await stage.room_view("r"))["participants"] == []


async def test_a_target_that_is_deleted_while_a_leg_moves_leaves_it_where_it_was(stage):
    leg_id = await stage.connected_in()
    await stage.add("a", leg_id)
    await stage.room("b", sample_rate=8000)
    mixer = await stage.supervisor.room_worker("b")
    mixer.gates[AddParticipant] = asyncio.Event()
    row = stage.legs.get(leg_id).facts.path.row
    stage.quiet()
    moving = asyncio.ensure_future(stage.add("b", leg_id))
    await stage.settle()
    await stage.rooms.delete(room_id="b")
    mixer.gates[AddParticipant].set()
    await refused(moving)
    assert stage.told() == ["room.deleted"]
    assert (await stage.view(leg_id))["room_id"] == "a"
    assert stage.legs.get(leg_id).facts.path.row == row
    out, back = stage.mixer("a").sent
    assert isinstance(out, RemoveParticipant)
    assert isinstance(back, AddParticipant)
    assert (back.row, back.at_tick) == (row, out.at_tick)
    assert stage.rtp_of(leg_id).of(PlaceLeg)[-1].row == row


async def test_a_room_that_is_deleted_while_its_worker_starts_takes_nobody_in(stage):
    leg_id = await stage.connected_in()
    await stage.room("r")
    stage.supervisor.placing = asyncio.Event()
    adding = asyncio.ensure_future(stage.add("r", leg_id))
    await stage.settle()
    await stage.rooms.delete(room_id="r")
    stage.supervisor.placing.set()
    await refused(adding)
    assert stage.supervisor.released[-1] == ("r", True)
    assert (await stage.view(leg_id))["state"] == "connected"


async def test_without_a_worker_the_leg_stays_in_no_room(stage):
    leg_id = await stage.connected_in()
    await stage.room("r")
    stage.supervisor.refusals.append(ResourceError("no process left"))
    stage.quiet()
    with pytest.raises(ResourceError):
        await stage.add("r", leg_id, mute=True)
    assert stage.told() == []
    assert not (await stage.view(leg_id))["muted"]
    assert await stage.add("r", leg_id) == {"status": "added"}


async def test_concurrent_adds_of_one_leg_act_one_after_the_other(stage):
    leg_id = await stage.connected_in()
    first, second = await asyncio.gather(stage.add("a", leg_id), stage.add("b", leg_id))
    assert (first["status"], second["status"]) == ("added", "moved")


async def test_many_legs_at_once_open_the_room_once(stage):
    legs = [await stage.connected_in() for _ in range(20)]
    await asyncio.gather(*(stage.add("r", leg_id) for leg_id in legs))
    assert len(stage.mixer("r").of(OpenRoom)) == 1
    assert len((await stage.room_view("r"))["participants"]) == 20
    assert sum(stage.rooms.mixing.loads) == 21


async def test_rooms_share_the_phases(stage):
    for index in range(8):
        await stage.add(f"r{index}", await stage.connected_in())
    assert stage.rooms.mixing.loads == [4, 4, 4, 4]


# ---------------------------------------------------------------------------------------------- auto-answer


async def test_a_ringing_leg_is_answered_and_joined(stage):
    leg_id = stage.ring_in()
    adding = asyncio.ensure_future(stage.add("r", leg_id, mute=True))
    await stage.settle()
    assert len(stage.sip.of(Answer)) == 1
    assert not adding.done()
    stage.report(CallConfirmed(leg_id=leg_id))
    assert await adding == {"status": "added"}
    assert stage.told() == ["leg.ringing", "room.created", "leg.connected", "leg.joined_room"]
    assert stage.mixer("r").of(AddParticipant)[0].muted
    assert stage.legs.get(leg_id).facts.path.row.rate_hz == 16000
    assert stage.rtp_of(leg_id).sent[0].row.rate_hz == 16000  # there from the start


async def test_a_slow_answer_is_reported_as_adding_and_goes_on(stage, monkeypatch):
    monkeypatch.setattr(membership, "ANSWER_WAIT_S", 0.01)
    leg_id = stage.ring_in()
    assert await stage.add("r", leg_id) == {"status": "adding"}
    stage.report(CallConfirmed(leg_id=leg_id))
    await stage.settle()
    assert stage.told()[-2:] == ["leg.connected", "leg.joined_room"]


async def test_an_answer_that_never_comes_is_given_up(stage, monkeypatch):
    monkeypatch.setattr(membership, "ANSWER_WAIT_S", 0.01)
    monkeypatch.setattr(membership, "ANSWER_LIMIT_S", 0.02)
    leg_id = stage.ring_in()
    assert await stage.add("r", leg_id) == {"status": "adding"}
    stage.quiet()
    await asyncio.sleep(0.02)
    (failed,) = stage.events()
    assert (failed["type"], failed["command"]) == ("leg.command_failed", "add_to_room")
    stage.report(CallConfirmed(leg_id=leg_id))
    await stage.settle()
    assert stage.told() == ["leg.connected"]


async def test_a_call_that_ends_while_it_is_answered_for_a_room(stage, monkeypatch):
    leg_id = stage.ring_in()
    adding = asyncio.ensure_future(stage.add("r", leg_id))
    await stage.settle()
    stage.report(CallEnded(leg_id=leg_id, reason="caller_cancel"))
    await refused(adding, 500)
    assert stage.told()[-1] == "leg.disconnected"
    monkeypatch.setattr(membership, "ANSWER_WAIT_S", 0.01)
    leg_id = stage.ring_in()
    assert await stage.add("r", leg_id) == {"status": "adding"}
    stage.quiet()
    stage.report(CallEnded(leg_id=leg_id, reason="caller_cancel"))
    assert stage.told() == ["leg.command_failed", "leg.disconnected"]


async def test_early_media_is_enough_to_be_added(stage, make_media):
    leg_id = stage.ring_in()
    await stage.conference.answering.early_media(leg_id=leg_id, request=EarlyMedia())
    await stage.settle()
    assert await stage.add("r", leg_id) == {"status": "added"}
    assert stage.sip.of(Answer) == []
    assert (await stage.view(leg_id))["state"] == "early_media"


async def test_mute_and_deaf_reach_the_mix(stage):
    leg_id = await stage.connected_in()
    await stage.add("r", leg_id)
    stage.quiet()
    await stage.conference.control.mute(leg_id=leg_id)
    await stage.conference.control.deafen(leg_id=leg_id)
    await stage.conference.control.unmute(leg_id=leg_id)
    assert [(c.muted, c.deaf) for c in stage.mixer("r").of(SetParticipant)] == [
        (True, False),
        (True, True),
        (False, True),
    ]
    assert stage.told() == ["leg.muted", "leg.deaf", "leg.unmuted"]
    assert stage.sip.of(Hold) == []


async def test_nobodys_entry_overtakes_the_opening_of_the_room(stage):
    """A request that comes in just as the worker is found must not be quicker than OpenRoom."""
    leg_id = await stage.connected_in()
    await stage.room("r")
    guest = Guest("ws-1", stage.legs.paths.rows.take(16000))
    place = stage.supervisor.room_worker
    late = []

    async def placed(room_id, *, shared=False):
        worker = await place(room_id, shared=shared)
        late.append(asyncio.ensure_future(stage.conference.membership.admit(stage.rooms.find("r"), guest)))
        return worker

    stage.supervisor.room_worker = placed
    await stage.add("r", leg_id)
    await late[0]
    assert [type(command) for command in stage.mixer("r").sent] == [OpenRoom, AddParticipant, AddParticipant]
