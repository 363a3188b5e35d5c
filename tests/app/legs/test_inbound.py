import asyncio

import pytest

from app.legs.requests import AnswerLeg, EarlyMedia
from shm.errors import CallerError, PeerError, ResourceError
from shm.messages import (
    Answer,
    CallConfirmed,
    CallEnded,
    CloseLeg,
    Hangup,
    OpenLeg,
    PlaceLeg,
    Progress,
    Reject,
    Ring,
    SetMedia,
)


async def status_of(awaitable):
    with pytest.raises(CallerError) as caught:
        await awaitable
    return caught.value.status


def answer(stage, leg_id, **fields):
    return stage.conference.answering.answer(leg_id=leg_id, request=AnswerLeg(**fields))


async def test_arrival_is_told_with_all_it_brings(stage):
    headers = {"X-App-ID": "crm", "x-webhook-secret": "s", "X-Webhook-URL": "http://h/", "X-Queue": "7"}
    leg_id = stage.ring_in(headers=headers, trusted=True)
    (ringing,) = stage.events()
    shown = {"X-App-ID": "crm", "X-Webhook-URL": "http://h/", "X-Queue": "7"}
    assert ringing["leg_type"] == "sip_inbound"
    assert (ringing["from"], ringing["to"], ringing["app_id"]) == ("alice", "200", "crm")
    assert ringing["sip_headers"] == shown
    assert ringing["offered_codecs"] == [{"name": "PCMU", "payload_type": 0, "clock_rate": 8000, "priority": 1}]
    assert ringing["source_address"] == "192.0.2.1:5060"
    assert await stage.view(leg_id) == {
        "id": leg_id,
        "type": "sip_inbound",
        "state": "ringing",
        "muted": False,
        "deaf": False,
        "held": False,
        "accept_dtmf": True,
        "app_id": "crm",
        "sip_headers": shown,
        "headers": shown,
    }
    hook = stage.webhooks.destination(leg_id, "")
    assert (hook.url, hook.secret) == ("http://h/", "s")
    assert stage.sip.sent == []
    assert stage.supervisor.rtp[0].sent == []  # ringing costs neither port nor row


async def test_steering_headers_of_strangers_are_ignored(stage):
    leg_id = stage.ring_in(headers={"X-App-ID": "crm", "X-Webhook-URL": "http://h/"}, trusted=False)
    assert "app_id" not in await stage.view(leg_id)
    assert stage.webhooks.destination(leg_id, "") is None


async def test_webhook_without_secret_is_signed_with_ours(make_stage):
    stage = make_stage(webhook_secret="global")
    leg_id = stage.ring_in(headers={"X-Webhook-URL": "http://h/"}, trusted=True)
    assert stage.webhooks.destination(leg_id, "").secret == "global"


async def test_answer(stage):
    leg_id = stage.ring_in()
    assert await answer(stage, leg_id) == {"status": "answering"}
    assert await answer(stage, leg_id) == {"status": "answering"}
    await stage.settle()
    (command,) = stage.sip.of(Answer)
    rtp = stage.rtp_of(leg_id)
    opening, setting = rtp.sent
    assert isinstance(opening, OpenLeg)
    assert (opening.port, opening.phase, opening.row.rate_hz) == (command.media.port, None, 8000)
    assert command.media.codecs == ("PCMU", "PCMA", "G722")  # opus is not built
    assert isinstance(setting, SetMedia)
    assert (await stage.view(leg_id))["state"] == "ringing"
    stage.quiet()
    stage.report(CallConfirmed(leg_id=leg_id))
    (connected,) = stage.events()
    assert (connected["type"], connected["leg_type"]) == ("leg.connected", "sip_inbound")
    assert (await stage.view(leg_id))["state"] == "connected"
    stage.report(CallConfirmed(leg_id=leg_id))
    assert stage.told() == []
    assert await status_of(answer(stage, leg_id)) == 409


async def test_answer_is_refused(stage):
    assert await status_of(answer(stage, "nobody")) == 404
    assert await status_of(answer(stage, await stage.dial())) == 400
    leg_id = stage.ring_in()
    assert await status_of(answer(stage, leg_id, codec="G722")) == 400  # not offered
    assert await status_of(answer(stage, leg_id, codec="opus")) == 400  # not enabled
    await answer(stage, leg_id, codec="PCMU")
    await stage.settle()
    assert stage.sip.of(Answer)[0].codec == "PCMU"


async def test_a_leg_without_room_settles_at_its_codecs_rate(stage, make_media, g722):
    stage.sip.media = make_media(g722)
    leg_id = await stage.connected_in()
    (place,) = stage.rtp_of(leg_id).of(PlaceLeg)
    assert (place.row.rate_hz, place.phase) == (16000, None)
    assert stage.legs.get(leg_id).facts.path.row == place.row


async def test_an_answer_without_common_codec_ends_the_leg(stage):
    leg_id = stage.ring_in()
    stage.quiet()
    stage.sip.failures[Answer].append(PeerError("no common codec"))
    await answer(stage, leg_id)
    await stage.settle()
    failed, gone = stage.events()
    assert (failed["type"], failed["command"]) == ("leg.command_failed", "answer")
    assert gone["cdr"] == {"reason": "connect_failed", "duration_total": gone["cdr"]["duration_total"]} | {
        "duration_answered": 0
    }
    assert [command.status for command in stage.sip.of(Reject)] == [488]
    assert sum(len(rtp.of(CloseLeg)) for rtp in stage.supervisor.rtp) == 1


