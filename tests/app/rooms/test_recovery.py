import asyncio

from app.legs.requests import AnswerLeg
from app.rooms import recovery
from shm.errors import ResourceError
from shm.messages import (
    AddParticipant,
    Answer,
    CallAnswered,
    CallEnded,
    CallReceived,
    CloseLeg,
    Credentials,
    Dial,
    Dialog,
    Hangup,
    Listen,
    MediaChanged,
    MixParticipant,
    OpenLeg,
    OpenRoom,
    PlaceLeg,
    Reject,
    RemoveParticipant,
    RestoreDialog,
    RoomInventoryPart,
    RtpInventoryPart,
    RtpLeg,
    SipCall,
    SipInventoryPart,
)


def sip_inventory(stage, *extra, without=()):
    calls = [
        SipCall(
            leg_id=leg.facts.id,
            state="confirmed" if leg.facts.connected_ns else "outgoing",
            dialog=Dialog(
                leg_id=leg.facts.id,
                call_id="c",
                local_tag="a",
                remote_tag="b",
                local_uri="",
                remote_uri="",
                remote_target="",
            )
            if leg.facts.connected_ns
            else None,
        )
        for leg in stage.legs
        if leg.facts.id not in without
    ]
    return [SipInventoryPart(calls=(*calls, *extra), last=True)]


def rtp_inventory(stage, index, *extra, without=()):
    legs = [
        RtpLeg(leg_id=leg.facts.id, row=leg.facts.path.row, port=leg.facts.path.port)
        for leg in stage.legs
        if leg.facts.path is not None and leg.facts.path.rtp_index == index and leg.facts.id not in without
    ]
    return [RtpInventoryPart(legs=(*legs, *extra), last=True)]


def room_inventory(stage, room_id, *extra, without=(), phase=None):
    room = stage.rooms.find(room_id)
    participants = [
        MixParticipant(leg_id=entry.leg_id, row=entry.row, muted=entry.muted, deaf=entry.deaf)
        for entry in room.entries()
        if entry.leg_id not in without
    ]
    return [
        RoomInventoryPart(
            room_id=room_id,
            rate_hz=room.facts.rate_hz,
            phase=room.facts.phase if phase is None else phase,
            participants=(*participants, *extra),
        ),
        RoomInventoryPart(last=True),
    ]


async def everything(stage):
    """What the API shows."""
    return await stage.conference.control.list(), await stage.rooms.list()


async def restart_control(stage, rooms=("r",)):
    """A new control process that finds all workers as they were."""
    stage.restart()
    for room_id in rooms:
        await stage.supervisor.room_worker(room_id)
        stage.conference.reconcile(stage.mixer(room_id), room_inventory(stage, room_id))
    for index, rtp in enumerate(stage.supervisor.rtp):
        stage.conference.reconcile(rtp, rtp_inventory(stage, index))
    stage.conference.reconcile(stage.sip, sip_inventory(stage))
    stage.conference.recovery.resume()
    await stage.settle()


# ---------------------------------------------------------------------------------------------- a worker restarts


async def test_a_fresh_rtp_process_gets_its_own_legs(stage, make_media):
    legs = [await stage.connected_out(room_id="r") for _ in range(4)]
    alone = await stage.connected_out()
    for index, rtp in enumerate(stage.supervisor.rtp):
        commands = {command.leg_id: command for command in stage.conference.replay(rtp)}
        assert set(commands) == {
            leg_id for leg_id in [*legs, alone] if stage.legs.get(leg_id).facts.path.rtp_index == index
        }
        for leg_id, command in commands.items():
            path = stage.legs.get(leg_id).facts.path
            assert (command.row, command.port, command.resume) == (path.row, path.port, True)
            assert command.media is not None
            assert command.phase == (None if leg_id == alone else stage.rooms.find("r").facts.phase)


async def test_a_fresh_room_worker_gets_its_rooms(stage):
    legs = [await stage.connected_out(room_id="r") for _ in range(3)]
    await stage.conference.control.mute(leg_id=legs[1])
    opening, *entries = stage.conference.replay(stage.mixer("r"))
    assert isinstance(opening, OpenRoom)
    assert [(entry.leg_id, entry.muted) for entry in entries] == [
        (legs[0], False),
        (legs[1], True),
        (legs[2], False),
    ]


