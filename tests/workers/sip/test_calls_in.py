"""Calls to us: through the real process, with a scripted peer."""

import asyncio

import pytest

from shm import messages as wire


async def test_answered_and_hung_up_by_the_caller(control, peer, scene, make):
    invite = peer.request("INVITE", control.uri, body=make.sdp(), headers=[("X-App-ID", "shop")])
    peer.send(invite)
    trying = await peer.get(100)
    received = await control.event(wire.CallReceived)
    assert (received.from_user, received.to_user, received.has_offer) == ("alice", "room", True)
    assert received.headers == {"X-App-ID": "shop"}
    assert [codec.name for codec in received.offered_codecs] == ["PCMU", "PCMA"]
    assert received.trusted
    assert received.source_address == f"127.0.0.1:{peer.port}"
    leg = {"leg_id": received.leg_id}
    await control.do(wire.Ring, **leg)
    ringing = await peer.get(180)
    done = await control.do(wire.Answer, **leg, media=make.LOCAL)
    assert done.media.send.name == "PCMU"
    assert (done.media.remote_host, done.media.remote_port) == ("127.0.0.1", 40000)
    ok = await peer.get((200, "INVITE"))
    assert ok.to_tag == ringing.to_tag == trying.to_tag
    assert ok.get("server") == "voiceblender"
    assert "UPDATE" in ok.get("allow")
    assert b"m=audio 20000" in ok.body
    assert not ok.get("session-expires")
    peer.send(peer.within(invite, ok, "ACK"))
    await control.event(wire.CallConfirmed, **leg)
    peer.send(peer.within(invite, ok, "BYE"))
    await peer.get((200, "BYE"))
    assert (await control.event(wire.CallEnded)).reason == "remote_bye"
    peer.send(peer.within(invite, ok, "INVITE", cseq=9, body=make.sdp()))
    await peer.get((481, "INVITE"))


async def test_hung_up_by_us(control, peer, scene):
    invite, ok, leg_id = await scene.answered_in()
    await control.do(wire.Hangup, leg_id=leg_id)
    bye = await peer.get("BYE")
    assert bye.to_tag == invite.from_tag
    assert bye.from_tag == ok.to_tag
    peer.reply(bye, 200)
    control.none(wire.CallEnded)


async def test_both_hang_up_at_once(control, peer, scene):
    invite, ok, leg_id = await scene.answered_in()
    await control.do(wire.Hangup, leg_id=leg_id)
    bye = await peer.get("BYE")
    peer.send(peer.within(invite, ok, "BYE"))
    await peer.get((200, "BYE"))
    peer.reply(bye, 200)
    control.none(wire.CallEnded)


async def test_a_command_that_comes_twice_is_done_once(control, peer, scene):
    _invite, leg_id = await scene.ringing_in()
    command = wire.Ring(command_id=99, leg_id=leg_id)
    control.channel.send(command)
    await control.reply_to(command)
    await peer.get(180)
    control.channel.send(command)
    await control.reply_to(command)
    await control.do(wire.Reject, leg_id=leg_id, status=486)
    await peer.get(486)
    assert [m.status for m in peer.seen].count(180) == 1


async def test_cancelled(control, peer, scene):
    invite, leg_id = await scene.ringing_in()
    cancel = peer.request("CANCEL", control.uri, call_id=invite.call_id, from_tag=invite.from_tag)
    cancel.set("via", invite.get("via"))
    peer.send(cancel)
    ok = await peer.get((200, "CANCEL"))
    terminated = await peer.get((487, "INVITE"))
    assert ok.to_tag == terminated.to_tag
    assert (await control.event(wire.CallEnded, leg_id=leg_id)).reason == "caller_cancel"
    failed = await control.do(wire.Answer, leg_id=leg_id, media=scene.local)
    assert failed.blame == "caller"


async def test_cancel_after_the_answer_changes_nothing(control, peer, scene):
    invite, leg_id = await scene.ringing_in()
    await control.do(wire.Answer, leg_id=leg_id, media=scene.local)
    ok = await peer.get((200, "INVITE"))
    cancel = peer.request("CANCEL", control.uri, call_id=invite.call_id, from_tag=invite.from_tag)
    cancel.set("via", invite.get("via"))
    peer.send(cancel)
    await peer.get((200, "CANCEL"))
    peer.send(peer.within(invite, ok, "ACK"))
    await control.event(wire.CallConfirmed)
    control.none(wire.CallEnded)


