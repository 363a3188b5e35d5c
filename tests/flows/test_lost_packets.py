"""A bad network between phone and server: SIP is repeated until it works, audio is placed, concealed and stays in time."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from tests.flows.conftest import Phones
from tests.flows.tools.events import Vsi
from tests.flows.tools.relay import Relay
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server
from tests.flows.tools.spectrum import assert_hears, level_db, longest_gap_ms
from tests.flows.tools.tamper import Lossy, drop_first

pytestmark = pytest.mark.flow


@pytest.fixture
async def relay(server: Server) -> AsyncIterator[Relay]:
    async with Relay(server.sip_address) as between:
        yield between


async def behind(relay: Relay, phones: Phones, name: str, **options):
    """A phone that the server knows by the relay's address only."""
    phone = await phones.new(name, next_hop=relay.front, contact=relay.back, **options)
    relay.phone = "127.0.0.1", phone.wire.port
    return phone


@pytest.mark.parametrize("lost", ["INVITE", "SIP/2.0 200", "ACK", "BYE"])
async def test_each_message_of_an_inbound_call_may_be_lost(
    lost: str, rest: Rest, vsi: Vsi, phones: Phones, relay: Relay
) -> None:
    phone = await behind(relay, phones, "alice")
    relay.to_server, relay.to_phone = drop_first(1, lost), drop_first(1, lost)
    call = await phone.dial(f"sip:room@127.0.0.1:{relay.server[1]}")
    leg_id = (await vsi.wait("leg.ringing"))["leg_id"]
    await rest.post(f"/legs/{leg_id}/answer", expect=202)
    await call.answered()
    await vsi.wait("leg.connected", leg_id=leg_id)
    await rest.delete(f"/legs/{leg_id}", expect=202)
    assert await call.ended() == "bye"
    assert vsi.of(leg_id=leg_id) == ["leg.ringing", "leg.connected", "leg.disconnected"]


@pytest.mark.parametrize("lost", ["INVITE", "SIP/2.0 100", "SIP/2.0 200", "ACK", "CANCEL"])
async def test_each_message_of_an_outbound_call_may_be_lost(
    lost: str, rest: Rest, vsi: Vsi, phones: Phones, relay: Relay
) -> None:
    phone = await behind(relay, phones, "bob")
    relay.to_server, relay.to_phone = drop_first(1, lost), drop_first(1, lost)
    leg_id = await rest.dial(phone.uri)
    call = await phone.called()
    if lost == "CANCEL":
        call.ring()
        await rest.delete(f"/legs/{leg_id}", expect=202)
        assert await call.ended() == "cancel"
        return
    await call.answer()
    await vsi.wait("leg.connected", leg_id=leg_id)
    assert (await call.hang_up()).status == 200
    await vsi.wait("leg.disconnected", leg_id=leg_id)
    assert len(phone.calls) == 1


async def test_unanswered_invites_are_repeated_at_doubling_intervals(rest: Rest, phones: Phones) -> None:
    """Timer A: 0.5, 1, 2 s after each other; nothing is repeated once a provisional response came."""
    phone = await phones.new("deaf")
    phone.wire.outgoing = lambda _: []
    arrivals: list[float] = []

    def note(data: bytes) -> list[tuple[float, bytes]]:
        if data.startswith(b"INVITE"):
            arrivals.append(asyncio.get_running_loop().time())
        return [(0.0, data)]

    phone.wire.incoming = note
    leg_id = await rest.dial(phone.uri)
    await phone.received.first(lambda _: len(arrivals) >= 4, within_s=6)
    intervals = [b - a for a, b in itertools.pairwise(arrivals)]
    assert intervals == [pytest.approx(t, abs=0.15) for t in (0.5, 1.0, 2.0)]
    phone.wire.outgoing = lambda data: [(0.0, data)]
    (await phone.called()).ring()
    await rest.delete(f"/legs/{leg_id}", expect=202)
    assert await (await phone.called()).ended(within_s=8) == "cancel"


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_calls_survive_a_third_of_all_messages_lost(
    seed: int, rest: Rest, vsi: Vsi, phones: Phones, relay: Relay
) -> None:
    phone = await behind(relay, phones, "bob", answering=True)
    fate = {"drop": 0.3, "duplicate": 0.2, "delay_ms": (0, 60)}
    relay.to_server, relay.to_phone = Lossy(seed, **fate), Lossy(seed + 100, **fate)
    leg_id = await rest.dial(phone.uri)
    await vsi.wait("leg.connected", leg_id=leg_id, within_s=20)
    await rest.delete(f"/legs/{leg_id}", expect=202)
    await vsi.wait("leg.disconnected", leg_id=leg_id)
    assert len(phone.calls) == 1


