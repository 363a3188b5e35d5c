"""Packets of strangers on a call's port: never heard, never sent to, never fatal."""

from __future__ import annotations

import random
import re
import socket
import struct

import pytest

from tests.flows.conftest import Phones
from tests.flows.tools import rtp
from tests.flows.tools.codecs import CODECS, sine
from tests.flows.tools.events import Vsi
from tests.flows.tools.ports import free_port
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server
from tests.flows.tools.spectrum import assert_hears

pytestmark = pytest.mark.flow


def stranger() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.1", 0))
    made.setblocking(False)
    return made


async def test_a_strangers_audio_is_neither_heard_nor_answered(rest: Rest, phones: Phones) -> None:
    (_, victim), (_, ear) = await phones.meeting(rest, "bleed", (440, 660))
    encode = CODECS["PCMU"].encoder()
    with stranger() as intruder:
        for i in range(50):
            tone = encode(sine(1000, 8000, 160, start=160 * i, amplitude=12000))
            for ssrc in (99, victim.media.ssrc):
                packet = rtp.build(0, victim.media.sequence + i, victim.media.timestamp + 160 * i, ssrc, tone)
                intruder.sendto(packet, victim.media.remote)
            heard = await ear.media.listen(0.02)
        heard = await ear.media.listen(0.4)
        assert_hears(heard, {440}, not_={1000})
        assert_hears(await victim.media.listen(0.3), {660})
        with pytest.raises(BlockingIOError):
            intruder.recv(2048)


async def test_garbage_on_the_port_hurts_nobody(rest: Rest, phones: Phones) -> None:
    """From strangers and from the peer's own address: short, huge, wrong version, lying lengths, random."""
    (_, victim), (_, ear) = await phones.meeting(rest, "garbage", (440, 660))
    chance = random.Random(4)
    ssrc = victim.media.ssrc
    corpus = [
        b"",
        b"\x80",
        b"\x80" * 11,
        b"\x00" * 172,
        b"\xff" * 1400,
        b"\x80\x00" + bytes(4000),
        struct.pack("!BBHII", 0x8F, 0, 1, 1, ssrc),  # 15 contributing sources that are not there
        struct.pack("!BBHII", 0x90, 0, 1, 1, ssrc) + b"\xbe\xde\xff\xff",  # an extension longer than the packet
        struct.pack("!BBHII", 0xA0, 0, 1, 1, ssrc) + b"\xff",  # padding longer than the packet
        struct.pack("!BBHII", 0x80, 0, 1, 1, ssrc),  # no payload
        struct.pack("!BBHII", 0x80, 77, 1, 1, ssrc) + bytes(160),  # an unknown payload type
        struct.pack("!BBHII", 0x80, 101, 1, 1, ssrc) + b"\x01",  # half a digit
        struct.pack("!BBHII", 0x80, 101, 1, 1, ssrc) + b"\xff\x8a\xff\xff",  # a digit that does not exist
        struct.pack("!BBHI", 0x81, 200, 6, 1),  # a sender report cut short
        struct.pack("!BBHI", 0xBF, 201, 0xFFFF, 1),  # a receiver report with a lying length
        *(chance.randbytes(chance.randrange(1, 1500)) for _ in range(100)),
        *(b"\x80" + chance.randbytes(chance.randrange(11, 200)) for _ in range(100)),
    ]
    with stranger() as intruder:
        for data in corpus:
            intruder.sendto(data, victim.media.remote)
            victim.media.send_bytes(data)
    victim.media.timestamp += 160 * 20
    await ear.media.settled({440})
    await victim.media.settled({660})
    assert_hears(await ear.media.listen(0.3), {440})


async def test_a_closed_phone_port_does_not_end_the_leg(rest: Rest, phones: Phones) -> None:
    """ICMP port unreachable for every packet the server sends; when the phone is back, so is its audio."""
    (leg_id, victim), (_, ear) = await phones.meeting(rest, "icmp", (440, 660))
    port = victim.media.port
    victim.media._shut()
    await ear.media.listen(0.5)
    assert (await rest.leg(leg_id))["state"] == "connected"
    victim.media._open(port)
    await ear.media.settled({440}, within_s=5)
    await victim.media.settled({660}, within_s=5)


async def test_a_phone_behind_nat_is_found_by_its_packets(server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
    """Its SDP names an address that is not its own; audio goes to where its packets come from."""
    _, bob = await phones.dialled(rest, name="bob", tone_hz=660, fields={"room_id": "nat"})
    alice = await phones.new("alice", tone_hz=440)
    nowhere = f"m=audio {free_port()} "
    call = await alice.dial(server.uri(), offer=lambda sdp: re.sub(r"m=audio \d+ ", nowhere, sdp))
    leg_id = (await vsi.wait("leg.ringing", leg_type="sip_inbound"))["leg_id"]
    await rest.join("nat", leg_id)
    await call.answered()
    await call.media.settled({660})
    await bob.media.settled({440})


async def test_strict_latching_ignores_a_second_source_and_follows_a_lasting_move(rest: Rest, phones: Phones) -> None:
    """design.md §4: after 1 s without packets the source is learned anew."""
    (_, roamer), (_, ear) = await phones.meeting(rest, "latch", (440, 660))
    roamer.media.paused = True
    await ear.media.listen(1.3)
    roamer.media.move()
    roamer.media.paused = False
    await ear.media.settled({440}, within_s=5)
    await roamer.media.settled({660}, within_s=5)
