"""Who hears whom, all the time: each call hears every other voice of its room and none from elsewhere.

Runs in: scripts/soak.
Rules:
 1. A voice counts when nobody has changed its call for STEADY_S, and so does an ear.
 2. To miss a voice is a fault when it lasts: HEARS_WITHIN_S after one death, longer when several died together. The longest
    silence after each kind of death is kept for the report.
 3. A voice from elsewhere is looked for where nothing but voices is to be heard, without a gap: edges hold every frequency.
 4. Time in which this process itself stood still does not count.
"""

import asyncio
import time

from soaklib.model import Call, Model
from tests.flows.tools.recording import record
from tests.flows.tools.spectrum import HEARD_DB, level_db

EVERY_S = 0.2
STEADY_S = 1.2
LISTENED_S = 0.2
HEARS_WITHIN_S = 1.0
HEARS_WITHIN_AFTER_SEVERAL_S = 3.0
SEVERAL_S = 3.0  # deaths closer together than this count as several
LEAK_DB = -30.0  # a voice is at -18
SPEECH_S = 25.0  # the longest utterance, and the time until it begins when stream has just died
PACKETS_KEPT = 150
STALL_S = 0.15


class Ears:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.longest_s: dict[str, float] = {}  # kinds that died -> the longest silence that followed
        self.listened = 0
        self.stalled_s = 0.0

    async def listen(self) -> None:
        before_s = time.monotonic()
        while True:
            await asyncio.sleep(EVERY_S)
            now_s = time.monotonic()
            if (stall_s := now_s - before_s - EVERY_S) > STALL_S:
                self.stalled_s += stall_s
                for call in self.model.calls:
                    if call.unheard_since_s:
                        call.unheard_since_s += stall_s
            before_s = now_s
            for call in self.model.calls:
                if call.call is not None:
                    del call.call.media.packets[:-PACKETS_KEPT]
                if call.is_up and call.steady(STEADY_S):
                    self._judge(call, now_s)
                else:
                    call.unheard_since_s = 0.0
                await asyncio.sleep(0)  # the phones' packets come first

    def _judge(self, call: Call, now_s: float) -> None:
        """One ear at this moment."""
        others = self.model.members(call.room) if call.room is not None else []
        steady = [other for other in others if other is not call and other.steady(STEADY_S)]
        wanted = {other.tone_hz for other in steady if not (other.muted or other.held)}
        if call.deaf or call.held:
            wanted = set()
        media = call.call.media
        heard = record([p for p in media.packets if p.arrived_s > now_s - LISTENED_S - 0.05], media.decoders)
        self.listened += 1
        missing = {tone for tone in wanted if level_db(heard.audio, heard.rate_hz, tone) < HEARD_DB}
        is_dumb = not call.held and heard.audio.size == 0
        if missing or is_dumb:
            call.unheard_since_s = call.unheard_since_s or now_s
            self._complain(call, now_s, missing)
            return
        if call.unheard_since_s:
            self._note(call.unheard_since_s, now_s)
            call.unheard_since_s = 0.0
        if self._is_clean(call) and heard.present.all() and not self.model.died_since(now_s - STEADY_S):
            strangers = {c.tone_hz for c in self.model.calls if c.steady(STEADY_S)} - {c.tone_hz for c in others}
            for tone in strangers | {call.tone_hz}:
                if (db := level_db(heard.audio, heard.rate_hz, tone)) > LEAK_DB:
                    who = "itself" if tone == call.tone_hz else f"the {tone:g} Hz of elsewhere"
                    self.model.fault(f"{call.name} hears {who} at {db:.0f} dB")

    def _is_clean(self, call: Call) -> bool:
        """Nothing but phones is to be heard, and a file of one frequency."""
        since_s = time.monotonic() - SPEECH_S
        venues = [call] if call.room is None else [call, call.room]
        return all(venue.noisy_s < since_s and not venue.rings for venue in venues)

    def _deaths_before(self, since_s: float) -> list[str]:
        return [title for at_s, title in self.model.deaths if since_s - SEVERAL_S <= at_s]

    def _complain(self, call: Call, now_s: float, missing: set[float]) -> None:
        died = self._deaths_before(call.unheard_since_s)
        limit_s = HEARS_WITHIN_AFTER_SEVERAL_S if len(died) > 1 else HEARS_WITHIN_S
        lasted_s = now_s - call.unheard_since_s
        if lasted_s > limit_s:
            self._note(call.unheard_since_s, now_s)
            what = f"misses {', '.join(f'{tone:g} Hz' for tone in sorted(missing))}" if missing else "gets no packets"
            room = call.room.id if call.room else "no room"
            self.model.fault(
                f"{call.name} in {room} {what} for more than {limit_s:g} s; died: {', '.join(died) or 'nothing'}"
            )

    def _note(self, since_s: float, until_s: float) -> None:
        kinds = sorted({title.split()[1] for title in self._deaths_before(since_s)})
        name = " + ".join(kinds) or "nothing"
        self.longest_s[name] = max(self.longest_s.get(name, 0.0), until_s - since_s)
