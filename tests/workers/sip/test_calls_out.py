"""Calls we make: through the real process, with a scripted peer."""

import asyncio
import socket

import pytest

from shm import messages as wire

CHALLENGE = 'Digest realm="pbx", nonce="n1", algorithm={}, qop="auth"'


async def test_answered_and_hung_up_by_us(control, peer, scene, make):
    invite = await scene.dial(from_uri="4711", privacy="id", headers={"X-Trace": "7", "User-Agent": "mine"})
    assert invite.uri == f"sip:bob@127.0.0.1:{peer.port}"
    assert invite.get("from").startswith("<sip:4711@127.0.0.1>;tag=")
    assert invite.get("p-asserted-identity") == "sip:4711@127.0.0.1"
    assert (invite.get("privacy"), invite.get("x-trace"), invite.get("user-agent")) == ("id", "7", "mine")
    assert "UPDATE" in invite.get("allow")
    assert not invite.get("session-expires")
    assert b"m=audio 20000 RTP/AVP 0 8 9 101" in invite.body
    peer.reply(invite, 180, tag="bobs")
    peer.reply(invite, 200, tag="bobs", body=make.sdp(codecs="8 101"))
    ack = await peer.get("ACK")
    assert ack.uri == f"sip:bob@127.0.0.1:{peer.port}"
    assert ack.via.branch != invite.via.branch
    answered = await control.event(wire.CallAnswered)
    assert answered.media.send.name == "PCMA"
    assert control.last_dialogs["leg"].remote_tag == "bobs"
    await control.do(wire.Hangup, leg_id="leg")
    bye = await peer.get("BYE")
    assert (bye.cseq[0], bye.to_tag) == (2, "bobs")
    peer.reply(bye, 200)
    control.none(wire.CallEnded)


async def test_default_identity(scene):
    invite = await scene.dial()
    assert invite.get("from").startswith('"voiceblender" <sip:voiceblender@127.0.0.1>;tag=')
    assert not invite.get("p-asserted-identity")


async def test_hung_up_by_the_called(control, peer, scene):
    invite, _ok = await scene.answered_out()
    peer.send(peer.request_back(invite, "BYE", tag="bobs"))
    await peer.get((200, "BYE"))
    assert (await control.event(wire.CallEnded)).reason == "remote_bye"


async def test_early_media(control, peer, scene, make):
    invite = await scene.dial()
    peer.reply(invite, 183, tag="bobs", body=make.sdp(port=40004))
    early = await control.event(wire.EarlyMediaReceived)
    assert early.media.remote_port == 40004
    peer.reply(invite, 183, tag="bobs", body=make.sdp(port=40004))
    peer.reply(invite, 200, tag="bobs", body=make.sdp(port=40004))
    await control.event(wire.CallAnswered)
    control.none(wire.EarlyMediaReceived)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (302, "invite_failed"),
        (401, "unauthorized"),
        (403, "forbidden"),
        (404, "not_found"),
        (408, "timeout"),
        (480, "unavailable"),
        (486, "busy"),
        (488, "not_acceptable"),
        (500, "sip_500"),
        (503, "service_unavailable"),
        (603, "declined"),
    ],
)
async def test_refused(control, peer, scene, status, reason):
    invite = await scene.dial()
    response = peer.reply(invite, status, tag="bobs")
    ack = await peer.get("ACK")
    assert ack.via.branch == invite.via.branch
    assert (await control.event(wire.CallEnded)).reason == reason
    peer.send(response)
    await peer.get("ACK")


@pytest.mark.parametrize(("status", "algorithm"), [(401, "MD5"), (407, "SHA-256")])
async def test_challenged(control, peer, scene, status, algorithm):
    invite = await scene.dial(auth=wire.Credentials(username="u", password="p"))
    theirs, ours = (
        ("www-authenticate", "authorization") if status == 401 else ("proxy-authenticate", "proxy-authorization")
    )
    peer.reply(invite, status, tag="x", headers=[(theirs, CHALLENGE.format(algorithm))])
    await peer.get("ACK")
    second = await peer.get("INVITE")
    assert (second.call_id, second.from_tag, second.cseq[0]) == (invite.call_id, invite.from_tag, 2)
    assert 'username="u"' in second.get(ours)
    peer.reply(second, 200, tag="bobs", body=scene.sdp())
    assert (await peer.get("ACK")).cseq[0] == 2
    await control.event(wire.CallAnswered)
    # In the dialog too: a challenged BYE is given again.
    await control.do(wire.Hangup, leg_id="leg")
    bye = await peer.get("BYE")
    peer.reply(bye, status, headers=[(theirs, CHALLENGE.format(algorithm))])
    again = await peer.get("BYE")
    assert again.cseq[0] == bye.cseq[0] + 1
    assert again.get(ours)
    peer.reply(again, 200)