async def test_bye_before_the_answer(control, peer, scene):
    invite, leg_id = await scene.ringing_in()
    await control.do(wire.Ring, leg_id=leg_id)
    ringing = await peer.get(180)
    peer.send(peer.within(invite, ringing, "BYE"))
    await peer.get((200, "BYE"))
    await peer.get((487, "INVITE"))
    assert (await control.event(wire.CallEnded)).reason == "caller_cancel"


async def test_rejected(control, peer, scene):
    _invite, leg_id = await scene.ringing_in()
    await control.do(wire.Reject, leg_id=leg_id, status=503, retry_after_s=7)
    response = await peer.get((503, "INVITE"))
    assert response.get("retry-after") == "7"
    control.none(wire.CallEnded)


async def test_hangup_of_a_ringing_call_declines_it(control, peer, scene):
    _invite, leg_id = await scene.ringing_in()
    await control.do(wire.Hangup, leg_id=leg_id)
    await peer.get((603, "INVITE"))


async def test_every_first_transmission_lost(control, peer, scene, make):
    """Ours and theirs: whatever is sent once arrives the second time only."""
    lost = set()

    def drop(message):
        fingerprint = message.encode()
        first = fingerprint not in lost
        lost.add(fingerprint)
        return first

    peer.drop = drop
    invite = peer.request("INVITE", control.uri, body=make.sdp())
    peer.send(invite)
    leg = {"leg_id": (await control.event(wire.CallReceived)).leg_id}
    peer.send(invite)  # 100 was lost; our repetition brings it again and makes no second call
    await peer.get(100)
    await control.do(wire.Answer, **leg, media=make.LOCAL)
    ok = await peer.get((200, "INVITE"))
    # Our first ACK is lost: the 200 comes again, by itself.
    await peer.get((200, "INVITE"))
    peer.send(peer.within(invite, ok, "ACK"))
    await control.event(wire.CallConfirmed, **leg)
    await control.do(wire.Hangup, **leg)
    bye = await peer.get("BYE")
    peer.reply(bye, 200)
    control.none(wire.CallReceived)


async def test_rejection_is_repeated_until_its_ack(control, peer, scene):
    invite, leg_id = await scene.ringing_in()
    await control.do(wire.Reject, leg_id=leg_id, status=486)
    response = await peer.get(486)
    again = await peer.get(486)
    assert again.encode() == response.encode()
    ack = peer.within(invite, response, "ACK", branch=invite.via.branch)
    peer.send(ack)


async def test_early_media_then_answer_with_the_same_description(control, peer, scene, make):
    _invite, leg_id = await scene.ringing_in()
    done = await control.do(wire.Progress, leg_id=leg_id, media=make.LOCAL, codec="PCMA")
    assert done.media.send.name == "PCMA"
    progress = await peer.get(183)
    await control.do(wire.Answer, leg_id=leg_id, media=make.LOCAL)
    ok = await peer.get((200, "INVITE"))
    assert ok.body == progress.body
    assert b"m=audio 20000 RTP/AVP 8" in ok.body


async def test_answer_without_a_common_codec(control, peer, scene, make):
    _invite, leg_id = await scene.ringing_in()
    only_g722 = wire.LocalMedia(host="127.0.0.1", port=20000, codecs=("G722",))
    assert isinstance(await control.do(wire.Answer, leg_id=leg_id, media=only_g722), wire.Failed)
    await peer.get((488, "INVITE"))
    assert (await control.event(wire.CallEnded)).reason == "connect_failed"


async def test_no_offer(control, peer, scene, make):
    invite, leg_id = await scene.ringing_in(body="")
    failed = await control.do(wire.Progress, leg_id=leg_id, media=make.LOCAL)
    assert isinstance(failed, wire.Failed)
    assert (await control.do(wire.Answer, leg_id=leg_id, media=make.LOCAL)).media is None
    ok = await peer.get((200, "INVITE"))
    assert b"m=audio 20000 RTP/AVP 0 8 9 101" in ok.body
    peer.send(peer.within(invite, ok, "ACK", body=make.sdp(port=40002, codecs="8 101")))
    confirmed = await control.event(wire.CallConfirmed)
    assert (confirmed.media.send.name, confirmed.media.remote_port) == ("PCMA", 40002)