async def test_rooms_of_a_shared_worker_that_fell_are_adopted_by_their_new_ones(stage):
    leg_id = await stage.connected_out(room_id="r")
    stage.supervisor.mixers.pop("r")
    alone = await stage.supervisor.room_worker("r")
    assert [type(command) for command in stage.conference.replay(alone)] == [OpenRoom, AddParticipant]
    await stage.conference.control.mute(leg_id=leg_id)
    assert len(alone.sent) == 1
    assert sum(stage.rooms.mixing.loads) == 2


async def test_a_fresh_sip_process_gets_the_dialogs_and_the_ringing_end(stage):
    talking = await stage.connected_in()
    ringing_in, ringing_out = stage.ring_in(), await stage.dial()
    unacknowledged = stage.ring_in()
    await stage.conference.answering.answer(leg_id=unacknowledged, request=AnswerLeg())
    await stage.settle()
    stage.save_dialog(unacknowledged, acknowledged=False)
    stage.quiet()
    restored = list(stage.conference.replay(stage.sip))
    assert isinstance(restored.pop(), Listen)
    assert all(isinstance(command, RestoreDialog) for command in restored)
    assert [command.dialog.leg_id for command in restored] == [talking, unacknowledged]
    stage.conference.worker_restarted(stage.sip)
    assert {event["leg_id"]: event["cdr"]["reason"] for event in stage.events()} == {
        ringing_in: "server_error",
        ringing_out: "invite_failed",
    }
    assert len(stage.legs) == 2


async def test_a_hangup_under_way_is_repeated_in_the_restored_dialog(stage):
    leg_id = await stage.connected_in()
    stage.sip.gates[Hangup] = asyncio.Event()
    await stage.delete_leg(leg_id)
    await stage.settle()
    restored, _listen = stage.conference.replay(stage.sip)
    assert restored.dialog.leg_id == leg_id
    stage.sip.gates[Hangup].set()
    await stage.settle()
    assert list(stage.conference.replay(stage.sip)) == [Listen()]


# ---------------------------------------------------------------------------------------------- control restarts


async def test_the_successor_answers_exactly_the_same(stage, make_media):
    await stage.room("empty", app_id="crm", sample_rate=8000, webhook_url="http://h/")
    legs = [await stage.connected_out(room_id="r", app_id="a", webhook_url="http://l/") for _ in range(3)]
    await stage.connected_in(headers={"X-Queue": "7"})
    stage.ring_in()
    held = await stage.connected_in()
    stage.report(MediaChanged(leg_id=held, media=make_media(), held=True))
    await stage.conference.control.mute(leg_id=legs[2])
    await stage.conference.control.reject_digits(leg_id=legs[1])
    before = await everything(stage)
    await restart_control(stage)
    assert await everything(stage) == before
    assert stage.told() == []
    for worker in (stage.sip, *stage.supervisor.rtp, stage.mixer("r")):
        assert worker.of(OpenLeg, AddParticipant, RemoveParticipant, PlaceLeg, CloseLeg, Hangup, Reject) == []
    assert stage.webhooks.destination(legs[0], "").url == "http://l/"
    assert stage.webhooks.destination("", "empty").url == "http://h/"
    # and goes on working
    assert (await stage.add("empty", legs[0]))["status"] == "moved"
    assert await stage.add("r", await stage.connected_in()) == {"status": "added"}
    used = [leg.facts.path.row for leg in stage.legs if leg.facts.path]
    assert len(set(used)) == len(used)
    ports = [leg.facts.path.port for leg in stage.legs if leg.facts.path]
    assert len(set(ports)) == len(ports)


async def test_deadlines_go_on(stage):
    leg_id = await stage.connected_out(max_duration=60)
    deadlines = stage.legs.get(leg_id).facts.deadlines_ns
    await restart_control(stage, rooms=())
    leg = stage.legs.get(leg_id)
    assert leg.facts.deadlines_ns == deadlines
    assert leg.timer is not None


