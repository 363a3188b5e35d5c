"""URIs to targets with a DNS server of our own, and the fail-over that follows (RFC 3263)."""

import asyncio
import socket

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from shm import messages as wire
from workers.sip.calls import Calls
from workers.sip.resolver import Resolver, Target, Unresolvable
from workers.sip.uri import Uri


class DnsServer(asyncio.DatagramProtocol):
    """Answers from a zone {(name, type): [rdata, …]}; unknown names do not exist."""

    def __init__(self, zone):
        self.zone = zone
        self.asked = []
        self.is_silent = False

    def connection_made(self, transport):
        self.transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data, address):
        query = dns.message.from_wire(data)
        question = query.question[0]
        name, kind = question.name.to_text().rstrip("."), question.rdtype.name
        self.asked.append((name, kind))
        if self.is_silent:
            return
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.RA
        records = self.zone.get((name, kind))
        if records:
            reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, *records))
        elif not any(known == name for known, _kind in self.zone):
            reply.set_rcode(dns.rcode.NXDOMAIN)
        self.transport.sendto(reply.to_wire(), address)


@pytest.fixture
async def zone():
    return {
        ("example.test", "A"): ["10.0.0.9"],
        ("_sip._udp.example.test", "SRV"): ["20 0 5080 b.example.test.", "10 0 5070 a.example.test."],
        ("_sips._tcp.example.test", "SRV"): ["10 0 5071 a.example.test."],
        ("a.example.test", "A"): ["10.0.0.1"],
        ("a.example.test", "AAAA"): ["fd00::1"],
        ("b.example.test", "A"): ["10.0.0.2"],
        ("plain.test", "A"): ["10.0.0.5"],
        ("tcp.test", "A"): ["10.0.0.6"],
        ("_sip._tcp.tcp.test", "SRV"): ["1 1 5090 plain.test."],
    }


@pytest.fixture
async def server(zone):
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: DnsServer(zone), local_addr=("127.0.0.1", 0)
    )
    yield server
    transport.close()


@pytest.fixture
def hosts(tmp_path):
    file = tmp_path / "hosts"
    file.write_text("127.0.0.7 local.test alias  # a comment\n::1 local.test\n\nnonsense\n")
    return str(file)


@pytest.fixture
def resolver(server, hosts):
    return Resolver(has_ipv6=True, nameservers=["127.0.0.1"], port=server.port, hosts_file=hosts)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sip:x@10.1.1.1", Target("UDP", "10.1.1.1", 5060, "10.1.1.1")),
        ("sip:x@10.1.1.1:99;transport=tcp", Target("TCP", "10.1.1.1", 99, "10.1.1.1")),
        ("sips:x@[fd00::2]", Target("TLS", "fd00::2", 5061, "fd00::2")),
        ("sip:x@example.test;maddr=10.1.1.3", Target("UDP", "10.1.1.3", 5060, "10.1.1.3")),
        ("sip:x@example.test", None),
    ],
)
def test_numeric_hosts_need_nobody(uri, expected):
    assert Resolver(has_ipv6=True).at_once(Uri.parse(uri)) == expected


@pytest.mark.parametrize("uri", ["tel:123", "sip:x@10.0.0.1;transport=sctp", "sip:x@10.0.0.1;transport=ws"])
def test_what_cannot_be_reached(uri):
    with pytest.raises(Unresolvable):
        Resolver(has_ipv6=True).at_once(Uri.parse(uri))


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("sip:x@example.test", ["UDP 10.0.0.1 5070", "UDP fd00::1 5070", "UDP 10.0.0.2 5080"]),
        ("sips:x@example.test", ["TLS 10.0.0.1 5071", "TLS fd00::1 5071"]),
        ("sip:x@example.test:5099", ["UDP 10.0.0.9 5099"]),
        ("sip:x@plain.test", ["UDP 10.0.0.5 5060"]),
        ("sip:x@plain.test;transport=tls", ["TLS 10.0.0.5 5061"]),
        ("sip:x@tcp.test", ["TCP 10.0.0.5 5090"]),
        ("sip:x@LOCAL.test", ["UDP 127.0.0.7 5060", "UDP ::1 5060"]),
        ("sip:x@alias", ["UDP 127.0.0.7 5060"]),
    ],
)
async def test_names(resolver, uri, expected):
    targets = await resolver.targets(Uri.parse(uri))
    assert [f"{t.transport} {t.host} {t.port}" for t in targets] == expected
    assert {t.name for t in targets} == {Uri.parse(uri).host.lower()}


