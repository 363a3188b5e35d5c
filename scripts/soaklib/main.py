"""One soak: options, order of events, progress, judgement.

Runs in: scripts/soak.
Rules:
 1. All chance comes from one seed, which is printed; what the machine does in between is not repeated by it.
 2. Exit status 1 when anything was found wrong; each fault is one line, with its moment.
 3. Whatever happens, the server is ended.
"""

import argparse
import asyncio
import io
import random
import sys
import tempfile
import time
import wave
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from soaklib import remains
from soaklib.asking import Asking, Lost
from soaklib.comings import Comings
from soaklib.deaths import Deaths
from soaklib.deeds import Deeds
from soaklib.ears import Ears
from soaklib.endings import Endings
from soaklib.model import Call, Model, Room
from soaklib.services import Services
from soaklib.truth import Truth
from tests.flows.tools.codecs import sine
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server
from tests.flows.tools.web import FileServer
from tests.flows.tools.webhooks import WebhookSink
from tests.vendors.pipecat import Pipecat

CALLS_A_ROOM = 3
DEEDS_AT_ONCE = 8
DEDICATED_ROOMS, SHARED_WORKERS = 4, 2
BOT_HZ, FILE_HZ, FILE_S = 380.0, 320.0, 2.0
QUIET_WITHIN_S = 45.0
ENDED_WITHIN_S = 20.0
EXPECTED_ERRORS = ("was sent SIGKILL",)


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="soak",
        description="Calls come and go, everything is done to them, processes are killed: nothing may go wrong.",
    )
    parser.add_argument("--calls", type=int, default=24, help="calls that are up on average (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="how long (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which chances; 0: others each time")
    parser.add_argument("--deeds", type=float, default=0.25, help="deeds per call and second (default %(default)s)")
    parser.add_argument(
        "--death-every", type=float, default=3.0, help="seconds between deaths, 0: none (default %(default)s)"
    )
    parser.add_argument("--log", type=Path, help="keep the server's log there")
    chosen = parser.parse_args(arguments)
    if not 3 <= chosen.calls <= 40 or chosen.seconds <= 0 or chosen.deeds <= 0 or chosen.death_every < 0:
        parser.error("3 to 40 calls, and positive numbers")
    chosen.seed = chosen.seed or random.randrange(1, 1_000_000)  # noqa: S311 - no secret
    return chosen


def sine_wav(tone_hz: float, seconds: float, rate_hz: int = 16000) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, rate_hz, 0, "NONE", ""))
        writer.writeframes(sine(tone_hz, rate_hz, round(seconds * rate_hz), amplitude=2000).tobytes())
    return file.getvalue()