async def test_a_hangup_meanwhile_is_told_once(stage, monkeypatch):
    monkeypatch.setattr(recovery, "SETTLE_S", 0.0)
    leg_id = await stage.connected_out(room_id="r")
    stage.restart()
    await stage.supervisor.room_worker("r")
    stage.conference.reconcile(stage.sip, sip_inventory(stage, without=[leg_id]))
    stage.report(CallEnded(leg_id=leg_id, reason="remote_bye"))
    stage.conference.reconcile(stage.mixer("r"), room_inventory(stage, "r"))
    stage.conference.recovery.resume()
    await stage.settle()
    left, gone = stage.events()
    assert (left["type"], left["room_id"]) == ("leg.left_room", "r")
    assert gone["cdr"]["reason"] == "remote_bye"
    assert (await stage.room_view("r"))["participants"] == []


async def test_what_ended_without_anybody_telling_ends_now(stage, monkeypatch):
    monkeypatch.setattr(recovery, "SETTLE_S", 0.0)
    dialled, talking = await stage.dial(), await stage.connected_out()
    stage.restart()
    stage.conference.reconcile(stage.sip, sip_inventory(stage, without=[dialled, talking]))
    stage.conference.recovery.resume()
    await stage.settle()
    await asyncio.sleep(0.01)
    assert {event["leg_id"]: event["cdr"]["reason"] for event in stage.events()} == {
        dialled: "invite_failed",
        talking: "server_error",
    }


async def test_a_sip_whose_control_died_before_it_had_told_all_is_told(stage, monkeypatch):
    monkeypatch.setattr(recovery, "SETTLE_S", 0.0)
    dialled, talking = await stage.dial(), await stage.connected_out()
    stage.restart()
    stage.conference.reconcile(stage.sip, [SipInventoryPart(listens=False, last=True)])
    await asyncio.sleep(0.01)
    assert [event["leg_id"] for event in stage.events()] == [dialled]
    restored, listen = stage.sip.of(RestoreDialog, Listen)
    assert restored.dialog.leg_id == talking
    assert isinstance(listen, Listen)


async def test_dialogs_outlive_sip_and_control_together(stage):
    leg_id, other = await stage.connected_out(), await stage.connected_out()
    stage.save_dialog(leg_id, local_cseq=7, auth=Credentials(username="u", password="secret"))
    stage.conference.legs.hang_up(stage.legs.get(other), "api_hangup")
    stage.restart()
    command, _listen = stage.conference.replay(stage.sip)
    assert (command.dialog.leg_id, command.dialog.local_cseq, command.dialog.auth) == (leg_id, 7, None)


async def test_a_call_that_the_ledger_does_not_know(stage, monkeypatch):
    monkeypatch.setattr(recovery, "SETTLE_S", 0.0)
    calls = [SipCall(leg_id=name, state=state) for name, state in (("new", "incoming"), ("lost", "incoming"))]
    stage.conference.reconcile(stage.sip, sip_inventory(stage, *calls, SipCall(leg_id="old", state="confirmed")))
    stage.ring_in("new")  # repeated by sip's outbox
    await asyncio.sleep(0.01)
    assert [command.leg_id for command in stage.sip.of(Reject)] == ["lost"]
    assert [command.leg_id for command in stage.sip.of(Hangup)] == ["old"]
    assert stage.legs.find("new") is not None


async def test_an_arrival_that_was_told_already_is_not_told_again(stage):
    leg_id = stage.ring_in()
    stage.restart()
    stage.report(CallReceived(leg_id=leg_id, from_user="alice", to_user="200"))
    assert stage.told() == []


async def test_paths_that_differ_are_set_right(stage, monkeypatch):
    monkeypatch.setattr("app.legs.paths.FULL_BATCH", 1)  # the two legs are served by different processes
    legs = [await stage.connected_out(room_id="r") for _ in range(2)]
    elsewhere = stage.legs.paths.rows.take(16000)
    stage.restart()
    rtp = stage.rtp_of(legs[0])
    stranger = RtpLeg(leg_id="stranger", row=elsewhere, port=1)
    moved = RtpLeg(leg_id=legs[0], row=elsewhere, port=stage.legs.get(legs[0]).facts.path.port)
    index = stage.supervisor.rtp.index(rtp)
    stage.conference.reconcile(rtp, rtp_inventory(stage, index, stranger, moved, without=legs))
    (place,) = rtp.of(PlaceLeg)
    assert (place.leg_id, place.row) == (legs[0], stage.legs.get(legs[0]).facts.path.row)
    assert [command.leg_id for command in rtp.of(CloseLeg)] == ["stranger"]
    other = stage.rtp_of(legs[1])
    stage.conference.reconcile(other, rtp_inventory(stage, 1 - index, without=legs))
    assert [(command.leg_id, command.resume) for command in other.of(OpenLeg)] == [(legs[1], True)]


