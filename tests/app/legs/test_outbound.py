import asyncio

import pytest

from app.legs.requests import Auth
from shm.errors import CallerError, PeerError, ResourceError
from shm.messages import (
    AddParticipant,
    CallAnswered,
    CallEnded,
    CloseLeg,
    Dial,
    EarlyMediaReceived,
    Hangup,
    OpenLeg,
    PlaceLeg,
    SetMedia,
)


async def test_dialling(stage):
    leg_id = await stage.dial(
        from_="carol",
        headers={"X-Any": "1", "X-My-Secret": "s"},
        auth=Auth(username="u", password="p"),
        codecs=["G722", "opus", "PCMA", "G722"],
        app_id="crm",
        webhook_url="http://h/",
    )
    (command,) = stage.sip.of(Dial)
    assert (command.leg_id, command.target, command.from_uri) == (leg_id, "sip:bob@192.0.2.1", "carol")
    assert command.media.codecs == ("G722", "PCMA")
    assert command.auth.password == "p"
    assert command.media.port == stage.rtp_of(leg_id).of(OpenLeg)[0].port
    (ringing,) = stage.events()
    assert (ringing["type"], ringing["uri"], ringing["from"]) == ("leg.ringing", "sip:bob@192.0.2.1", "carol")
    assert ringing["sip_headers"] == {"X-Any": "1", "X-My-Secret": "***"}
    assert await stage.view(leg_id) == {
        "id": leg_id,
        "type": "sip_outbound",
        "state": "ringing",
        "muted": False,
        "deaf": False,
        "held": False,
        "accept_dtmf": True,
        "app_id": "crm",
    }
    assert stage.webhooks.destination(leg_id, "").url == "http://h/"


async def test_the_reply_does_not_wait_for_the_invite(stage):
    stage.sip.gates[Dial] = asyncio.Event()
    leg_id = await stage.dial()
    assert (await stage.view(leg_id))["state"] == "ringing"


async def test_a_refused_request_leaves_no_trace(stage):
    with pytest.raises(CallerError):
        await stage.dial(to="bob", room_id="r")
    with pytest.raises(CallerError):
        await stage.dial(codecs=["opus"], room_id="r")
    for rtp in stage.supervisor.rtp:
        rtp.failures[OpenLeg] = [ResourceError("address in use")] * 20
    with pytest.raises(ResourceError):
        await stage.dial(room_id="r")
    assert stage.told() == []
    assert len(stage.legs) == len(stage.rooms) == 0
    assert stage.legs.paths.load == [0, 0]


async def test_capacity(make_stage):
    stage = make_stage(max_legs=1)
    await stage.dial()
    with pytest.raises(ResourceError):
        await stage.dial()


async def test_joins_its_room_on_answer_after_connected(stage, make_media):
    leg_id = await stage.dial(room_id="r")
    (opening,) = stage.rtp_of(leg_id).of(OpenLeg)
    assert opening.row.rate_hz == 16000  # there from the start: no move at the join
    assert stage.told() == ["room.created", "leg.ringing"]
    stage.quiet()
    stage.report(CallAnswered(leg_id=leg_id, media=make_media()))
    await stage.settle()
    assert stage.told() == ["leg.connected", "leg.joined_room"]
    assert len(stage.mixer("r").of(AddParticipant)) == 1
    assert [type(command) for command in stage.rtp_of(leg_id).sent] == [SetMedia, PlaceLeg]
    assert stage.legs.get(leg_id).facts.path.row == opening.row


async def test_a_second_leg_of_a_room_needs_no_placing(stage, make_media):
    await stage.connected_out(room_id="r")
    stage.quiet()
    leg_id = await stage.connected_out(room_id="r")
    assert stage.rtp_of(leg_id).of(PlaceLeg) == []


async def test_joins_on_early_media_once(stage, make_media):
    leg_id = await stage.dial(room_id="r")
    stage.quiet()
    stage.report(EarlyMediaReceived(leg_id=leg_id, media=make_media()))
    await stage.settle()
    assert stage.told() == ["leg.early_media", "leg.joined_room"]
    stage.report(EarlyMediaReceived(leg_id=leg_id, media=make_media(remote_port=4002)))
    stage.report(CallAnswered(leg_id=leg_id, media=make_media(remote_port=4002)))
    await stage.settle()
    assert stage.told() == ["leg.connected"]
    assert (await stage.view(leg_id))["state"] == "connected"