async def test_challenged_twice_is_unauthorized(control, peer, scene):
    invite = await scene.dial(auth=wire.Credentials(username="u", password="wrong"))
    for _round in range(2):
        peer.reply(invite, 401, tag="x", headers=[("www-authenticate", CHALLENGE.format("MD5"))])
        await peer.get("ACK")
        if _round == 0:
            invite = await peer.get("INVITE")
    assert (await control.event(wire.CallEnded)).reason == "unauthorized"


async def test_cancel_waits_for_a_provisional_response(control, peer, scene):
    invite = await scene.dial()
    await control.do(wire.Hangup, leg_id="leg")
    await asyncio.sleep(0.05)
    assert not [message for message in peer.seen if getattr(message, "method", "") == "CANCEL"]
    peer.reply(invite, 180, tag="bobs")
    cancel = await peer.get("CANCEL")
    assert cancel.via.branch == invite.via.branch
    peer.reply(cancel, 200)
    peer.reply(invite, 487, tag="bobs")
    await peer.get("ACK")
    control.none(wire.CallEnded)


async def test_a_2xx_that_crosses_the_cancel_is_acknowledged_and_ended(control, peer, scene, make):
    invite = await scene.dial()
    peer.reply(invite, 180, tag="bobs")
    await control.do(wire.Hangup, leg_id="leg")
    cancel = await peer.get("CANCEL")
    peer.reply(invite, 200, tag="bobs", body=make.sdp())
    peer.reply(cancel, 200)
    await peer.get("ACK")
    peer.reply(await peer.get("BYE"), 200)
    control.none(wire.CallAnswered)


async def test_forked_2xx(control, peer, scene, make):
    invite = await scene.dial()
    for tag in ("one", "two"):
        peer.reply(invite, 180, tag=tag)
    peer.reply(invite, 200, tag="two", body=make.sdp())
    assert (await peer.get("ACK")).to_tag == "two"
    await control.event(wire.CallAnswered)
    peer.reply(invite, 200, tag="one", body=make.sdp())
    assert (await peer.get("ACK")).to_tag == "one"
    bye = await peer.get("BYE")
    assert bye.to_tag == "one"
    peer.reply(bye, 200)
    # A repetition of either gets its ACK again, and no second BYE.
    peer.reply(invite, 200, tag="one", body=make.sdp())
    assert (await peer.get("ACK")).to_tag == "one"
    first = peer.reply(invite, 200, tag="two", body=make.sdp())
    assert (await peer.get("ACK")).to_tag == "two"
    assert first
    control.none(wire.CallEnded)
    assert len([m for m in peer.seen if getattr(m, "method", "") == "BYE"]) == 1


async def test_answered_without_usable_media(control, peer, scene, make):
    invite = await scene.dial()
    peer.reply(invite, 200, tag="bobs", body=make.sdp(codecs="97"))
    await peer.get("ACK")
    assert (await control.event(wire.CallEnded)).reason == "connect_failed"
    await peer.get("BYE")


async def test_every_first_transmission_lost(control, peer, scene, make):
    lost = set()

    def drop(message):
        fingerprint = message.encode()
        first = fingerprint not in lost
        lost.add(fingerprint)
        return first

    peer.drop = drop
    invite = await scene.dial()
    peer.reply(invite, 200, tag="bobs", body=make.sdp())
    await control.event(wire.CallAnswered)
    peer.reply(invite, 200, tag="bobs", body=make.sdp())
    await peer.get("ACK")
    await control.do(wire.Hangup, leg_id="leg")
    peer.reply(await peer.get("BYE"), 200)


