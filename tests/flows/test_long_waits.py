"""What takes half a minute and more, all at once: the timers that end a call, or a request, whose other side says nothing.

All stories wait beside each other on one server; `scripts/check` lets the whole test wait beside the unit tests.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.flows.conftest import Phones
from tests.flows.tools.call import Call
from tests.flows.tools.events import Vsi
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server

pytestmark = pytest.mark.long

SIP_GIVES_UP_S = 32.0  # 64 * T1: Timers B and H, and the wait for an ACK
RTP_TIMEOUT_S = 30.0
SESSION_S = 90.0  # the shortest that RFC 4028 allows
SESSION_ENDS_S = SESSION_S + 32.0
BODY_WITHIN_S, HEAD_WITHIN_S = 30.0, 75.0
STORY_S = 140.0


class Stage:
    """One server, and what every story needs of it."""

    def __init__(self, server: Server, rest: Rest, vsi: Vsi, phones: Phones) -> None:
        self.server, self.rest, self.vsi, self.phones = server, rest, vsi, phones

    async def ringing(self, name: str, **options) -> tuple[str, Call]:
        """A phone calls; the leg is known by the caller's name."""
        phone = await self.phones.new(name)
        call = await phone.dial(self.server.uri(), **options)
        return (await self.vsi.wait("leg.ringing", **{"from": name}))["leg_id"], call

    async def answered(self, name: str, **options) -> tuple[str, Call]:
        leg_id, call = await self.ringing(name, **options)
        await self.rest.post(f"/legs/{leg_id}/answer", expect=202)
        await call.answered()
        await self.vsi.wait("leg.connected", leg_id=leg_id)
        return leg_id, call

    async def hangs_up(self, leg_id: str, call: Call) -> None:
        assert (await call.hang_up()).status == 200
        await self.vsi.wait("leg.disconnected", leg_id=leg_id)

    async def ends(self, leg_id: str, reason: str, *, after_s: float) -> None:
        """The leg ends for that reason, so long from now."""
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        ended = await self.vsi.wait("leg.disconnected", leg_id=leg_id, within_s=STORY_S)
        assert ended["cdr"]["reason"] == reason
        assert after_s - 2 < loop.time() - began_s < after_s + 5


async def a_phone_falls_silent(stage: Stage) -> None:
    leg_id, call = await stage.answered("silent")
    call.media.paused = True
    await stage.ends(leg_id, "rtp_timeout", after_s=RTP_TIMEOUT_S)
    await call.request("BYE")


async def a_held_phone_may_be_silent(stage: Stage) -> None:
    leg_id, call = await stage.answered("held")
    await stage.rest.post(f"/legs/{leg_id}/hold", expect=202)
    await stage.vsi.wait("leg.hold", leg_id=leg_id)
    await asyncio.sleep(RTP_TIMEOUT_S + 5)
    assert (await stage.rest.leg(leg_id))["state"] == "held"
    await stage.rest.delete(f"/legs/{leg_id}/hold", expect=202)
    await stage.vsi.wait("leg.unhold", leg_id=leg_id)
    await stage.hangs_up(leg_id, call)


async def nobody_answers_an_invite(stage: Stage) -> None:
    phone = await stage.phones.new("deaf")
    phone.wire.outgoing = lambda _: []
    leg_id = await stage.rest.dial(phone.uri)
    await stage.ends(leg_id, "invite_failed", after_s=SIP_GIVES_UP_S)
    assert len(phone.received) == 7  # RFC 3261 section 17.1.1.2: at 0, 0.5, 1.5, 3.5, 7.5, 15.5 and 31.5 s
    assert {message.method for message in phone.received} == {"INVITE"}


async def an_answer_is_never_acknowledged(stage: Stage) -> None:
    leg_id, call = await stage.ringing("mute")
    call.phone.wire.outgoing = lambda data: [] if data.startswith(b"ACK") else [(0.0, data)]
    await stage.rest.post(f"/legs/{leg_id}/answer", expect=202)
    await stage.ends(leg_id, "connect_failed", after_s=SIP_GIVES_UP_S)
    failed = await stage.vsi.wait("leg.command_failed", leg_id=leg_id)
    assert failed["command"] == "answer"
    await call.request("BYE")


