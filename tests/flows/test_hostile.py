"""Hostile datagrams and streams: after each, a probe call succeeds, and nothing is logged as an error.

The datagrams are tests/data/sip/*.bin (RFC 4475 and worse); what depends on timing or on the transport is here.
The `server` fixture fails a test during which an error was logged.
"""

from __future__ import annotations

import asyncio
import random
import socket
import tomllib
from pathlib import Path

import pytest

from tests.flows.conftest import Phones
from tests.flows.tools.events import Vsi
from tests.flows.tools.phone import Phone
from tests.flows.tools.ports import free_port
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server
from tests.flows.tools.sip import token

pytestmark = pytest.mark.flow

LARGEST_DATAGRAM = 65507
CORPUS = sorted((Path(__file__).parents[1] / "data" / "sip").glob("*.bin"))


async def probe(server: Server, vsi: Vsi, rest: Rest, phone: Phone) -> None:
    """A call that rings and is refused."""
    after = len(vsi.events)
    call = await phone.dial(server.uri("probe"))
    event = await vsi.events.first(
        lambda e: e["type"] == "leg.ringing" and e.get("to") == "probe", after=after, named="ringing of the probe call"
    )
    await rest.delete(f"/legs/{event['leg_id']}", {"reason": "busy"}, expect=202)
    assert (await call.final()).status == 486


def attack() -> socket.socket:
    """A fresh address, so that whatever arrives at it answers what was sent from it."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    made.bind(("127.0.0.1", 0))
    return made


async def final_status(attacker: socket.socket) -> int:
    while True:
        answer = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(attacker, 65536), 2)
        if (status := int(answer.split(b" ", 2)[1])) >= 200:
            return status


async def forget(rest: Rest) -> None:
    """Some of the corpus are valid calls; nobody waits for them."""
    for leg in (await rest.get("/legs")).json:
        await rest.delete(f"/legs/{leg['id']}", expect=None)


async def test_the_corpus_by_udp(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    """Where the index names the server's final answer, it is that one."""
    assert len(CORPUS) > 50
    expected = tomllib.loads((CORPUS[0].parent / "index.toml").read_text())
    phone = await phones.new("prober")
    wrong = []
    for path in CORPUS:
        data = path.read_bytes()
        if len(data) > LARGEST_DATAGRAM:
            continue
        try:
            with attack() as attacker:
                attacker.sendto(data, server.sip_address)
                wanted = expected[path.stem].get("server", "unsettled")
                if isinstance(wanted, int) and (status := await final_status(attacker)) != wanted:
                    wrong.append(f"{path.name}: {status} instead of {wanted}")
            await probe(server, vsi, rest, phone)
        except (AssertionError, TimeoutError) as failure:
            failure.add_note(f"after {path.name}")
            raise
        await forget(rest)
    assert not wrong, "\n".join(wrong)