async def test_nobody_there(control, peer):
    """ICMP unreachable ends the attempt at once, not after 32 s."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    await control.do(
        wire.Dial,
        leg_id="leg",
        target=f"sip:x@127.0.0.1:{port}",
        media=wire.LocalMedia(host="127.0.0.1", port=20000, codecs=("PCMU",)),
    )
    assert (await control.event(wire.CallEnded)).reason == "invite_failed"
    await control.do(
        wire.Dial,
        leg_id="leg",
        target=f"sip:x@127.0.0.1:{port};transport=tcp",
        media=wire.LocalMedia(host="127.0.0.1", port=20000, codecs=("PCMU",)),
    )
    assert (await control.event(wire.CallEnded)).reason == "invite_failed"


async def test_outbound_proxy_and_record_route(control, peer, scene, make):
    proxy = await make.Peer().open_udp()
    invite_task = asyncio.create_task(proxy.get("INVITE"))
    done = await control.do(
        wire.Dial,
        leg_id="leg",
        target="sip:bob@nowhere.invalid",
        media=make.LOCAL,
        outbound_proxy=f"sip:127.0.0.1:{proxy.port}",
    )
    assert isinstance(done, wire.Done)
    invite = await invite_task
    assert invite.uri == "sip:bob@nowhere.invalid"
    assert invite.get("route") == f"<sip:127.0.0.1:{proxy.port};lr>"
    invite.headers.insert(0, ("record-route", f"<sip:127.0.0.1:{proxy.port};lr>"))
    response = proxy.reply(invite, 200, tag="bobs", body=make.sdp(), headers=[])
    assert response.get("record-route")
    ack = await proxy.get("ACK")
    assert ack.get("route") == f"<sip:127.0.0.1:{proxy.port};lr>"
    proxy.close()


@pytest.mark.parametrize("target", ["nonsense", "sip:bob@[::1", "tel:123"])
async def test_a_target_that_cannot_be_dialled(control, peer, make, target):
    reply = await control.do(wire.Dial, leg_id="leg", target=target, media=make.LOCAL)
    if isinstance(reply, wire.Done):
        assert (await control.event(wire.CallEnded)).reason == "invite_failed"
    else:
        assert reply.blame == "caller"


async def test_header_injection_is_refused(control, peer, make):
    reply = await control.do(
        wire.Dial, leg_id="leg", target="sip:x@127.0.0.1:9", media=make.LOCAL, headers={"X-A": "1\r\nX-B: 2"}
    )
    assert reply.blame == "caller"


async def test_session_timer_when_the_leg_asks(control, peer, scene):
    headers = {"Session-Expires": "90", "Supported": "timer"}
    invite = await scene.dial(headers=headers)
    assert invite.get("session-expires") == "90"
    peer.reply(invite, 422, tag="x", headers=[("min-se", "200")])
    await peer.get("ACK")
    invite = await peer.get("INVITE")
    assert (invite.get("session-expires"), invite.get("min-se")) == ("200", "200")


@pytest.mark.parametrize("transport", ["TCP", "TLS"])
async def test_stream_transports(make, certificate, transport):
    control = make.Control(tls_cert=certificate[0], tls_key=certificate[1], tls_ca_file=certificate[0])
    control.bind(tcp=True, tls=True).start()
    arrived = asyncio.get_running_loop().create_future()

    def accept(reader, writer):
        peer = make.Peer()
        peer.transport = transport
        peer._attach(reader, writer)
        peer.port = port
        arrived.set_result(peer)

    tls = None
    if transport == "TLS":
        tls = make.ssl.SSLContext(make.ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(*certificate)
    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    target = f"sip:bob@127.0.0.1:{port};transport={transport.lower()}"
    await control.do(wire.Dial, leg_id="leg", target=target, media=make.LOCAL)
    async with asyncio.timeout(5):
        peer = await arrived
    invite = await peer.get("INVITE")
    assert invite.via.transport == transport
    assert f";transport={transport.lower()}>" in invite.get("contact")
    peer.reply(invite, 200, tag="bobs", body=make.sdp())
    await peer.get("ACK")
    await control.event(wire.CallAnswered)
    await control.do(wire.Hangup, leg_id="leg")
    peer.reply(await peer.get("BYE"), 200)
    peer.close()
    server.close()
    control.close()


async def test_a_certificate_for_another_name_is_refused(make, certificate):
    control = make.Control(tls_ca_file=certificate[0]).bind().start()
    tls = make.ssl.SSLContext(make.ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*certificate)
    server = await asyncio.start_server(lambda _reader, _writer: None, "127.0.0.2", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    await control.do(wire.Dial, leg_id="leg", target=f"sips:bob@127.0.0.2:{port}", media=make.LOCAL)
    assert (await control.event(wire.CallEnded)).reason == "invite_failed"
    server.close()
    control.close()


async def test_a_stale_nonce_is_answered_once_more(control, peer, scene):
    invite = await scene.dial(auth=wire.Credentials(username="u", password="p"))
    peer.reply(invite, 401, tag="x", headers=[("www-authenticate", CHALLENGE.format("MD5"))])
    second = await peer.get("INVITE")
    peer.reply(second, 401, tag="x", headers=[("www-authenticate", CHALLENGE.format("MD5") + ", stale=true")])
    third = await peer.get("INVITE")
    assert third.cseq[0] == 3
    peer.reply(third, 401, tag="x", headers=[("www-authenticate", CHALLENGE.format("MD5") + ", stale=true")])
    assert (await control.event(wire.CallEnded)).reason == "unauthorized"


async def test_source_socket_and_debug(make):
    """SIP_USE_SOURCE_SOCKET: a caller behind NAT is reached where its packets come from, whatever its Contact says."""
    control = make.Control(use_source_socket=True, debug=True).bind().start()
    peer = await make.Peer().open_udp()
    peer.remote = control.address
    scene = make.Scene(control, peer)
    _invite, _ok, leg_id = await scene.answered_in(headers=[("contact", "<sip:alice@192.0.2.1:5060>")])
    await control.do(wire.Hangup, leg_id=leg_id)
    bye = await peer.get("BYE")
    assert bye.uri == "sip:alice@192.0.2.1:5060"
    peer.reply(bye, 200)
    traced = [event for event in control.events if isinstance(event, wire.LogLine)]
    assert any(line.event == "sip sent" and "BYE sip:" in line.fields["message"] for line in traced)
    assert any(line.event == "sip received" and "INVITE sip:" in line.fields["message"] for line in traced)
    peer.close()
    control.close()
