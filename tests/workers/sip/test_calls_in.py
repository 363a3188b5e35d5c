"""Calls to us: through the real process, with a scripted peer."""

from shm import messages as wire


async def test_answered_and_hung_up_by_the_caller(control, peer, scene, make):
    invite = peer.request("INVITE", control.uri, body=make.sdp(), headers=[("X-App-ID", "shop")])
    peer.send(invite)
    trying = await peer.get(100)
    assert not trying.to_tag
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
    assert ok.to_tag == ringing.to_tag
    assert ok.get("server") == "voiceblender"
    assert "UPDATE" in ok.get("allow")
    assert b"m=audio 20000" in ok.body
    assert not ok.get("session-expires")
    peer.send(peer.within(invite, ok, "ACK"))
    await control.event(wire.CallConfirmed, **leg)
    peer.send(peer.within(invite, ok, "BYE"))
    await peer.get((200, "BYE"))
    assert (await control.event(wire.CallEnded)).reason == "remote_bye"


async def test_hung_up_by_us(control, peer, scene):
    invite, ok, leg_id = await scene.answered_in()
    await control.do(wire.Hangup, leg_id=leg_id)
    bye = await peer.get("BYE")
    assert bye.to_tag == invite.from_tag
    assert bye.from_tag == ok.to_tag
    peer.reply(bye, 200)
    control.none(wire.CallEnded)