async def test_the_corpus_by_tcp(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    phone = await phones.new("prober", transport="udp")
    for path in CORPUS:
        _, writer = await asyncio.open_connection(*server.sip_address)
        writer.write(path.read_bytes())
        writer.write_eof()
        try:
            await probe(server, vsi, rest, phone)
        except (AssertionError, TimeoutError) as failure:
            failure.add_note(f"after {path.name}")
            raise
        writer.close()
        await forget(rest)


async def test_random_bytes_and_broken_copies(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    """Noise, and an INVITE with bytes flipped, cut off and doubled, by a fixed seed."""
    phone = await phones.new("prober")
    chance = random.Random(7)
    invite = phone.new_request("INVITE", server.uri("broken")).encode()
    attacker = attack()
    for round_ in range(10):
        for _ in range(30):
            data = bytearray(invite)
            for _ in range(chance.randrange(1, 12)):
                data[chance.randrange(len(data))] = chance.randrange(256)
            attacker.sendto(bytes(data[: chance.randrange(1, len(data) + 1)]), server.sip_address)
            attacker.sendto(chance.randbytes(chance.randrange(0, 600)), server.sip_address)
        try:
            await probe(server, vsi, rest, phone)
        except AssertionError as failure:
            failure.add_note(f"in round {round_}")
            raise
        await forget(rest)


@pytest.mark.parametrize(
    "via", ["127.0.0.1:99999", "127.0.0.1:0", "0.0.0.0:5060", "[::1]:5060", "256.1.1.1", "x.invalid"]
)
async def test_answers_that_lead_nowhere(via: str, server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    """A Via whose port or host is impossible, without rport: the answer may be lost, the server not."""
    phone = await phones.new("prober")
    request = phone.new_request("OPTIONS", server.uri())
    request.headers = [
        (k, f"SIP/2.0/UDP {via};branch=z9hG4bK{token()}" if k == "Via" else v) for k, v in request.headers
    ]
    phone.wire.send(request.encode(), server.sip_address)
    await probe(server, vsi, rest, phone)


@pytest.mark.parametrize("target", ["sip:x@127.0.0.1:99999", "sip:x@0.0.0.0", "tel:123", "sip:x@[::ffff:1.2.3.4"])
async def test_contacts_that_lead_nowhere(target: str, server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    """A call whose Contact is useless may be refused or accepted; hanging it up must work either way."""
    phone = await phones.new("prober")
    request = phone.new_request("INVITE", server.uri("odd"), headers=[("Content-Type", "application/sdp")])
    request.headers = [(k, f"<{target}>" if k == "Contact" else v) for k, v in request.headers]
    request.body = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\n"
    transaction = phone.transact(request, server.sip_address)
    await transaction.responses.first()
    for leg in (await rest.get("/legs")).json:
        await rest.post(f"/legs/{leg['id']}/answer", expect=None)
        await rest.delete(f"/legs/{leg['id']}", expect=None)
    await transaction.final()
    await probe(server, vsi, rest, phone)


async def test_a_stream_that_never_ends_a_message(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    phone = await phones.new("prober")
    reader, writer = await asyncio.open_connection(*server.sip_address)
    try:
        for _ in range(40):
            writer.write(b"X-Filler: " + b"a" * 4000 + b"\r\n")
            await writer.drain()
    except ConnectionError:
        pass  # cut off beyond the limit of a message
    assert await asyncio.wait_for(ended(reader), 5), "the connection was not closed"
    writer.close()
    await probe(server, vsi, rest, phone)


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        while await reader.read(4096):
            pass
    except ConnectionError:
        return True
    return True


async def test_a_registration_scan_costs_no_leg(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    phone = await phones.new("scanner")
    for i in range(30):
        answer = await phone.request("REGISTER", f"sip:127.0.0.1:{server.sip_port}", headers=[("Expires", str(i))])
        assert 400 <= answer.status < 700
    assert await rest.everything() == ([], [])
    assert len(vsi.events) == 0
    await probe(server, vsi, rest, phone)


async def test_a_flood_of_calls_from_a_gone_port(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    """Callers that vanish: every answer meets an ICMP unreachable."""
    phone = await phones.new("prober")
    gone = free_port()
    for i in range(30):
        request = phone.new_request("OPTIONS", server.uri(str(i)))
        request.headers = [
            (k, f"SIP/2.0/UDP 127.0.0.1:{gone};branch=z9hG4bK{token()}" if k == "Via" else v)
            for k, v in request.headers
        ]
        phone.wire.send(request.encode(), server.sip_address)
    await probe(server, vsi, rest, phone)


async def test_an_answer_with_an_impossible_media_port(rest: Rest, vsi: Vsi, phones: Phones) -> None:
    phone = await phones.new("odd")
    for change in ("m=audio 99999 ", "m=audio 0 ", "m=audio -1 "):
        before = len(phone.calls)
        leg_id = await rest.dial(phone.uri)
        call = await phone.called(after=before)
        body = call.sdp_answer(call.invitation.body)
        body = change.join((body.split("m=audio ")[0], body.split("m=audio ")[1].split(" ", 1)[1]))
        await call.answer(body=body)
        gone = await vsi.wait("leg.disconnected", leg_id=leg_id)
        assert gone["cdr"]["reason"] == "connect_failed"
        assert await call.ended() == "bye"
