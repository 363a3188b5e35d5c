"""A server of the test's own with many calls in rooms of three: what the tests that kill something work on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from tests.flows.tools.call import Call
from tests.flows.tools.events import Vsi
from tests.flows.tools.phone import Phone
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server
from tests.flows.tools.spectrum import longest_quiet_ms

TONES = (440.0, 660.0, 970.0)
CALLS = 60
MEASURED_S = 0.5


@dataclass
class House:
    """A server of the test's own with calls in rooms `room-0` … and the exchange that all calls go to."""

    server: Server
    rest: Rest
    vsi: Vsi
    exchange: Phone
    legs: list[str]
    calls: list[Call]

    def room_of(self, i: int) -> str:
        return f"room-{i // 3}"

    async def everyone_hears_the_others(self, *, within_s: float = 5.0) -> None:
        await asyncio.gather(
            *(
                call.media.settled({t for t in TONES if t != TONES[i % 3]}, not_={TONES[i % 3]}, within_s=within_s)
                for i, call in enumerate(self.calls)
                if call.live and not call._ended.done()
            )
        )

    async def kill(self, title: str, *, meanwhile: Awaitable[object] | None = None) -> float:
        """`kill -9` between two quiet stretches, in which these phones do nothing but talk; returns the moment.

        Looking for the process stalls this loop, and with it what the phones send: it is done well before.
        """
        victim = await asyncio.to_thread(self.server.only, title)
        await asyncio.sleep(MEASURED_S + 0.2)
        at_s = time.monotonic()
        victim.kill()
        if meanwhile is not None:
            await meanwhile
        await asyncio.sleep(at_s + MEASURED_S - time.monotonic())
        return at_s

    def gap_ms(self, at_s: float, *, among: Callable[[int], bool] = lambda _: True) -> float:
        """The longest silence that any phone heard in the half second after a moment, by RTP time and by arrival.

        Taken off is what the machine did to these phones: gaps of the half second before, and the worst delay with
        which any of them sent.
        """
        phones = [call for i, call in enumerate(self.calls) if among(i)]
        before, after = ((at_s - MEASURED_S, at_s), (at_s - 0.05, at_s + MEASURED_S))
        noise, gap = (max(quiet_ms(call, *span) for call in phones) for span in (before, after))
        stalls = [ms for call in self.calls for when_s, ms in call.media.stalls if at_s - 0.1 <= when_s <= after[1]]
        return gap - max(noise - 20, *stalls, 0)

    async def stop(self) -> None:
        """In a thread: the phones of this loop must go on answering."""
        await asyncio.to_thread(self.server.stop)

    async def still_works(self) -> None:
        """No call was lost, a new call joins and hears, and one hang-up is reported once."""
        assert not [c for c in self.calls if c._ended.done()]
        assert {leg["id"] for leg in (await self.rest.get("/legs")).json} >= set(self.legs)
        before = len(self.exchange.calls)
        leg_id = await self.rest.dial(self.exchange.uri, room_id=self.room_of(0))
        new = await self.exchange.called(after=before)
        await new.media.settled(set(TONES))
        await new.hang_up()
        gone = await self.vsi.wait("leg.disconnected", leg_id=leg_id)
        assert gone["cdr"]["reason"] == "remote_bye"


def quiet_ms(call: Call, since_s: float, until_s: float) -> float:
    heard = call.media.recorded(since_s=since_s, until_s=until_s)
    return max(longest_quiet_ms(heard), heard.longest_arrival_gap_ms)


def user_of(call: Call) -> str:
    """The user part that was dialled: a number for the calls of the house, `exchange` for silent listeners."""
    return call.invitation.uri.removeprefix("sip:").split("@")[0]


async def answering_again(rest: Rest, *, within_s: float = 5.0) -> float:
    """Wait for HTTP to answer; returns how long that took."""
    began_s = time.monotonic()
    while True:
        try:
            await rest.get("/rooms")
        except (OSError, TimeoutError, AssertionError):
            assert time.monotonic() < began_s + within_s, "no control answers"
            await asyncio.sleep(0.02)
        else:
            return time.monotonic() - began_s


async def until_gone(made: House, leg_id: str, *, within_s: float = 5.0) -> tuple:
    began_s = time.monotonic()
    while True:
        rooms, legs = await made.rest.everything()
        if leg_id not in [leg["id"] for leg in legs]:
            return rooms, legs
        assert time.monotonic() < began_s + within_s, "a call that ended meanwhile is still listed"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def building(own_server: Callable[..., Server]) -> AsyncIterator[Callable]:
    """Yields what starts a server and fills it: `await build(calls=6, ROOM_PLACEMENT="auto")`."""
    async with AsyncExitStack() as stack:

        async def build(*, calls: int = CALLS, **environment: str) -> House:
            server = own_server(**environment)
            rest = await stack.enter_async_context(Rest(server.base))
            vsi = await stack.enter_async_context(Vsi(server.base))
            exchange = await stack.enter_async_context(Phone("exchange"))

            async def pick_up(call: Call) -> None:
                user = user_of(call)
                call.media.say(tone_hz=TONES[int(user) % 3] if user.isdigit() else None, amplitude=6000.0)
                await call.answer()

            exchange.on_call = pick_up
            port = exchange.wire.port

            async def join(i: int) -> str:
                leg_id = await rest.dial(f"sip:{i}@127.0.0.1:{port}", room_id=f"room-{i // 3}")
                await vsi.wait("leg.joined_room", leg_id=leg_id, within_s=15)
                return leg_id

            legs = await asyncio.gather(*(join(i) for i in range(calls)))
            by_user = {user_of(call): call for call in exchange.calls}
            made = House(server, rest, vsi, exchange, list(legs), [by_user[str(i)] for i in range(calls)])
            await made.everyone_hears_the_others(within_s=15)
            return made

        yield build