async def a_refusal_is_never_acknowledged(stage: Stage) -> None:
    """The leg is over at once; its refusal is repeated for 32 s and no longer."""
    leg_id, call = await stage.ringing("rude")
    call.phone.wire.outgoing = lambda data: [] if data.startswith(b"ACK") else [(0.0, data)]
    await stage.rest.delete(f"/legs/{leg_id}", {"reason": "busy"}, expect=202)
    await stage.vsi.wait("leg.disconnected", leg_id=leg_id)
    await asyncio.sleep(SIP_GIVES_UP_S + 2)
    refusals = call.phone.received.matching(lambda m: m.is_response("INVITE", 486))
    assert len(refusals) == 11  # at 0, 0.5, 1.5, 3.5 and every 4 s
    await asyncio.sleep(5)
    assert len(call.phone.received.matching(lambda m: m.is_response("INVITE", 486))) == len(refusals)


async def the_peer_forgets_to_refresh(stage: Stage) -> None:
    wish = [("Session-Expires", "90;refresher=uac"), ("Supported", "timer")]
    leg_id, call = await stage.answered("forgetful", headers=wish)
    await stage.ends(leg_id, "session_expired", after_s=SESSION_ENDS_S)
    await call.request("BYE")


async def we_refresh(stage: Stage) -> None:
    wish = [("Session-Expires", "90;refresher=uas"), ("Supported", "timer")]
    leg_id, call = await stage.answered("trusting", headers=wish)
    for number in (1, 2):
        await call.received.first(
            lambda m: m.method in ("INVITE", "UPDATE"), after=len(call.received), within_s=SESSION_S / 2 + 5
        )
        assert (await stage.rest.leg(leg_id))["state"] == "connected", f"after refresh {number}"
    await asyncio.sleep(SESSION_ENDS_S - SESSION_S)  # beyond the end of the first session
    await stage.hangs_up(leg_id, call)


async def a_request_never_becomes_whole(stage: Stage) -> None:
    """Not even a byte, half a head, half a body: each is cut off, and the body's sender is told."""
    line = b"POST /v1/rooms HTTP/1.1\r\nHost: x\r\n"
    begun = (b"", line, line + b"Content-Length: 100\r\n\r\n{")
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    ends = [await asyncio.open_connection("127.0.0.1", stage.server.http_port) for _ in begun]
    for data, (_, writer) in zip(begun, ends, strict=True):
        writer.write(data)
    assert (await ends[2][0].readline()).startswith(b"HTTP/1.1 408 ")
    assert BODY_WITHIN_S - 2 < loop.time() - began_s < BODY_WITHIN_S + 5
    for reader, writer in ends:
        await asyncio.wait_for(reader.read(), STORY_S)
        writer.close()
    assert loop.time() - began_s < HEAD_WITHIN_S + 10


STORIES: tuple[Callable[[Stage], Awaitable[None]], ...] = (
    a_request_never_becomes_whole,
    a_phone_falls_silent,
    a_held_phone_may_be_silent,
    nobody_answers_an_invite,
    an_answer_is_never_acknowledged,
    a_refusal_is_never_acknowledged,
    the_peer_forgets_to_refresh,
    we_refresh,
)


@pytest.fixture
async def stage(server: Server, phones: Phones) -> AsyncIterator[Stage]:
    async with Rest(server.base) as rest, Vsi(server.base) as vsi:
        yield Stage(server, rest, vsi, phones)


async def test_whoever_says_nothing_is_given_up_in_time(stage: Stage) -> None:
    outcomes = await asyncio.gather(*(story(stage) for story in STORIES), return_exceptions=True)
    failed = {story.__name__: outcome for story, outcome in zip(STORIES, outcomes, strict=True) if outcome is not None}
    assert not failed
    assert not (await stage.rest.get("/legs")).json
