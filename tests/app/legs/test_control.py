import asyncio

import pytest

from app.legs.requests import Digits
from shm.errors import CallerError, PeerError
from shm.messages import (
    CallEnded,
    DigitReceived,
    Hangup,
    Hold,
    MediaChanged,
    MediaTimedOut,
    SendDigits,
    SetMedia,
    SpeechChanged,
)


async def status_of(awaitable):
    with pytest.raises(CallerError) as caught:
        await awaitable
    return caught.value.status


def send(stage, leg_id, digits):
    return stage.conference.control.send_digits(leg_id=leg_id, request=Digits(digits=digits))


async def test_legs_are_listed_in_creation_order(stage):
    legs = [await stage.dial(), stage.ring_in(), await stage.connected_out()]
    assert [leg["id"] for leg in await stage.conference.control.list()] == legs
    assert await status_of(stage.view("nobody")) == 404


async def test_mute_and_deaf_work_in_any_state_and_are_told_each_time(stage):
    leg_id = await stage.dial()
    control = stage.conference.control
    stage.quiet()
    for _ in range(2):
        assert await control.mute(leg_id=leg_id) == {"status": "muted"}
    assert await control.deafen(leg_id=leg_id) == {"status": "deaf"}
    assert await control.undeafen(leg_id=leg_id) == {"status": "undeaf"}
    assert await control.unmute(leg_id=leg_id) == {"status": "unmuted"}
    assert stage.told() == ["leg.muted", "leg.muted", "leg.deaf", "leg.undeaf", "leg.unmuted"]
    assert await status_of(control.mute(leg_id="nobody")) == 404


async def test_hold_and_unhold(stage, make_media):
    leg_id = await stage.connected_out()
    control = stage.conference.control
    stage.quiet()
    assert await control.hold(leg_id=leg_id) == {"status": "holding"}
    stage.report(MediaChanged(leg_id=leg_id, media=make_media(direction="sendonly"), held=True, by_peer=False))
    await stage.settle()
    view = await stage.view(leg_id)
    assert (view["state"], view["held"]) == ("held", True)
    (held,) = stage.events()
    assert (held["type"], held["leg_type"]) == ("leg.hold", "sip_outbound")
    assert stage.rtp_of(leg_id).of(SetMedia)[0].media.direction == "inactive"  # no RTP while held
    assert list(stage.legs.get(leg_id).facts.deadlines_ns) == ["rtp_timeout"]
    await control.hold(leg_id=leg_id)  # already so
    await stage.settle()
    assert [command.held for command in stage.sip.of(Hold)] == []
    assert await control.unhold(leg_id=leg_id) == {"status": "unholding"}
    await stage.settle()
    stage.report(MediaChanged(leg_id=leg_id, media=make_media(), held=False, by_peer=False))
    assert stage.told() == ["leg.unhold"]
    assert (await stage.view(leg_id))["state"] == "connected"
    assert stage.legs.get(leg_id).facts.deadlines_ns == {}


async def test_a_refused_hold_changes_nothing(stage):
    leg_id = await stage.connected_out()
    stage.sip.failures[Hold].append(PeerError("488"))
    stage.quiet()
    await stage.conference.control.hold(leg_id=leg_id)
    await stage.settle()
    (failed,) = stage.events()
    assert (failed["type"], failed["command"]) == ("leg.command_failed", "hold")
    assert (await stage.view(leg_id))["state"] == "connected"


async def test_hold_needs_a_connected_leg(stage):
    control = stage.conference.control
    assert await status_of(control.hold(leg_id="nobody")) == 404
    assert await status_of(control.hold(leg_id=await stage.dial())) == 409


async def test_a_refresh_that_changes_no_hold_tells_nothing(stage, make_media):
    leg_id = await stage.connected_in()
    stage.quiet()
    stage.report(MediaChanged(leg_id=leg_id, media=make_media(remote_port=4004)))
    assert stage.told() == []
    assert stage.rtp_of(leg_id).of(SetMedia)[0].media.remote_port == 4004