async def test_no_offer_and_an_ack_without_answer(control, peer, scene, make):
    invite, leg_id = await scene.ringing_in(body="")
    await control.do(wire.Answer, leg_id=leg_id, media=make.LOCAL)
    ok = await peer.get((200, "INVITE"))
    peer.send(peer.within(invite, ok, "ACK"))
    assert (await control.event(wire.CallEnded)).reason == "connect_failed"
    await peer.get("BYE")


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"headers": [("require", "100rel")]}, 420),
        ({"headers": [("max-forwards", "0")]}, 483),
        ({"headers": [("content-type", "application/pidf+xml")]}, 415),
        ({"headers": [("session-expires", "60"), ("supported", "timer")]}, 422),
        ({"body": "nonsense"}, 400),
        ({"protocol": "RTP/SAVP"}, 488),
        ({"codecs": "97"}, 488),
    ],
)
async def test_refused_without_a_leg(control, peer, make, change, status):
    body = make.sdp(**{key: value for key, value in change.items() if key in ("protocol", "codecs")})
    invite = peer.request("INVITE", control.uri, body=body)
    invite.body = change.get("body", body).encode()
    for name, value in change.get("headers", ()):
        invite.set(name, value)
    peer.send(invite)
    response = await peer.get((status, "INVITE"))
    if status == 420:
        assert response.get("unsupported") == "100rel"
    if status == 422:
        assert response.get("min-se") == "90"
    await control.do(wire.Hangup, leg_id="nobody")  # whatever the INVITE caused has been posted before this reply
    control.none(wire.CallReceived)


async def test_a_merged_request(control, peer, scene, make):
    invite, _leg_id = await scene.ringing_in()
    twin = peer.request("INVITE", control.uri, call_id=invite.call_id, from_tag=invite.from_tag, body=make.sdp())
    peer.send(twin)
    await peer.get((482, "INVITE"))
    control.none(wire.CallReceived)


async def test_outside_any_call(control, peer):
    options = peer.request("OPTIONS", control.uri)
    peer.send(options)
    ok = await peer.get((200, "OPTIONS"))
    assert "INVITE" in ok.get("allow")
    assert ok.via.params["rport"] == str(peer.port)
    for method in ("REGISTER", "MESSAGE", "SUBSCRIBE", "INFO", "PRACK", "PUBLISH", "DANCE"):
        peer.send(peer.request(method, control.uri))
        assert "INVITE" in (await peer.get((405, method))).get("allow")
    for method in ("BYE", "UPDATE", "NOTIFY", "REFER"):
        peer.send(peer.request(method, control.uri))
        await peer.get((481, method))
    stray = peer.request("INVITE", control.uri, to_tag="nobody")
    peer.send(stray)
    await peer.get((481, "INVITE"))
    control.none(wire.CallReceived)


async def test_limits_on_ringing_calls(make):
    control = make.Control(ringing_limit=3, untrusted_ringing_limit=2, trusted_networks=("10.0.0.0/8",)).bind().start()
    peer = await make.Peer().open_udp()
    peer.remote = control.address
    scene = make.Scene(control, peer)
    try:
        _first, leg_id = await scene.ringing_in()
        await scene.ringing_in()
        peer.send(peer.request("INVITE", control.uri, body=make.sdp()))
        refused = await peer.get((503, "INVITE"))
        assert int(refused.get("retry-after")) > 0
        await control.do(wire.Hangup, leg_id=leg_id)
        await peer.get(603)
        _invite, leg_id = await scene.ringing_in()
        await control.do(wire.Answer, leg_id=leg_id, media=make.LOCAL)
        await scene.ringing_in()
    finally:
        peer.close()
        control.close()


async def test_session_timer_asked_for_by_the_peer(control, peer, scene, make):
    headers = [("session-expires", "120"), ("supported", "timer")]
    invite, ok, leg_id = await scene.answered_in(headers=headers)
    assert ok.get("session-expires") == "120;refresher=uac"
    assert "timer" in ok.tokens("supported")
    assert control.last_dialogs[leg_id].session_expires_s == 120
    assert not control.last_dialogs[leg_id].refreshes
    update = peer.within(invite, ok, "UPDATE", headers=[("session-expires", "1800;refresher=uas")])
    peer.send(update)
    answered = await peer.get((200, "UPDATE"))
    assert answered.get("session-expires") == "1800;refresher=uas"
    assert not answered.body
    await control.do(wire.Hangup, leg_id="nobody")
    assert control.last_dialogs[leg_id].refreshes


