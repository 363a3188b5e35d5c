"""Inside a running call: re-INVITE, UPDATE, hold, glare, session timers, and the process killed and replaced."""

import asyncio
import os
import signal
import socket

from msgspec.structs import replace

from shm import messages as wire
from workers.sip.calls import Calls


def hold(control, held, leg_id="leg"):
    return asyncio.create_task(control.do(wire.Hold, within=10.0, leg_id=leg_id, held=held))


async def test_peer_holds_and_resumes(control, peer, scene, make):
    invite, ok, leg_id = await scene.answered_in()
    expected = {"sendonly": "recvonly", "inactive": "inactive", "recvonly": "sendonly"}
    for cseq, (direction, ours) in enumerate(expected.items(), 2):
        peer.send(peer.within(invite, ok, "INVITE", cseq=cseq, body=make.sdp(direction=direction, version=cseq)))
        answer = await peer.get((200, "INVITE"))
        assert f"a={ours}".encode() in answer.body
        assert b"m=audio 20000" in answer.body
        changed = await control.event(wire.MediaChanged, leg_id=leg_id)
        assert (changed.media.direction, changed.held, changed.by_peer) == (ours, direction != "recvonly", True)
        peer.send(peer.within(invite, ok, "ACK", cseq=cseq))
    peer.send(peer.within(invite, ok, "INVITE", cseq=8, body=make.sdp("0.0.0.0", version=8)))
    await peer.get((200, "INVITE"))
    changed = await control.event(wire.MediaChanged)
    assert (changed.held, changed.media.remote_host) == (True, "")
    peer.send(peer.within(invite, ok, "ACK", cseq=8))
    peer.send(peer.within(invite, ok, "INVITE", cseq=9, body=make.sdp(version=9)))
    await peer.get((200, "INVITE"))
    assert not (await control.event(wire.MediaChanged)).held
    peer.send(peer.within(invite, ok, "ACK", cseq=9))


async def test_new_address_codec_and_target(control, peer, scene, make):
    invite, ok, leg_id = await scene.answered_in()
    other = await make.Peer().open_udp()
    body = make.sdp("127.0.0.3", 41000, codecs="8", version=2)
    reinvite = peer.within(invite, ok, "INVITE", body=body)
    reinvite.set("contact", f"<sip:alice@127.0.0.1:{other.port}>")
    peer.send(reinvite)
    await peer.get((200, "INVITE"))
    media = (await control.event(wire.MediaChanged)).media
    assert (media.remote_host, media.remote_port, media.send.name) == ("127.0.0.3", 41000, "PCMA")
    peer.send(peer.within(invite, ok, "ACK", cseq=2))
    await control.do(wire.Hangup, leg_id=leg_id)
    # The ACK above and the hangup travel different ways: the BYE comes once both are in.
    bye = await other.get("BYE")
    assert bye.uri == f"sip:alice@127.0.0.1:{other.port}"
    other.remote = control.address
    other.reply(bye, 200)
    other.close()


async def test_refresh_changes_nothing(control, peer, scene, make):
    invite, ok, _leg = await scene.answered_in()
    peer.send(peer.within(invite, ok, "INVITE", body=make.sdp()))
    answer = await peer.get((200, "INVITE"))
    assert answer.body == ok.body  # version and all
    peer.send(peer.within(invite, ok, "ACK", cseq=2))
    peer.send(peer.within(invite, ok, "UPDATE", cseq=3))
    assert not (await peer.get((200, "UPDATE"))).body
    peer.send(peer.within(invite, ok, "UPDATE", cseq=4, body=make.sdp()))
    assert (await peer.get((200, "UPDATE"))).body == ok.body
    control.none(wire.MediaChanged)


async def test_reinvite_without_offer(control, peer, scene, make):
    invite, ok, _leg = await scene.answered_in()
    peer.send(peer.within(invite, ok, "INVITE"))
    offer = await peer.get((200, "INVITE"))
    assert b"m=audio 20000 RTP/AVP 0 8 9 101" in offer.body
    peer.send(peer.within(invite, ok, "ACK", cseq=2, body=make.sdp(port=40010, codecs="9 101")))
    changed = await control.event(wire.MediaChanged)
    assert (changed.media.send.name, changed.media.remote_port) == ("G722", 40010)