async def test_answers_are_remembered_and_unknown_names_too(resolver, server):
    for _round in range(3):
        await resolver.targets(Uri.parse("sip:x@plain.test:1"))
        with pytest.raises(Unresolvable):
            await resolver.targets(Uri.parse("sip:x@unknown.test:1"))
    assert server.asked.count(("plain.test", "A")) == 1
    assert server.asked.count(("unknown.test", "A")) == 1


async def test_without_ipv6_nobody_is_asked_for_it(server, hosts):
    resolver = Resolver(has_ipv6=False, nameservers=["127.0.0.1"], port=server.port, hosts_file=hosts)
    assert [t.host for t in await resolver.targets(Uri.parse("sip:x@a.example.test:1"))] == ["10.0.0.1"]
    assert [t.host for t in await resolver.targets(Uri.parse("sip:x@local.test:1"))] == ["127.0.0.7"]
    assert not [kind for _name, kind in server.asked if kind == "AAAA"]


async def test_fail_over(resolver, zone, make):
    """First target: nobody listens. Second: 503. Third answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        dead = unused.getsockname()[1]
    busy, good = await make.Peer().open_udp(), await make.Peer().open_udp()
    for name in ("a", "b", "c"):
        zone[f"{name}.pool.test", "A"] = ["127.0.0.1"]
    ports = {"a": dead, "b": busy.port, "c": good.port}
    zone["_sip._udp.pool.test", "SRV"] = [
        f"{priority} 0 {port} {name}.pool.test." for priority, (name, port) in enumerate(ports.items())
    ]
    events = asyncio.Queue()
    listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listening.bind(("127.0.0.1", 0))
    start = wire.SipStart(stats_row=0, bind_ip="127.0.0.1", port=listening.getsockname()[1])
    calls = Calls(start, events.put_nowait, lambda _message: None, resolver)
    await calls.transports.listen([("UDP", listening)], None)
    await calls.transports.serve()
    replies = []
    calls.execute(wire.Dial(command_id=1, leg_id="leg", target="sip:x@pool.test", media=make.LOCAL), replies.append)
    assert replies == [wire.Done(command_id=1)]
    first = await busy.get("INVITE")
    busy.reply(first, 503, tag="x")
    await busy.get("ACK")
    second = await good.get("INVITE")
    assert second.call_id == first.call_id
    assert second.via.branch != first.via.branch
    good.reply(second, 200, tag="y", body=make.sdp())
    await good.get("ACK")
    async with asyncio.timeout(5):
        assert isinstance(await events.get(), wire.CallAnswered)
    calls.transports.close()
    listening.close()
    busy.close()
    good.close()


async def test_hung_up_while_the_name_is_looked_up(resolver, server, make):
    server.is_silent = True
    events, replies = [], []
    start = wire.SipStart(stats_row=0, bind_ip="127.0.0.1")
    calls = Calls(start, events.append, lambda _message: None, resolver)
    calls.execute(wire.Dial(command_id=1, leg_id="leg", target="sip:x@slow.test", media=make.LOCAL), replies.append)
    await asyncio.sleep(0)
    calls.execute(wire.Hangup(command_id=2, leg_id="leg"), replies.append)
    assert [type(reply) for reply in replies] == [wire.Done, wire.Done]
    assert not calls.legs
    assert not calls.is_busy
    assert not events
    calls.transports.close()