class Soak:
    def __init__(self, chosen: argparse.Namespace, folder: Path) -> None:
        self.chosen, self.folder = chosen, folder
        self.chance = random.Random(chosen.seed)  # noqa: S311 - no secret
        self.model = Model()
        self.doing: set[asyncio.Task[None]] = set()
        self.holdings: list[str] = []

    async def run(self) -> None:
        async with AsyncExitStack() as stack:
            files = await stack.enter_async_context(FileServer())
            files.files["/a.wav"] = sine_wav(FILE_HZ, FILE_S)
            self.sink = await stack.enter_async_context(WebhookSink())
            self.bot = await stack.enter_async_context(Pipecat())
            self.bot.tone_hz = BOT_HZ
            self.server = Server(
                legs=200,
                WEBHOOK_URL=self.sink.url(),
                RECORDING_DIR=str(self.folder),
                ROOM_PLACEMENT="auto",
                ROOM_DEDICATED_MAX=str(DEDICATED_ROOMS),
                ROOM_SHARED_WORKERS=str(SHARED_WORKERS),
                RTP_WORKERS="2",
            )
            await asyncio.to_thread(self.server.start)
            stack.push_async_callback(self._end_server)
            rest = await stack.enter_async_context(Rest(self.server.base))
            self.asking = Asking(rest, self.model)
            self._people(files.url("/a.wav"))
            await self._warm_up()
            before = await asyncio.to_thread(remains.read, self.server, self.folder)
            await self._busy_time()
            await self._everything_ends()
            self.endings.judge()
            await self._nothing_is_left(before)
            self._judge_log()

    def _people(self, file_url: str) -> None:
        model, asking, server, chance = self.model, self.asking, self.server, self.chance
        bot_url = self.bot.url.replace("http", "ws") + "/bot"
        self.comings = Comings(model, asking, server, chance)
        self.deeds = Deeds(model, asking, chance)
        self.services = Services(model, asking, server, chance, file_url=file_url, bot_url=bot_url)
        self.ears, self.truth = Ears(model), Truth(model, asking)
        self.endings = Endings(model, self.sink)

    # --- what happens -----------------------------------------------------------------------------------------

    async def _warm_up(self) -> None:
        """Each kind of thing once, so that what is made once for all does not count as left behind."""
        for _ in range(SHARED_WORKERS):
            await self.comings.call()
        for call in self.model.calls:  # what runs on a leg alone is mixed by the shared workers, which then stay
            await self.services.speak(call)
            await self.services.play_this(call, {"url": self.services.file_url})
            await self.services.record(call)
        for kind in ("playback.started", "tts.started"):
            await self.sink.wait(kind, within_s=QUIET_WITHIN_S)
        await self.comings.make_room()
        room = self.model.rooms[0]
        await self.deeds.move(self.model.calls[0], room)
        await self.services.agent(room)
        await self.services.client(room)
        await self.comings.delete_room(room)
        for call in list(self.model.calls):
            await self.comings.hang_up(call)
        await self._until_quiet()

    async def _busy_time(self) -> None:
        deaths = Deaths(self.model, self.server, self.chance, self.chosen.death_every)
        watching = [asyncio.create_task(self.ears.listen()), asyncio.create_task(self.truth.watch())]
        if self.chosen.death_every:
            watching.append(asyncio.create_task(deaths.strike()))
        until_s = time.monotonic() + self.chosen.seconds
        pause_s = 1 / (self.chosen.deeds * self.chosen.calls)
        while time.monotonic() < until_s:
            await asyncio.sleep(self.chance.uniform(0.2, 1.8) * pause_s)
            if len(self.doing) < DEEDS_AT_ONCE:
                self._do(self._next_deed())
            self._progress(until_s)
            if failed := next((task for task in watching if task.done()), None):
                failed.result()
        if self.chosen.death_every:
            watching.pop().cancel()
        await asyncio.gather(*self.doing)
        await asyncio.sleep(3)  # the last deaths are healed, and that is judged too
        for task in watching:
            task.cancel()

    def _do(self, deed: Awaitable[None] | None) -> None:
        if deed is not None:
            task = asyncio.ensure_future(deed)
            self.doing.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.doing.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, Lost):
            self.model.fault(f"a deed ended with {error!r}")

    def _next_deed(self) -> Awaitable[None] | None:
        calls = [call for call in self.model.calls if call.is_up and call.steady(0)]
        rooms = [room for room in self.model.rooms if room.steady(0)]
        if len(rooms) < max(self.chosen.calls // CALLS_A_ROOM, 2):
            return self.comings.make_room()
        if len(self.model.calls) < self.chosen.calls * self.chance.uniform(0.8, 1.2):
            return self.comings.call()
        if not calls or not rooms:
            return None
        return self._deed_for(self.chance.choice(calls), self.chance.choice(rooms))

    def _deed_for(self, call: Call, room: Room) -> Awaitable[None]:
        venue = room if self.chance.random() < 0.7 else call
        deeds: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (8, lambda: self.comings.hang_up(call)),
            (1, lambda: self.comings.delete_room(room)),
            (12, lambda: self.deeds.move(call, room)),
            (3, lambda: self.deeds.remove(call)),
            (6, lambda: self.deeds.mute(call)),
            (5, lambda: self.deeds.deafen(call)),
            (5, lambda: self.deeds.hold(call)),
            (5, lambda: self.deeds.digits(call)),
            (6, lambda: self.services.play(venue)),
            (4, lambda: self.services.speak(venue)),
            (4, lambda: self.services.louder(venue)),
            (6, lambda: self.services.silence(venue)),
            (12, lambda: self.services.record(venue)),
            (4, lambda: self.services.agent(venue)),
            (5, lambda: self.services.client(room)),
        ]
        return self.chance.choices([deed for _, deed in deeds], [weight for weight, _ in deeds])[0]()

    # --- how it ends ------------------------------------------------------------------------------------------

    async def _everything_ends(self) -> None:
        self._say("hanging up")
        for room in list(self.model.rooms):
            await self.comings.delete_room(room)
        await asyncio.gather(*(self.comings.hang_up(call) for call in list(self.model.calls)))
        legs, rooms = await self.asking.read("/legs"), await self.asking.read("/rooms")
        for leg in legs.json:
            self.model.fault(f"left: leg {leg}")
        for room in rooms.json:
            self.model.fault(f"left: room {room}")
        deadline_s = time.monotonic() + ENDED_WITHIN_S
        while self.endings.open() and time.monotonic() < deadline_s:  # noqa: ASYNC110 - of foreign processes
            await asyncio.sleep(0.2)
        await self._until_quiet()

    async def _until_quiet(self) -> None:
        """Room workers leave ten seconds after the last participant, ports and rows rest for five."""
        deadline_s = time.monotonic() + QUIET_WITHIN_S
        while await asyncio.to_thread(self.server.titled, "roomtone: room "):
            if time.monotonic() > deadline_s:
                self.model.fault("room workers stay although there is no room")
                return
            await asyncio.sleep(0.5)  # polling foreign processes for their end

    async def _nothing_is_left(self, before: remains.Holding) -> None:
        self._say("looking for remains")
        deadline_s = time.monotonic() + QUIET_WITHIN_S
        while True:
            after = await asyncio.to_thread(remains.read, self.server, self.folder)
            left = remains.differences(before, after)
            if not left or time.monotonic() > deadline_s:
                break
            await asyncio.sleep(1)
        for line in left:
            self.model.fault(line)
        self.holdings = remains.table(before, after)

    def _judge_log(self) -> None:
        for line in self.server.errors():
            if not any(words in line for words in EXPECTED_ERRORS):
                self.model.fault(f"logged: {line}")

    async def _end_server(self) -> None:
        if self.chosen.log:
            self.chosen.log.write_text("\n".join(self.server.lines) + "\n")
        for call in self.model.calls:
            await call.phone.__aexit__()
        try:
            await asyncio.to_thread(self.server.stop)
        except AssertionError as failure:
            self.model.fault(f"the end: {failure}")
            with suppress(Exception):
                self.server.kill()

    # --- what is told -----------------------------------------------------------------------------------------

    def _progress(self, until_s: float) -> None:
        left_s = max(until_s - time.monotonic(), 0)
        up = sum(call.is_up for call in self.model.calls)
        self._say(
            f"{left_s:4.0f} s left, {up:2} calls up, {len(self.model.deaths)} deaths, {len(self.model.wrong)} faults"
        )

    def _say(self, text: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r\033[Ksoak: {text}")
            sys.stderr.flush()

    def report(self) -> str:
        model = self.model
        lines = [
            f"seed {self.chosen.seed}: " + ", ".join(f"{count} {deed}" for deed, count in sorted(model.counts.items())),
            f"compared {self.truth.compared} legs, listened {self.ears.listened} times",
            f"this process stood still for {self.ears.stalled_s:.1f} s",
            "longest silence after the death of "
            + ", ".join(f"{kinds}: {seconds:.1f} s" for kinds, seconds in sorted(self.ears.longest_s.items())),
        ]
        return "\n".join([*lines, *self.holdings, *model.wrong, f"{len(model.wrong)} faults"])


def run() -> int:
    chosen = options()
    print(f"soak: seed {chosen.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="roomtone-soak-") as folder:
        soak = Soak(chosen, Path(folder))
        try:
            asyncio.run(soak.run())
        except KeyboardInterrupt:
            return 130
    sys.stderr.write("\r\033[K" if sys.stderr.isatty() else "")
    print(soak.report())
    return 1 if soak.model.wrong else 0
