"""The hostile corpus against the real process: after each case a probe is answered and nothing was unhandled."""

import asyncio
import random
import tomllib
from pathlib import Path

from shm import messages as wire

CORPUS = Path(__file__).parents[2] / "data" / "sip"


async def test_corpus(control, peer, scene):
    index = tomllib.loads((CORPUS / "index.toml").read_text("utf-8"))
    assert index
    wrong = []
    for name, case in index.items():
        while not peer.inbox.empty():
            peer.inbox.get_nowait()
        peer.send_raw((CORPUS / f"{name}.bin").read_bytes(), control.address)
        options = peer.request("OPTIONS", control.uri)
        peer.send(options, control.address)
        answered, answers = None, []
        while answered is None:
            message = await peer.get_any()
            if message.call_id == options.call_id:
                answered = message
            else:
                answers.append(getattr(message, "status", 0))
        assert answered.status == 200, name
        expected = case.get("server", case["parse"])
        as_expected = expected == "accept" or (not answers if expected == "drop" else answers[-1:] in ([], [expected]))
        if not as_expected:
            wrong.append((name, expected, answers))
    assert not wrong
    control.events.clear()
    _invite, _ok, leg_id = await scene.answered_in()
    await control.do(wire.Hangup, leg_id=leg_id)
    peer.reply(await peer.get("BYE"), 200)


async def probe(control, peer):
    options = peer.request("OPTIONS", control.uri)
    peer.send(options, control.address)
    async with asyncio.timeout(10):
        while (await peer.get_any()).call_id != options.call_id:
            pass


async def test_mutations_of_good_messages(control, peer, make):
    """Bytes of real messages changed at random places, whole calls long."""
    rng = random.Random(7)
    for round_number in range(200):
        if round_number % 20 == 0:
            await probe(control, peer)
        data = bytearray(peer.request(rng.choice(["INVITE", "BYE", "ACK"]), control.uri, body=make.sdp()).encode())
        for _change in range(rng.randint(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        peer.send_raw(bytes(data), control.address)
    await probe(control, peer)


async def test_the_corpus_over_tcp_closes_that_connection_at_most(control, peer, make):
    for file in sorted(CORPUS.glob("*.bin")):
        stream = await make.Peer().open_stream(control.port)
        stream.send_raw(file.read_bytes())
        stream.close()
    peer.send(peer.request("OPTIONS", control.uri), control.address)
    await peer.get((200, "OPTIONS"))


async def test_vias_that_must_not_be_answered_as_they_say(control, peer):
    """Impossible and foreign return addresses: rport brings the answer here, whatever the Via claims."""
    for host in ("127.0.0.1:99999", "256.1.1.1", "[::1", "0.0.0.0", "255.255.255.255"):
        options = peer.request("OPTIONS", control.uri)
        options.set("via", f"SIP/2.0/UDP {host};branch=z9hG4bK{random.random()};rport")
        peer.send(options, control.address)
    peer.send(peer.request("OPTIONS", control.uri), control.address)
    await peer.get((200, "OPTIONS"))