async def test_digits(stage, make_media):
    leg_id = await stage.connected_out()
    assert await send(stage, leg_id, "12a#") == {"status": "sent"}
    assert stage.rtp_of(leg_id).of(SendDigits)[0].digits == "12A#"
    assert await status_of(send(stage, "nobody", "")) == 404
    assert await status_of(send(stage, leg_id, "")) == 400
    assert await status_of(send(stage, leg_id, "1x")) == 400
    assert await status_of(send(stage, await stage.dial(), "1")) == 409
    stage.rtp_of(leg_id).failures[SendDigits].append(CallerError("no telephone-event"))
    assert await status_of(send(stage, leg_id, "1")) == 409


async def test_digits_are_told_and_relayed(stage, make_media):
    sender, listener, unwilling, unable = [await stage.connected_out(room_id="r") for _ in range(4)]
    outside = await stage.connected_out()
    stage.legs.get(unable).facts.media = make_media(event_send_type=None)
    assert await stage.conference.control.reject_digits(leg_id=unwilling) == {"status": "dtmf_rejecting"}
    assert await stage.conference.control.reject_digits(leg_id=sender) == {"status": "dtmf_rejecting"}
    stage.quiet()
    for digit in "5#":
        stage.conference.on_event(stage.supervisor.rtp[0], DigitReceived(leg_id=sender, digit=digit))
    assert [(e["type"], e["digit"], e["seq"], "room_id" in e) for e in stage.events()] == [
        ("dtmf.received", "5", 1, False),
        ("dtmf.received", "#", 2, False),
    ]
    relayed = [(c.leg_id, c.digits) for rtp in stage.supervisor.rtp for c in rtp.of(SendDigits)]
    assert relayed == [(listener, "5"), (listener, "#")]
    assert outside not in relayed
    await stage.conference.control.accept_digits(leg_id=unwilling)
    assert (await stage.view(unwilling))["accept_dtmf"]


async def test_speech_is_told_unless_muted(stage):
    leg_id = await stage.connected_out(speech_detection=True)
    await stage.add("r", leg_id)
    control = stage.conference.control

    def speak(speaking):
        stage.report(SpeechChanged(leg_id=leg_id, speaking=speaking))

    stage.quiet()
    speak(True)
    (started,) = stage.events()
    assert (started["type"], started["room_id"]) == ("speaking.started", "r")
    await control.mute(leg_id=leg_id)
    assert stage.told() == ["leg.muted", "speaking.stopped"]
    speak(False)
    speak(True)
    assert stage.told() == []
    await control.unmute(leg_id=leg_id)
    assert stage.told() == ["leg.unmuted", "speaking.started"]
    stage.report(CallEnded(leg_id=leg_id, reason="remote_bye"))
    assert stage.told() == ["speaking.stopped", "leg.left_room", "leg.disconnected"]


async def test_silence_of_the_network_ends_the_call(stage, make_media):
    leg_id, held = await stage.connected_in(), await stage.connected_in()
    stage.report(MediaChanged(leg_id=held, media=make_media(direction="inactive"), held=True))
    stage.quiet()
    for one in (leg_id, held):
        stage.report(MediaTimedOut(leg_id=one))
    await stage.settle()
    (gone,) = stage.events()
    assert (gone["leg_id"], gone["cdr"]["reason"]) == (leg_id, "rtp_timeout")
    assert [command.leg_id for command in stage.sip.of(Hangup)] == [leg_id]


async def test_whatever_races_a_leg_ends_once(stage):
    leg_id = await stage.connected_in()
    await stage.add("r", leg_id)
    stage.quiet()
    outcomes = await asyncio.gather(*(stage.delete_leg(leg_id) for _ in range(5)), return_exceptions=True)
    stage.report(CallEnded(leg_id=leg_id, reason="remote_bye"))
    stage.report(MediaTimedOut(leg_id=leg_id))
    stage.report(SpeechChanged(leg_id=leg_id, speaking=True))
    assert sum(isinstance(outcome, dict) for outcome in outcomes) == 1
    assert stage.told() == ["leg.left_room", "leg.disconnected"]
