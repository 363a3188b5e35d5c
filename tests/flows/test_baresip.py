"""Calls with baresip, whose SIP, TLS, codecs and RTP share nothing with ours or with our test phone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.flows.conftest import Phones
from tests.flows.tools import baresip, certificates
from tests.flows.tools.certificates import Certificate
from tests.flows.tools.events import Vsi
from tests.flows.tools.ports import free_port
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server

pytestmark = pytest.mark.flow

KINDS = [("udp", "pcmu"), ("tcp", "g722"), ("tls", "pcma")]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificates.make(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def tls_server(certificate: Certificate) -> Iterator[Server]:
    server = Server(
        SIP_TLS_PORT=str(free_port()),
        SIP_TLS_CERT=str(certificate.certificate),
        SIP_TLS_KEY=str(certificate.key),
        SIP_TLS_CA_FILE=str(certificate.certificate),
    ).start()
    yield server
    assert not server.errors()
    server.stop()


@pytest.mark.parametrize(("transport", "codec"), KINDS)
async def test_baresip_is_called_held_and_hung_up(
    transport: str, codec: str, tls_server: Server, certificate: Certificate, phones: Phones
) -> None:
    async with (
        Rest(tls_server.base) as rest,
        Vsi(tls_server.base) as vsi,
        baresip.running(transport=transport, codec=codec, certificate=certificate) as peer,
    ):
        room_id = f"called by {transport}"
        _, phone = await phones.dialled(rest, name="phone", tone_hz=440, fields={"room_id": room_id})
        leg_id = await rest.dial(peer.uri, room_id=room_id)
        await vsi.wait("leg.connected", leg_id=leg_id)
        await phone.media.settled({440})
        await rest.post(f"/legs/{leg_id}/hold", expect=202)
        await vsi.wait("leg.hold", leg_id=leg_id)
        await phone.media.settled(not_={440})
        await rest.delete(f"/legs/{leg_id}/hold", expect=202)
        await vsi.wait(
            "leg.unhold", leg_id=leg_id
        )  # it answers `sendrecv`, but baresip 1.0 does not start to send again
        await rest.delete(f"/legs/{leg_id}", expect=202)
        gone = await vsi.wait("leg.disconnected", leg_id=leg_id)
        assert gone["quality"]["rtp_packets_received"] > 0
        await peer.says("session closed")


@pytest.mark.parametrize(("transport", "codec"), KINDS)
async def test_baresip_calls_joins_a_room_and_leaves(
    transport: str, codec: str, tls_server: Server, certificate: Certificate, phones: Phones
) -> None:
    port = tls_server.environment["SIP_TLS_PORT"] if transport == "tls" else tls_server.sip_port
    uri = f"sip:room@127.0.0.1:{port};transport={transport}"
    async with Rest(tls_server.base) as rest, Vsi(tls_server.base) as vsi:
        room_id = f"calls by {transport}"
        _, phone = await phones.dialled(rest, name="phone", tone_hz=440, fields={"room_id": room_id})
        before = len(vsi.events)
        async with baresip.running(transport=transport, codec=codec, certificate=certificate, dial=uri) as peer:
            leg_id = (await vsi.wait("leg.ringing", after=before, leg_type="sip_inbound"))["leg_id"]
            assert (await rest.join(room_id, leg_id))["status"] == "added"
            await phone.media.settled({440})
            await peer.leave()
            gone = await vsi.wait("leg.disconnected", leg_id=leg_id)
            assert gone["cdr"]["reason"] == "remote_bye"