async def test_mixes_that_differ_are_set_right(stage):
    legs = [await stage.connected_out(room_id="r") for _ in range(3)]
    await stage.conference.control.mute(leg_id=legs[0])
    stage.restart()
    mixer = await stage.supervisor.room_worker("r")
    row = stage.legs.get(legs[0]).facts.path.row
    stale = MixParticipant(leg_id=legs[0], row=row)  # not muted
    stranger = MixParticipant(leg_id="stranger", row=row)
    inventory = room_inventory(stage, "r", stale, stranger, without=[legs[0], legs[2]], phase=3)
    stage.conference.reconcile(mixer, inventory)
    assert {command.leg_id for command in mixer.of(RemoveParticipant)} == {"stranger"}
    assert {command.leg_id: command.muted for command in mixer.of(AddParticipant)} == {legs[0]: True, legs[2]: False}
    assert stage.rooms.find("r").facts.phase == 3
    assert stage.rooms.mixing.loads == [0, 0, 0, 4]


async def test_a_worker_of_a_room_that_is_gone_or_empty_is_let_go(stage):
    await stage.room("empty")
    stage.restart()
    for room_id in ("gone", "empty"):
        mixer = await stage.supervisor.room_worker(room_id)
        stage.conference.reconcile(mixer, [RoomInventoryPart(room_id=room_id, rate_hz=16000, last=True)])
    assert stage.supervisor.released == [("gone", True), ("empty", True)]


async def test_a_room_whose_worker_died_with_control_is_opened_again_at_its_phase(stage):
    await stage.connected_out(room_id="other")
    legs = [await stage.connected_out(room_id="r") for _ in range(2)]
    phase = stage.rooms.find("r").facts.phase
    stage.restart()
    stage.conference.recovery.resume()
    await stage.settle()
    opening, *entries = stage.mixer("r").sent
    assert opening.phase == phase
    assert [entry.leg_id for entry in entries] == legs
    assert stage.told() == []


async def test_a_room_that_cannot_be_opened_again_ends(stage):
    await stage.connected_out(room_id="r")
    stage.restart()
    stage.supervisor.refusals.append(ResourceError("no process left"))
    stage.conference.recovery.resume()
    await stage.settle()
    assert stage.told() == ["room.deleted", "leg.disconnected"]


async def test_a_wish_is_fulfilled_by_the_successor(stage, make_media):
    dialled = await stage.dial(room_id="r")
    answered = stage.ring_in()
    await stage.conference.answering.answer(leg_id=answered, request=AnswerLeg())
    await stage.settle()
    stage.restart()
    unanswered = SipCall(leg_id=answered, state="incoming")
    outgoing = SipCall(leg_id=dialled, state="outgoing")
    stage.conference.reconcile(stage.sip, [SipInventoryPart(calls=(unanswered, outgoing), last=True)])
    stage.conference.recovery.resume()
    await stage.settle()
    assert len(stage.sip.of(Answer)) == 1  # it had been asked for
    assert stage.sip.of(Dial) == []
    stage.report(CallAnswered(leg_id=dialled, media=make_media()))
    await stage.settle()
    assert stage.told() == ["leg.connected", "leg.joined_room"]


async def test_connected_but_not_yet_joined(stage, make_media):
    leg_id = await stage.dial(room_id="r")
    stage.report(CallAnswered(leg_id=leg_id, media=make_media()))  # control dies before the join
    stage.restart()
    stage.conference.recovery.resume()
    await stage.settle()
    assert stage.told() == ["leg.joined_room"]
    assert (await stage.view(leg_id))["room_id"] == "r"