async def test_refused_offers_leave_the_call_alone(control, peer, scene, make):
    invite, ok, leg_id = await scene.answered_in()
    peer.send(peer.within(invite, ok, "INVITE", cseq=2, body=make.sdp(codecs="97")))
    await peer.get((488, "INVITE"))
    peer.send(peer.within(invite, ok, "INVITE", cseq=3, body="nonsense"))
    await peer.get((400, "INVITE"))
    peer.send(peer.within(invite, ok, "UPDATE", cseq=2, body=make.sdp()))
    await peer.get((500, "UPDATE"))  # out of order
    for cseq, (method, status) in enumerate({"INFO": 405, "OPTIONS": 200, "NOTIFY": 489, "REFER": 603}.items(), 4):
        peer.send(peer.within(invite, ok, method, cseq=cseq))
        await peer.get((status, method))
    control.none(wire.MediaChanged)
    control.none(wire.CallEnded)
    await control.do(wire.Hangup, leg_id=leg_id)
    peer.reply(await peer.get("BYE"), 200)


async def test_video_is_answered_with_port_0(control, peer, scene, make):
    video = "m=video 40100 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    _invite, ok, _leg = await scene.answered_in(body=make.sdp(extra=video))
    assert b"m=video 0 RTP/AVP 96" in ok.body


async def test_we_hold_and_resume(control, peer, scene, make):
    invite, _ok = await scene.answered_out()
    held = hold(control, True)
    reinvite = await peer.get("INVITE")
    assert b"a=sendonly" in reinvite.body
    assert reinvite.cseq[0] == invite.cseq[0] + 1
    peer.reply(reinvite, 200, body=make.sdp(direction="recvonly", version=2))
    await peer.get("ACK")
    assert isinstance(await held, wire.Done)
    changed = await control.event(wire.MediaChanged)
    assert (changed.held, changed.by_peer, changed.media.direction) == (True, False, "sendonly")
    assert control.last_dialogs["leg"].held_locally
    # The peer's refresh meanwhile does not lift our hold.
    peer.send(peer.request_back(invite, "INVITE", tag="bobs", cseq=5, body=make.sdp(version=3)))
    assert b"a=sendonly" in (await peer.get((200, "INVITE"))).body
    peer.send(peer.request_back(invite, "ACK", tag="bobs", cseq=5))
    resumed = hold(control, False)
    reinvite = await peer.get("INVITE")
    assert b"a=sendrecv" in reinvite.body
    peer.reply(reinvite, 200, body=make.sdp(version=4))
    await peer.get("ACK")
    assert isinstance(await resumed, wire.Done)
    assert not (await control.event(wire.MediaChanged, held=False)).held


async def test_refused_hold(control, peer, scene, make):
    await scene.answered_out()
    held = hold(control, True)
    peer.reply(await peer.get("INVITE"), 488)
    await peer.get("ACK")
    failed = await held
    assert (failed.blame, failed.error) == ("peer", "488 Reason")
    control.none(wire.MediaChanged)
    resumed = hold(control, False)
    reinvite = await peer.get("INVITE")
    assert b"a=sendrecv" in reinvite.body
    peer.reply(reinvite, 200, body=make.sdp())
    assert isinstance(await resumed, wire.Done)


async def test_hold_challenged(control, peer, scene, make):
    await scene.answered_out(auth=wire.Credentials(username="u", password="p"))
    held = hold(control, True)
    challenge = [("www-authenticate", 'Digest realm="pbx", nonce="n"')]
    peer.reply(await peer.get("INVITE"), 401, headers=challenge)
    again = await peer.get("INVITE")
    assert 'username="u"' in again.get("authorization")
    peer.reply(again, 200, body=make.sdp(direction="recvonly", version=2))
    assert isinstance(await held, wire.Done)


async def test_glare(control, peer, scene, make):
    invite, _ok = await scene.answered_out()
    held = hold(control, True)
    ours = await peer.get("INVITE")
    peer.send(peer.request_back(invite, "INVITE", tag="bobs", cseq=7, body=make.sdp(port=40020, version=2)))
    await peer.get((491, "INVITE"))
    peer.reply(ours, 491)
    await peer.get("ACK")
    # While we wait for our turn (2.1-4 s: the Call-ID is ours) the peer's retry gets through.
    peer.send(peer.request_back(invite, "INVITE", tag="bobs", cseq=8, body=make.sdp(port=40020, version=2)))
    await peer.get((200, "INVITE"))
    peer.send(peer.request_back(invite, "ACK", tag="bobs", cseq=8))
    assert (await control.event(wire.MediaChanged)).media.remote_port == 40020
    retry = await peer.get("INVITE")
    assert b"a=sendonly" in retry.body
    peer.reply(retry, 200, body=make.sdp(port=40020, direction="recvonly", version=3))
    assert isinstance(await held, wire.Done)


async def test_the_peer_forgot_the_call(control, peer, scene):
    await scene.answered_out()
    held = hold(control, True)
    peer.reply(await peer.get("INVITE"), 481)
    assert isinstance(await held, wire.Failed)
    assert (await control.event(wire.CallEnded)).reason == "remote_bye"
    await peer.get("BYE")


