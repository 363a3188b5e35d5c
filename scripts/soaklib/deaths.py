"""`kill -9` of one process chosen at random every few seconds, sometimes of two at once.

Runs in: scripts/soak.
Rules:
 1. Only processes below the server's own master, by pid, and never the master.
 2. No name dies three times within RECENT_S: the third death of a room's worker rightly ends the room, and any process that
    keeps dying is restarted with a pause.
"""

import asyncio
import random
import time

import psutil

from soaklib.model import Model
from tests.flows.tools.server import Server

RECENT_S = 10.5
TWICE = 0.2  # the share of moments at which two die
KINDS = {"room": 4, "rooms": 2, "rtp": 3, "sip": 3, "stream": 3, "zygote": 2, "control": 3}  # how likely


class Deaths:
    def __init__(self, model: Model, server: Server, chance: random.Random, every_s: float) -> None:
        self.model, self.server, self.chance, self.every_s = model, server, chance, every_s

    async def strike(self) -> None:
        while True:
            await asyncio.sleep(self.chance.uniform(0.5, 1.5) * self.every_s)
            victims = self._choose(await asyncio.to_thread(self._living))
            for title, process in victims:
                self.model.deaths.append((time.monotonic(), title))
                self.model.count(f"killed {title.split()[1]}")
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue

    def _living(self) -> list[tuple[str, psutil.Process]]:
        found = []
        for process in self.server.processes():
            try:
                title = " ".join(process.cmdline()).strip()
            except psutil.NoSuchProcess:
                continue
            words = title.split()
            if words[:1] == ["roomtone:"] and len(words) > 1 and words[1] in KINDS:
                found.append((title, process))
        return found

    def _choose(self, living: list[tuple[str, psutil.Process]]) -> list[tuple[str, psutil.Process]]:
        recent = [title for at_s, title in self.model.deaths if at_s > time.monotonic() - RECENT_S]
        fit = sorted(((t, p) for t, p in living if recent.count(t) < 2), key=lambda pair: pair[0])
        chosen: list[tuple[str, psutil.Process]] = []
        for _ in range(2 if self.chance.random() < TWICE else 1):
            kinds = sorted({title.split()[1] for title, _ in fit})
            if not kinds:
                break
            kind = self.chance.choices(kinds, [KINDS[kind] for kind in kinds])[0]
            victim = self.chance.choice([pair for pair in fit if pair[0].split()[1] == kind])
            fit.remove(victim)
            chosen.append(victim)
        return chosen
