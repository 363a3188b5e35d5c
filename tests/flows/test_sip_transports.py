"""The same call over UDP, TCP, TLS and IPv6, both ways, and against SIPp as an independent stack."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.flows.conftest import Phones
from tests.flows.tools import certificates, sipp
from tests.flows.tools.certificates import Certificate
from tests.flows.tools.events import Vsi
from tests.flows.tools.ports import free_port
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server

pytestmark = pytest.mark.flow


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificates.make(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def wide_server(certificate: Certificate) -> Iterator[Server]:
    """One server with every transport and both address families."""
    server = Server(
        SIP_TLS_PORT=str(free_port()),
        SIP_TLS_CERT=str(certificate.certificate),
        SIP_TLS_KEY=str(certificate.key),
        SIP_TLS_CA_FILE=str(certificate.certificate),
        SIP_BIND_IPV6="::1",
    ).start()
    yield server
    assert not server.errors()
    server.stop()


def contexts(transport: str, certificate: Certificate) -> dict:
    if transport != "tls":
        return {}
    return {"server_tls": certificate.server_context(), "client_tls": certificate.client_context()}


def server_uri(server: Server, transport: str, host: str) -> str:
    port = server.environment["SIP_TLS_PORT"] if transport == "tls" else server.sip_port
    shown = f"[{host}]" if ":" in host else host
    return f"sip:room@{shown}:{port}" + ("" if transport == "udp" else f";transport={transport}")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
async def test_calls_both_ways(
    transport: str, host: str, wide_server: Server, certificate: Certificate, phones: Phones
) -> None:
    made = contexts(transport, certificate)
    async with Rest(wide_server.base) as rest, Vsi(wide_server.base) as vsi:
        alice = await phones.new("alice", transport=transport, host=host, tone_hz=440, **made)
        bob = await phones.new("bob", transport=transport, host=host, tone_hz=660, answering=True, **made)
        call = await alice.dial(server_uri(wide_server, transport, host))
        inbound = (await vsi.wait("leg.ringing"))["leg_id"]
        room_id = f"{transport} {host}"
        assert (await rest.join(room_id, inbound))["status"] == "added"
        await call.answered()
        outbound = await rest.dial(bob.uri, room_id=room_id)
        callee = await bob.called()
        await asyncio.gather(call.media.settled({660}), callee.media.settled({440}))
        assert (await call.reinvite(direction="sendonly")).status == 200
        await vsi.wait("leg.hold", leg_id=inbound)
        assert (await call.hang_up()).status == 200
        await rest.delete(f"/legs/{outbound}", expect=202)
        assert await callee.ended() == "bye"
        await vsi.wait("leg.disconnected", leg_id=outbound)


@pytest.mark.parametrize("transport", ["tcp", "tls"])
async def test_a_lost_connection_is_opened_anew(
    transport: str, wide_server: Server, certificate: Certificate, phones: Phones
) -> None:
    """The flow of the call is gone; a request of the server goes to the peer's Contact over a new one."""
    async with Rest(wide_server.base) as rest, Vsi(wide_server.base) as vsi:
        alice = await phones.new("alice", transport=transport, **contexts(transport, certificate))
        call = await alice.dial(server_uri(wide_server, transport, "127.0.0.1"))
        leg_id = (await vsi.wait("leg.ringing"))["leg_id"]
        await rest.post(f"/legs/{leg_id}/answer", expect=202)
        await call.answered()
        await vsi.wait("leg.connected", leg_id=leg_id)
        alice.wire.drop_connections()
        await rest.delete(f"/legs/{leg_id}", expect=202)
        assert await call.ended() == "bye"


async def test_a_foreign_certificate_is_not_trusted(wide_server: Server, phones: Phones, tmp_path: Path) -> None:
    foreign = certificates.make(tmp_path)
    async with Rest(wide_server.base) as rest, Vsi(wide_server.base) as vsi:
        bob = await phones.new("bob", transport="tls", answering=True, **contexts("tls", foreign))
        leg_id = await rest.dial(bob.uri)
        gone = await vsi.wait("leg.disconnected", leg_id=leg_id)
        assert gone["cdr"]["reason"] == "invite_failed"
        assert len(bob.received) == 0


async def test_messages_in_pieces_and_in_one_piece(server: Server, phones: Phones) -> None:
    """TCP keeps no boundaries: one request in single bytes, then two requests in one segment."""
    phone = await phones.new("slow", transport="tcp")
    first, second, third = (phone.new_request("OPTIONS", server.uri()) for _ in range(3))
    reader, writer = await asyncio.open_connection(*server.sip_address)
    for byte in first.encode():
        writer.write(bytes([byte]))
        await writer.drain()
    assert b"200" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
    writer.write(b"\r\n\r\n" + second.encode() + third.encode())
    answers = b""
    while answers.count(b"SIP/2.0 200") < 2:
        answers += await asyncio.wait_for(reader.read(4096), 5)
    writer.close()


@pytest.mark.parametrize("transport", ["u1", "t1"])
async def test_sipp_calls_holds_and_hangs_up(transport: str, server: Server, rest: Rest, vsi: Vsi) -> None:
    async with sipp.running("uac_hold", remote=server.sip_address, transport=transport, service="room"):
        leg_id = (await vsi.wait("leg.ringing"))["leg_id"]
        await rest.join("sipp", leg_id)
    gone = await vsi.wait("leg.disconnected", leg_id=leg_id)
    assert gone["cdr"]["reason"] == "remote_bye"
    assert vsi.of(leg_id=leg_id) == [
        "leg.ringing",
        "leg.connected",
        "leg.joined_room",
        "leg.hold",
        "leg.unhold",
        "leg.left_room",
        "leg.disconnected",
    ]


@pytest.mark.parametrize("transport", ["u1", "t1"])
async def test_sipp_gives_up(transport: str, server: Server, vsi: Vsi) -> None:
    async with sipp.running("uac_cancel", remote=server.sip_address, transport=transport):
        leg_id = (await vsi.wait("leg.ringing"))["leg_id"]
    assert (await vsi.wait("leg.disconnected", leg_id=leg_id))["cdr"]["reason"] == "caller_cancel"


@pytest.mark.parametrize("scenario", ["uas_answer", "uas_early_media"])
@pytest.mark.parametrize("transport", ["u1", "t1"])
async def test_sipp_is_called(scenario: str, transport: str, rest: Rest, vsi: Vsi) -> None:
    async with sipp.running(scenario, transport=transport) as peer:
        leg_id = await rest.dial(peer.uri + (";transport=tcp" if transport == "t1" else ""), room_id="sipp")
        await vsi.wait("leg.connected", leg_id=leg_id)
        if scenario == "uas_early_media":
            assert "leg.early_media" in vsi.of(leg_id=leg_id)
        await rest.delete(f"/legs/{leg_id}", expect=202)


async def test_a_taken_port_ends_the_start_with_one_line(own_server: Callable[..., Server], server: Server) -> None:
    with pytest.raises(AssertionError, match="did not start") as failure:
        own_server(SIP_PORT=str(server.sip_port))
    assert str(server.sip_port) in str(failure.value)
    assert "Traceback" not in str(failure.value)