async def test_ipv6(make):
    control = make.Control(bind_ipv6="::1").bind(hosts=("127.0.0.1", "::1")).start()
    peer = await make.Peer("::1").open_udp()
    peer.remote = ("::1", control.port)
    try:
        invite = peer.request("INVITE", f"sip:room@[::1]:{control.port}", body=make.sdp("::1"))
        peer.send(invite)
        received = await control.event(wire.CallReceived)
        assert received.local_host == "::1"
        local = wire.LocalMedia(host="::1", port=20000, codecs=("PCMU",))
        done = await control.do(wire.Answer, leg_id=received.leg_id, media=local)
        assert done.media.remote_host == "::1"
        ok = await peer.get((200, "INVITE"))
        assert f"<sip:[::1]:{control.port}>" in ok.get("contact")
        peer.send(peer.within(invite, ok, "ACK"))
        await control.event(wire.CallConfirmed)
        await control.do(wire.Hangup, leg_id=received.leg_id)
        peer.reply(await peer.get("BYE"), 200)
    finally:
        peer.close()
        control.close()


async def test_tcp_connection_is_used_both_ways(control, make):
    peer = await make.Peer().open_stream(control.port)
    scene = make.Scene(control, peer)
    peer.send_raw(b"\r\n\r\n")  # a keep-alive; its CRLF in return is skipped by the framer
    _invite, ok, leg_id = await scene.answered_in()
    assert "transport=tcp" in ok.get("contact")
    await control.do(wire.Hangup, leg_id=leg_id)
    peer.reply(await peer.get("BYE"), 200)
    peer.close()


async def test_tls(make, certificate):
    control = make.Control(tls_cert=certificate[0], tls_key=certificate[1]).bind(tls=True).start()
    context = make.ssl.create_default_context(cafile=certificate[0])
    context.check_hostname = False
    peer = await make.Peer().open_stream(control.tls_port, context)
    scene = make.Scene(control, peer)
    try:
        _invite, ok, leg_id = await scene.answered_in()
        assert f":{control.tls_port};transport=tls" in ok.get("contact")
        await control.do(wire.Hangup, leg_id=leg_id)
        peer.reply(await peer.get("BYE"), 200)
    finally:
        peer.close()
        control.close()


async def test_a_stream_of_nonsense_is_cut_off(control, make):
    peer = await make.Peer().open_stream(control.port)
    peer.send_raw(b"\x16\x03\x01" * 100)
    async with asyncio.timeout(5):
        await peer._reading  # end of file
    peer.close()


async def test_without_rport_the_answer_goes_to_the_port_of_the_via(control, peer, make):
    other = await make.Peer().open_udp()
    other.remote = control.address
    options = other.request("OPTIONS", control.uri)
    options.set("via", f"SIP/2.0/UDP 127.0.0.1:{peer.port};branch=z9hG4bKplain")
    other.send(options)
    await peer.get((200, "OPTIONS"))
    other.close()


async def test_invite_without_contact(control, peer, make):
    invite = peer.request("INVITE", control.uri, body=make.sdp())
    invite.remove("contact")
    peer.send(invite)
    await peer.get((400, "INVITE"))


async def test_a_heavy_invite_is_refused(control, peer, make):
    invite = peer.request("INVITE", control.uri, body=make.sdp(), headers=[("record-route", "<sip:a;lr>")])
    for number in range(190):
        invite.headers.append(("record-route", f"<sip:proxy{number}.{'a' * 100}.example;lr>"))
    peer.send(invite)
    await peer.get((513, "INVITE"))


async def test_leave_says_goodbye_and_ends_soon(control, peer, scene):
    await scene.answered_in()
    _ringing, _leg = await scene.ringing_in()
    control.channel.send(wire.Leave())
    peer.reply(await peer.get("BYE"), 200)
    await peer.get((503, "INVITE"))
    assert await control.gone(5.0) == 0


async def test_the_masters_end_hangs_up(control, peer, scene):
    import os

    await scene.answered_in()
    os.close(control._lifeline_write)
    peer.reply(await peer.get("BYE"), 200)
    assert await control.gone(8.0) == 0


async def test_inventory_and_repeated_events(control, peer, scene):
    _invite, _ok, leg_id = await scene.answered_in()
    _ringing, ringing_id = await scene.ringing_in()
    control.events.clear()
    await control.do(wire.Hello)
    part = await control.event(wire.SipInventoryPart)
    assert part.last
    states = {call.leg_id: call for call in part.calls}
    assert states[leg_id].state == "confirmed"
    assert states[leg_id].dialog.media.remote_port == 40000
    assert states[ringing_id].state == "incoming"
    again = await control.event(wire.CallReceived, leg_id=leg_id)
    await control.event(wire.CallReceived, leg_id=ringing_id)  # all are repeated, in order
    control.channel.send(wire.Acknowledge(number=again.number + 1))
    control.events.clear()
    await control.do(wire.Hello)
    await control.event(wire.SipInventoryPart)
    await control.event(wire.CallReceived, leg_id=ringing_id)
    control.none(wire.CallReceived)