async def in_a_room_through(fate: Lossy, rest: Rest, phones: Phones, **options):
    """(near, far): far's audio passes a bad network on its way to the server."""
    between = Relay(to_server=fate)
    await phones._stack.enter_async_context(between)
    _, far = await phones.dialled(
        rest, name="far", tone_hz=440, amplitude=8000.0, relay=between, fields={"room_id": "bad"}, **options
    )
    _, near = await phones.dialled(rest, name="near", fields={"room_id": "bad"})
    await near.media.settled({440}, within_s=10)
    return near, far


async def test_reordered_and_doubled_audio_is_heard_without_a_hole(rest: Rest, phones: Phones) -> None:
    """Packets up to 30 ms late and some twice: after adapting, nothing is missing."""
    near, _ = await in_a_room_through(Lossy(5, duplicate=0.2, delay_ms=(0, 30)), rest, phones)
    await near.media.listen(2.0)
    heard = await near.media.listen(2.0)
    assert heard.lost == 0
    assert longest_gap_ms(heard, 440) <= 20
    assert_hears(heard, {440})


async def test_lost_audio_is_concealed(rest: Rest, phones: Phones) -> None:
    """5 % single losses: the tone goes on, and the leg's quality says what was lost."""
    near, far = await in_a_room_through(Lossy(6, drop=0.05), rest, phones)
    heard = await near.media.listen(3.0)
    assert longest_gap_ms(heard, 440) <= 45
    assert level_db(heard.audio, heard.rate_hz, 440) > -16
    assert far.media.sent_packets > 100


async def test_loss_is_counted_in_the_call_detail_record(rest: Rest, vsi: Vsi, phones: Phones) -> None:
    leg_id, call = await phones.dialled(rest, tone_hz=440)
    await call.media.listen(0.3)
    swallowed = []
    start = call.media.sequence + 5

    def lose(sequence: int) -> bool:
        if start <= sequence < start + 50 and sequence % 5 == 0:
            swallowed.append(sequence)
            return True
        return False

    call.media.lose = lose
    await call.media.listen(1.5)
    await call.hang_up()
    quality = (await vsi.wait("leg.disconnected", leg_id=leg_id))["quality"]
    assert swallowed
    assert quality["rtp_packets_lost"] == len(swallowed), f"{quality}, lost {swallowed}, sent {call.media.sent_packets}"
    assert abs(quality["rtp_packets_received"] + len(swallowed) - call.media.sent_packets) <= 2
    assert quality["mos_score"] < 4.4


@pytest.mark.parametrize("jump", [160 * 500, 2**31 + 7, -160 * 90])
async def test_a_jump_of_the_timestamp_is_followed(jump: int, rest: Rest, phones: Phones) -> None:
    """A phone that restarts its clock without a new SSRC: heard again within a few frames."""
    (_, talker), (_, ear) = await phones.meeting(rest, "jump", (440, 660))
    mark = len(ear.media.packets)
    talker.media.timestamp = (talker.media.timestamp + jump) & 0xFFFFFFFF
    await ear.media.listen(0.6)
    heard = ear.media.recorded(since_s=ear.media.packets[mark].arrived_s)
    assert longest_gap_ms(heard, 440) <= 120


async def test_a_new_ssrc_and_a_sequence_wrap_are_followed(rest: Rest, phones: Phones) -> None:
    (_, talker), (_, ear) = await phones.meeting(rest, "ssrc", (440, 660))
    mark = len(ear.media.packets)
    talker.media.sequence = 65530
    await ear.media.listen(0.3)
    talker.media.ssrc ^= 0x5A5A5A5A
    talker.media.timestamp, talker.media.sequence = 2**32 - 1000, 65530
    await ear.media.listen(0.6)
    heard = ear.media.recorded(since_s=ear.media.packets[mark].arrived_s)
    assert longest_gap_ms(heard, 440) <= 120


async def test_a_pause_in_sending_is_silence_and_ends_at_once(rest: Rest, vsi: Vsi, phones: Phones) -> None:
    """Discontinuous transmission: no packets while silent; speech after it is heard from its first frames on."""
    (_, talker), (_, ear) = await phones.meeting(rest, "dtx", (440, 660))
    talker.media.paused = True
    await ear.media.settled(not_={440})
    mark = len(ear.media.packets)
    talker.media.paused = False
    await ear.media.settled({440}, within_s=1)
    heard = ear.media.recorded(since_s=ear.media.packets[mark].arrived_s)
    assert longest_gap_ms(heard, 440) <= 200
    assert not vsi.all("leg.disconnected")