async def test_a_room_deleted_before_the_answer_is_not_made_again(stage, make_media):
    leg_id = await stage.dial(room_id="r")
    await stage.rooms.delete(room_id="r")
    stage.quiet()
    stage.report(CallAnswered(leg_id=leg_id, media=make_media()))
    await stage.settle()
    connected, failed = stage.events()
    assert connected["type"] == "leg.connected"
    assert (failed["type"], failed["command"]) == ("leg.command_failed", "add_to_room")
    assert stage.rooms.find("r") is None


async def test_final_responses_and_failures(stage):
    leg_id = await stage.dial()
    stage.quiet()
    stage.report(CallEnded(leg_id=leg_id, reason="busy"))
    (gone,) = stage.events()
    assert gone["cdr"]["reason"] == "busy"
    assert gone["cdr"]["duration_answered"] == 0
    assert "quality" not in gone
    stage.sip.failures[Dial].append(PeerError("no route"))
    await stage.dial()
    assert stage.events()[-1]["cdr"]["reason"] == "invite_failed"
    assert stage.legs.paths.load == [0, 0]


async def test_ring_timeout(stage):
    leg_id = await stage.dial(ring_timeout=1)
    leg = stage.legs.get(leg_id)
    leg.facts.deadlines_ns = {"ring_timeout": stage.legs.clock()}
    stage.legs.arm(leg)
    stage.quiet()
    await asyncio.sleep(0.01)
    (gone,) = stage.events()
    assert gone["cdr"]["reason"] == "ring_timeout"
    assert len(stage.sip.of(Hangup)) == 1


async def test_max_duration_counts_from_connect_and_ring_timeout_ends_there(stage):
    leg_id = await stage.dial(ring_timeout=30, max_duration=60)
    assert list(stage.legs.get(leg_id).facts.deadlines_ns) == ["ring_timeout"]
    leg_id = await stage.connected_out(ring_timeout=30, max_duration=60)
    deadlines = stage.legs.get(leg_id).facts.deadlines_ns
    assert list(deadlines) == ["max_duration"]
    assert deadlines["max_duration"] - stage.legs.clock() == pytest.approx(60e9, abs=2e9)


async def test_quality_of_the_call(stage):
    leg_id = await stage.connected_out()
    row = stage.legs.get(leg_id).facts.path.row
    counters = stage.banks[row.rate_hz].leg[row.index : row.index + 1]
    counters["packets_received"], counters["packets_lost"], counters["jitter"] = 990, 10, 16.0
    stage.legs.get(leg_id).facts.connected_ns -= 3_000_000_000
    stage.legs.get(leg_id).facts.created_ns -= 5_000_000_000
    stage.quiet()
    await stage.delete_leg(leg_id)
    (gone,) = stage.events()
    assert gone["cdr"] == {
        "reason": "api_hangup",
        "duration_answered": pytest.approx(3, abs=0.5),
        "duration_total": pytest.approx(5, abs=0.5),
    }
    assert gone["quality"]["rtp_packets_received"] == 990
    assert gone["quality"]["rtp_packets_lost"] == 10
    assert gone["quality"]["rtp_jitter_ms"] == 2.0
    assert 4.2 < gone["quality"]["mos_score"] < 4.5


async def test_everything_of_an_ended_leg_is_given_back(stage):
    free = len(stage.legs.paths.ports._free)
    for _ in range(3):
        leg_id = await stage.connected_out(room_id="r")
        rtp = stage.rtp_of(leg_id)
        await stage.delete_leg(leg_id)
        assert len(rtp.of(CloseLeg)) == 1
        rtp.sent.clear()
    await stage.settle()
    assert len(stage.legs.paths.ports._free) == free
    assert stage.legs.paths.load == [0, 0]
    assert stage.legs.leaving == {}


async def test_legs_are_spread_over_the_rtp_processes(stage):
    for _ in range(6):
        await stage.dial()
    assert stage.legs.paths.load == [3, 3]


async def test_everybody_is_hung_up_at_the_end(stage):
    legs = [await stage.connected_out(room_id=f"r{index % 3}") for index in range(20)] + [stage.ring_in()]
    stage.quiet()
    await stage.conference.end_all()
    gone = [event for event in stage.events() if event["type"] == "leg.disconnected"]
    assert {event["leg_id"] for event in gone} == set(legs)
    assert {event["cdr"]["reason"] for event in gone} == {"shutdown"}
    assert len(stage.sip.of(Hangup)) == 20
    await stage.conference.end_all()