async def test_a_200_never_acknowledged(stage):
    leg_id = stage.ring_in()
    await answer(stage, leg_id)
    await stage.settle()
    stage.quiet()
    stage.report(CallEnded(leg_id=leg_id, reason="connect_failed"))
    failed, gone = stage.events()
    assert (failed["command"], gone["cdr"]["reason"]) == ("answer", "connect_failed")


async def test_a_port_of_another_program_is_skipped(stage):
    for rtp in stage.supervisor.rtp:
        rtp.failures[OpenLeg].append(ResourceError("address in use"))
    leg_id = await stage.connected_in()
    first, second = stage.rtp_of(leg_id).of(OpenLeg)
    assert first.port != second.port
    assert stage.legs.get(leg_id).facts.path.port == second.port
    assert stage.sip.of(Answer)[0].media.port == second.port


async def test_no_port_at_all(stage):
    leg_id = stage.ring_in()
    for rtp in stage.supervisor.rtp:
        rtp.failures[OpenLeg] = [ResourceError("address in use")] * 20
    stage.quiet()
    await answer(stage, leg_id)
    await stage.settle()
    assert stage.told() == ["leg.command_failed", "leg.disconnected"]
    assert stage.legs.paths.load == [0, 0]
    assert [command.status for command in stage.sip.of(Reject)] == [500]


async def test_a_call_cancelled_while_its_path_opens_leaves_nothing(stage):
    leg_id = stage.ring_in()
    for rtp in stage.supervisor.rtp:
        rtp.gates[OpenLeg] = asyncio.Event()
    await answer(stage, leg_id)
    await stage.settle()
    stage.report(CallEnded(leg_id=leg_id, reason="caller_cancel"))
    for rtp in stage.supervisor.rtp:
        rtp.gates[OpenLeg].set()
    await stage.settle()
    assert stage.sip.of(Answer) == []
    assert stage.legs.paths.load == [0, 0]
    assert sum(len(rtp.of(CloseLeg)) for rtp in stage.supervisor.rtp) == 1
    assert stage.told() == ["leg.ringing", "leg.disconnected"]


async def test_early_media_then_answer(stage):
    leg_id = stage.ring_in()
    stage.quiet()
    early = stage.conference.answering.early_media
    assert await early(leg_id=leg_id, request=EarlyMedia()) == {"status": "early_media"}
    assert await status_of(early(leg_id=leg_id, request=EarlyMedia())) == 409
    await stage.settle()
    assert (await stage.view(leg_id))["state"] == "early_media"
    assert stage.told() == ["leg.early_media"]
    assert await status_of(stage.conference.answering.ring(leg_id=leg_id)) == 409
    await answer(stage, leg_id)
    await stage.settle()
    (progress,), (final,) = stage.sip.of(Progress), stage.sip.of(Answer)
    assert progress.media == final.media
    assert len(stage.rtp_of(leg_id).of(OpenLeg)) == 1


async def test_early_media_that_fails_leaves_the_leg_ringing(stage):
    leg_id = stage.ring_in()
    stage.quiet()
    stage.sip.failures[Progress].append(PeerError("no offer"))
    await stage.conference.answering.early_media(leg_id=leg_id, request=EarlyMedia())
    await stage.settle()
    (failed,) = stage.events()
    assert (failed["type"], failed["command"]) == ("leg.command_failed", "early_media")
    assert (await stage.view(leg_id))["state"] == "ringing"


async def test_ring_as_often_as_wished(stage):
    leg_id = stage.ring_in()
    for _ in range(2):
        assert await stage.conference.answering.ring(leg_id=leg_id) == {"status": "ringing"}
    await stage.settle()
    assert len(stage.sip.of(Ring)) == 2
    assert await status_of(stage.conference.answering.ring(leg_id=await stage.dial())) == 400


@pytest.mark.parametrize(("reason", "status", "told"), [("", 603, "api_hangup"), ("busy", 486, "busy")])
async def test_an_unanswered_leg_is_rejected(stage, reason, status, told):
    leg_id = stage.ring_in()
    stage.quiet()
    assert await stage.delete_leg(leg_id, reason) == {"status": "hanging_up"}
    assert await status_of(stage.delete_leg(leg_id)) == 404
    (gone,) = stage.events()
    assert gone["cdr"]["reason"] == told
    await stage.settle()
    assert [command.status for command in stage.sip.of(Reject)] == [status]


async def test_an_unknown_reason_matters_only_while_unanswered(stage):
    leg_id = stage.ring_in()
    assert await status_of(stage.delete_leg(leg_id, "whim")) == 400
    assert (await stage.view(leg_id))["state"] == "ringing"
    leg_id = await stage.connected_in()
    await stage.delete_leg(leg_id, "whim")
    await stage.settle()
    assert [command.leg_id for command in stage.sip.of(Hangup)] == [leg_id]


async def test_calls_beyond_capacity_are_refused_without_a_leg(make_stage):
    stage = make_stage(max_legs=1)
    stage.ring_in()
    stage.quiet()
    stage.ring_in()
    (refusal,) = stage.sip.of(Reject)
    assert refusal.status == 503
    assert refusal.retry_after_s > 0
    assert stage.told() == []
    assert len(stage.legs) == 1