async def test_an_update_that_is_refused_becomes_a_reinvite(make):
    """A refresh of ours, by UPDATE as the peer allows it; 405 nevertheless. In this process, to turn its clock."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    events = asyncio.Queue()
    start = wire.SipStart(stats_row=0, bind_ip="127.0.0.1", port=sock.getsockname()[1])
    calls = Calls(start, events.put_nowait, lambda _message: None)
    await calls.transports.listen([("UDP", sock)], None)
    await calls.transports.serve()
    peer = await make.Peer().open_udp()
    headers = {"Session-Expires": "90", "Supported": "timer"}
    dial = wire.Dial(leg_id="leg", target=f"sip:bob@127.0.0.1:{peer.port}", media=make.LOCAL, headers=headers)
    calls.execute(dial, lambda _reply: None)
    invite = await peer.get("INVITE")
    allow = [("session-expires", "90;refresher=uac"), ("allow", "INVITE, UPDATE")]
    peer.reply(invite, 200, tag="bobs", body=make.sdp(), headers=allow)
    await peer.get("ACK")
    call = calls.legs["leg"]
    assert call.timer.is_ours
    call.timer.refreshed_at -= 45
    call.rearm()
    update = await peer.get("UPDATE")
    assert not update.body
    assert update.get("session-expires") == "90;refresher=uac"
    peer.reply(update, 405)
    refresh = await peer.get("INVITE")
    assert refresh.body == invite.body
    peer.reply(refresh, 200, body=make.sdp(), headers=[("session-expires", "1800;refresher=uas")])
    await peer.get("ACK")
    assert (call.timer.interval_s, call.timer.is_ours, call.state) == (1800, False, "confirmed")
    assert isinstance(events.get_nowait(), wire.CallAnswered)
    assert events.empty()
    calls.transports.close()
    peer.close()
    sock.close()


# ---- kill -9


async def test_a_successor_goes_on(control, peer, scene, make):
    invite, ok, leg_id = await scene.answered_in()
    before = control.last_dialogs[leg_id]
    control.kill()
    control.start()
    assert isinstance(await control.do(wire.RestoreDialog, dialog=before), wire.Done)
    # A request of the peer is answered with the port and media it knows, version higher.
    peer.send(peer.within(invite, ok, "INVITE", cseq=2, body=make.sdp(port=40030, version=2)))
    answer = await peer.get((200, "INVITE"))
    assert b"m=audio 20000" in answer.body
    assert version(answer.body) >= version(ok.body) + 100
    assert origin(answer.body) == origin(ok.body)
    peer.send(peer.within(invite, ok, "ACK", cseq=2))
    assert (await control.event(wire.MediaChanged)).media.remote_port == 40030
    held = hold(control, True, leg_id)
    reinvite = await peer.get("INVITE")
    assert reinvite.cseq[0] > before.local_cseq + 99
    peer.reply(reinvite, 200, body=make.sdp(direction="recvonly", version=3))
    await peer.get("ACK")
    assert isinstance(await held, wire.Done)
    await control.do(wire.Hangup, leg_id=leg_id)
    bye = await peer.get("BYE")
    assert bye.cseq[0] == reinvite.cseq[0] + 1
    peer.reply(bye, 200)


async def test_what_comes_while_no_process_is_there_waits_for_the_dialogs(control, peer, scene):
    """A peer that is told 481 would end the call."""
    invite, ok, leg_id = await scene.answered_in()
    before = control.last_dialogs[leg_id]
    control.kill()
    peer.send(peer.within(invite, ok, "OPTIONS", cseq=2))
    control.start(listens=False)
    await control.do(wire.Hello)
    assert not (await control.event(wire.SipInventoryPart)).listens
    await control.do(wire.RestoreDialog, dialog=before)
    await control.do(wire.Listen)
    await peer.get((200, "OPTIONS"))


async def test_a_successor_repeats_the_unacknowledged_answer(control, peer, scene, make):
    invite, leg_id = await scene.ringing_in()
    await control.do(wire.Answer, leg_id=leg_id, media=make.LOCAL)
    ok = await peer.get((200, "INVITE"))
    dialog = (await control.event(wire.DialogSaved)).dialog
    assert not dialog.acknowledged
    control.kill()
    control.start()
    await control.do(wire.RestoreDialog, dialog=dialog)
    again = await peer.get((200, "INVITE"))
    assert again.encode() == ok.encode()
    peer.send(peer.within(invite, ok, "ACK"))
    await control.event(wire.CallConfirmed, leg_id=leg_id)
    peer.send(peer.within(invite, ok, "BYE"))
    await peer.get((200, "BYE"))
    assert (await control.event(wire.CallEnded)).reason == "remote_bye"


async def test_a_successor_of_an_offerless_answer(control, peer, scene, make):
    invite, leg_id = await scene.ringing_in(body="")
    await control.do(wire.Answer, leg_id=leg_id, media=make.LOCAL)
    ok = await peer.get((200, "INVITE"))
    dialog = (await control.event(wire.DialogSaved)).dialog
    control.kill()
    control.start()
    await control.do(wire.RestoreDialog, dialog=dialog)
    peer.send(peer.within(invite, ok, "ACK", body=make.sdp(port=40040)))
    assert (await control.event(wire.CallConfirmed, leg_id=leg_id)).media.remote_port == 40040


async def test_a_successor_acknowledges_what_its_predecessor_asked(control, peer, scene, make):
    await scene.answered_out()
    pending = hold(control, True)
    reinvite = await peer.get("INVITE")
    dialog = control.last_dialogs["leg"]
    control.kill()
    pending.cancel()
    control.start()
    await control.do(wire.RestoreDialog, dialog=dialog)
    peer.reply(reinvite, 200, body=make.sdp(direction="recvonly", version=2))
    assert (await peer.get("ACK")).cseq == (reinvite.cseq[0], "ACK")


async def test_a_successor_over_tcp_opens_a_new_connection(control, make):
    arrived = asyncio.get_running_loop().create_future()

    def accept(reader, writer):
        callback = make.Peer()
        callback.transport = "TCP"
        callback._attach(reader, writer)
        arrived.set_result(callback)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    peer = await make.Peer().open_stream(control.port)
    contact = [("contact", f"<sip:alice@127.0.0.1:{port};transport=tcp>")]
    _invite, _ok, leg_id = await make.Scene(control, peer).answered_in(headers=contact)
    dialog = control.last_dialogs[leg_id]
    control.kill()
    control.start()
    await control.do(wire.RestoreDialog, dialog=dialog)
    await control.do(wire.Hangup, leg_id=leg_id)
    async with asyncio.timeout(5):
        callback = await arrived
    callback.reply(await callback.get("BYE"), 200)
    peer.close()
    callback.close()
    server.close()


async def test_a_connection_that_died_unnoticed_is_replaced(control, make):
    """The BYE goes into a connection that the peer has reset meanwhile: it comes again over a new one."""
    arrived = asyncio.get_running_loop().create_future()

    def accept(reader, writer):
        callback = make.Peer()
        callback.transport = "TCP"
        callback._attach(reader, writer)
        arrived.set_result(callback)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    peer = await make.Peer().open_stream(control.port)
    contact = [("contact", f"<sip:alice@127.0.0.1:{port};transport=tcp>")]
    _invite, _ok, leg_id = await make.Scene(control, peer).answered_in(headers=contact)
    # Stopped, the process cannot notice the reset before it has read the command.
    os.kill(control.pid, signal.SIGSTOP)
    control.channel.send(wire.Hangup(command_id=77, leg_id=leg_id))
    peer._writer.transport.abort()
    os.kill(control.pid, signal.SIGCONT)
    async with asyncio.timeout(5):
        callback = await arrived
    callback.reply(await callback.get("BYE"), 200)
    peer.close()
    callback.close()
    server.close()


async def test_a_session_timer_goes_on_and_lapses(control, peer, scene):
    """The successor is told that the last refresh was long ago: refresh is due at once, or it is all over."""
    headers = [("session-expires", "90;refresher=uas"), ("supported", "timer"), ("allow", "INVITE, UPDATE")]
    _invite, _ok, leg_id = await scene.answered_in(headers=headers)
    dialog = control.last_dialogs[leg_id]
    assert (dialog.session_expires_s, dialog.refreshes) == (90, True)
    control.kill()
    control.start()
    refresh_due = replace(dialog, refreshed_at_ns=dialog.refreshed_at_ns - 50 * 10**9)
    await control.do(wire.RestoreDialog, dialog=refresh_due)
    refresh = await peer.get("INVITE")
    assert refresh.get("session-expires") == "90;refresher=uac"
    assert refresh.body.decode() == dialog.local_sdp
    peer.reply(
        refresh, 200, body=dialog.local_sdp.replace("20000", "40000"), headers=[("session-expires", "90;refresher=uac")]
    )
    await peer.get("ACK")
    control.none(wire.CallEnded)
    control.kill()
    control.start()
    await control.do(wire.RestoreDialog, dialog=replace(dialog, refreshed_at_ns=dialog.refreshed_at_ns - 123 * 10**9))
    assert (await control.event(wire.CallEnded)).reason == "session_expired"
    await peer.get("BYE")


def origin(description):
    return next(line for line in description.splitlines() if line.startswith(b"o=")).split()[1]


def version(description):
    return int(next(line for line in description.splitlines() if line.startswith(b"o=")).split()[2])
