"""Phone against phone, and phone against SIPp: the tools must be right before they may judge a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.flows.tools import certificates, sipp
from tests.flows.tools.call import Call
from tests.flows.tools.digest import Challenge
from tests.flows.tools.phone import Phone
from tests.flows.tools.relay import Relay
from tests.flows.tools.sip import parse_sdp
from tests.flows.tools.spectrum import assert_hears, assert_silent
from tests.flows.tools.tamper import Lossy, drop_first

pytestmark = pytest.mark.flow


@asynccontextmanager
async def talking(**options) -> AsyncIterator[tuple[Call, Call]]:
    """A call between two phones of the given kind: (caller's side, callee's side)."""
    async with (
        Phone("alice", tone_hz=440, **options) as alice,
        Phone("bob", tone_hz=660, answering=True, **options) as bob,
    ):
        call = await alice.dial(bob.uri)
        await call.answered()
        yield call, await bob.called()


@pytest.mark.parametrize("codec", ["PCMU", "PCMA", "G722", "L16/8000", "L16/16000", "L16/48000"])
async def test_both_sides_hear_each_other(codec: str) -> None:
    async with talking(codecs=(codec,)) as (caller, callee):
        heard_there, heard_here = await asyncio.gather(callee.media.listen(0.5), caller.media.listen(0.5))
        assert_hears(heard_there, {440}, not_={660}, only=True)
        assert_hears(heard_here, {660}, not_={440}, only=True)
        assert heard_here.lost == 0
        assert (await caller.hang_up()).status == 200
        assert await callee.ended() == "bye"


@pytest.mark.parametrize("ptime_ms", [10, 30, 40, 60])
async def test_packetisation(ptime_ms: int) -> None:
    async with talking(ptime_ms=ptime_ms) as (caller, _):
        heard = await caller.media.listen(0.6)
        assert {len(p.payload) for p in heard.packets} == {8 * ptime_ms}
        assert_hears(heard, {660}, only=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
async def test_transports(transport: str, host: str, tmp_path: Path) -> None:
    contexts = {}
    if transport == "tls":
        made = certificates.make(tmp_path)
        contexts = {"server_tls": made.server_context(), "client_tls": made.client_context()}
    async with talking(transport=transport, host=host, **contexts) as (caller, callee):
        assert_hears(await callee.media.listen(0.3), {440})
        assert (await callee.hang_up()).status == 200
        assert await caller.ended() == "bye"


@pytest.mark.parametrize("status", [401, 407])
@pytest.mark.parametrize("algorithm", ["MD5", "SHA-256"])
async def test_an_unanswered_challenge_refuses_the_call(status: int, algorithm: str) -> None:
    challenge = Challenge("u", "secret", status=status, algorithm=algorithm)
    async with Phone("alice") as alice, Phone("bob", challenge=challenge, answering=True) as bob:
        call = await alice.dial(bob.uri)
        assert (await call.final()).status == status
        assert await call.ended() == str(status)
        assert len(bob.calls) == 0


async def test_early_media_then_answer() -> None:
    async with Phone("alice") as alice, Phone("bob", tone_hz=660) as bob:
        call = await alice.dial(bob.uri)
        callee = await bob.called()
        callee.ring()
        await call.response(180)
        callee.progress()
        await call.response(183)
        assert_hears(await call.media.listen(0.3), {660})
        await callee.answer()
        await call.answered()


async def test_refusal_and_cancel() -> None:
    async with Phone("alice") as alice, Phone("bob") as bob:
        call = await alice.dial(bob.uri)
        await (await bob.called()).reject(486)
        assert await call.ended() == "486"
        call = await alice.dial(bob.uri)
        callee = await bob.called(after=1)
        callee.ring()
        await call.response(180)
        assert (await call.cancel().final()).status == 200
        assert await callee.ended() == "cancel"
        assert (await call.final()).status == 487


async def test_offerless_invite() -> None:
    async with Phone("alice", tone_hz=440) as alice, Phone("bob", tone_hz=660, answering=True) as bob:
        call = await alice.dial(bob.uri, offer=False)
        await call.answered()
        callee = await bob.called()
        assert callee.invitation is not None
        assert callee.invitation.body == ""
        heard_there, heard_here = await asyncio.gather(callee.media.listen(0.3), call.media.listen(0.3))
        assert_hears(heard_there, {440})
        assert_hears(heard_here, {660})


async def test_hold_resume_move_and_codec_change() -> None:
    async with talking(codecs=("PCMU", "PCMA")) as (caller, callee):
        final = await caller.reinvite(direction="sendonly")
        assert parse_sdp(final.body).direction == "recvonly"
        assert callee.held
        assert callee.media.paused
        await caller.reinvite()
        caller.media.move()
        await caller.reinvite(codecs=("PCMA", "PCMU"))
        await caller.media.settled({660})
        heard = await caller.media.listen(0.3)
        assert {p.payload_type for p in heard.packets} == {8}
        callee.refusals["INVITE"] = 491
        assert (await caller.reinvite()).status == 491
        assert (await caller.send("UPDATE", body=caller.sdp(direction="inactive"))).status == 200
        assert callee.held


async def test_digits_and_silence() -> None:
    async with talking() as (caller, callee):
        callee.media.say()
        await caller.media.settled(not_={660})
        assert_silent(await caller.media.listen(0.2))
        await caller.media.dtmf("19*#")
        assert callee.media.digits == "19*#"


async def test_rtcp_reports_are_seen() -> None:
    async with talking(rtcp_interval_s=0.1) as (caller, _):
        reports, types = await caller.media.rtcp.first()
        assert types == [200, 202]
        assert reports[0].packets > 0


async def test_lost_messages_are_repeated() -> None:
    async with AsyncExitStack() as stack:
        bob = await stack.enter_async_context(Phone("bob", answering=True, t1_s=0.05))
        relay = await stack.enter_async_context(Relay(("127.0.0.1", bob.wire.port)))
        alice = await stack.enter_async_context(Phone("alice", next_hop=relay.front, contact=relay.back, t1_s=0.05))
        relay.phone = "127.0.0.1", alice.wire.port
        relay.to_server = drop_first(2, "INVITE", "ACK")
        relay.to_phone = drop_first(2, "SIP/2.0 200")
        call = await alice.dial(bob.uri)
        await call.answered()
        callee = await bob.called()
        await callee.answered()
        assert len(bob.calls) == 1
        relay.to_server = Lossy(1, drop=0.5)
        assert (await callee.hang_up(within_s=10)).status == 200
        assert await call.ended() == "bye"


async def test_relayed_audio_keeps_its_order_by_timestamp() -> None:
    lossy = Lossy(7, drop=0.1, duplicate=0.1, delay_ms=(0, 50))
    async with (
        Relay(to_phone=lossy) as relay,
        Phone("bob", tone_hz=660, answering=True) as bob,
        Phone("alice", relay=relay) as alice,
    ):
        call = await alice.dial(bob.uri)
        await call.answered()
        heard = await call.media.listen(1.0)
        assert 0 < heard.lost < 15
        assert_hears(heard, {660})


async def test_a_call_that_nobody_answers_says_what_was_seen() -> None:
    async with Phone("alice", t1_s=0.05) as alice, Phone("bob") as bob:
        call = await alice.dial(bob.uri)
        with pytest.raises(AssertionError, match="100 Trying"):
            await call.final(within_s=0.3)


async def test_sipp_calls_the_phone() -> None:
    async with Phone("bob", codecs=("PCMU", "PCMA"), answering=True) as bob:
        async with sipp.running("uac_hold", remote=("127.0.0.1", bob.wire.port)):
            call = await bob.called()
            await call.answered()
        assert await call.ended() == "bye"
        assert call.received.matching(lambda m: m.method == "INVITE" and parse_sdp(m.body).direction == "sendonly")


async def test_the_phone_calls_sipp() -> None:
    async with Phone("alice") as alice, sipp.running("uas_answer") as peer:
        call = await alice.dial(peer.uri)
        await call.answered()
        await call.response(180)
        assert (await call.hang_up()).status == 200


async def test_sipp_cancels() -> None:
    async with Phone("bob") as bob, sipp.running("uac_cancel", remote=("127.0.0.1", bob.wire.port)):
        assert await (await bob.called()).ended() == "cancel"
