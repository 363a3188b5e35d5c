"""All living legs: how they are kept, timed and ended.

Runs in: control.
Owns: the registry of legs, their deadlines, the one way a leg ends, tasks that run on behind a reply.

Rules
1. `end` is the only way out and happens without waiting: services, room, then `leg.disconnected`, once, whatever races.
   Only that last event waits, FAREWELL_LIMIT_S at most, for a recording of the leg to be finished, and for the farewell of its
   room (events.md 2.6).
2. A leg we hang up ourselves is kept in `leaving` until sip has confirmed, so that a sip process restarted in between
   still learns the dialog it must say BYE in.

Not here: requests -> `dialling.py`, `answering.py`, `control.py`; what sip and rtp report -> `signals.py`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any, Protocol

import msgspec
import structlog

from app.config import Config
from app.events.bus import Bus
from app.events.webhooks import Webhooks
from app.ledger import Ledger
from app.legs.leg import Leg, LegFacts
from app.legs.paths import Paths
from app.legs.quality import quality_report
from app.legs.rows import Rows
from app.metrics import Metrics
from app.supervisor import Supervisor
from shm.bank import Bank
from shm.clock import monotonic_ns
from shm.errors import CallerError, RoomtoneError
from shm.messages import Command, Dialog, Hangup, Reject, Row

log = structlog.get_logger("legs")
BUILT_CODECS = ("PCMU", "PCMA", "G722", "L16")
DECLINED, UNAVAILABLE = 603, 503
FAREWELL_LIMIT_S = 15.0
FAREWELL_SETTLE_S = 2.0  # what a predecessor waited for comes soon after the workers are met


class Rooming(Protocol):
    """What legs need of the rooms above them (`app/rooms/`)."""

    def provide(self, room_id: str, app_id: str) -> None: ...  # create the room if there is none
    def seat(self, room_id: str) -> tuple[int, int | None]: ...  # rate in Hz and phase, as far as known
    async def join_wished(self, leg: Leg) -> None: ...
    async def refresh(self, leg: Leg) -> None: ...  # muted or deaf has changed
    def leave(self, leg: Leg) -> Awaitable[object] | None: ...  # the leg ends; what its last event has to wait for
    def relocated(self, leg: Leg) -> None: ...  # in no room, and on another row now
    def neighbours(self, leg: Leg) -> Iterable[Leg]: ...


class Legs:
    rooms: Rooming  # set by the rooms, which are built on the legs

    def __init__(
        self,
        *,
        config: Config,
        ledger: Ledger,
        bus: Bus,
        webhooks: Webhooks,
        supervisor: Supervisor,
        metrics: Metrics,
        banks: Mapping[int, Bank],
        clock: Callable[[], int] = monotonic_ns,
    ) -> None:
        self.config = config
        self.ledger = ledger
        self.bus = bus
        self.webhooks = webhooks
        self.supervisor = supervisor
        self.metrics = metrics
        self.clock = clock
        self.paths = Paths(config, supervisor, Rows(banks))
        self.codecs = tuple(name for name in config.sip_codecs if name in BUILT_CODECS) or BUILT_CODECS[:3]
        self.leaving: dict[str, Leg] = {}
        self._banks = banks
        self._legs: dict[str, Leg] = {}
        self._parting: dict[str, Leg] = {}  # over, but for the last event
        self._tasks: set[asyncio.Task[Any]] = set()

    def __iter__(self) -> Iterator[Leg]:
        return iter(self._legs.values())

    def __len__(self) -> int:
        return len(self._legs)

    def find(self, leg_id: str) -> Leg | None:
        return self._legs.get(leg_id)

    def get(self, leg_id: str) -> Leg:
        """Raises CallerError 404."""
        leg = self._legs.get(leg_id)
        if leg is None:
            raise CallerError("leg not found", 404)
        return leg

    @property
    def is_full(self) -> bool:
        return len(self._legs) >= self.paths.capacity

    def add(self, leg: Leg) -> None:
        """The leg exists from now on, ringing."""
        self._legs[leg.facts.id] = leg
        self.save(leg)
        self.arm(leg)
        self.metrics.leg_reached(leg.facts.type, leg.facts.state)

    def save(self, leg: Leg) -> None:
        if not leg.is_over:
            self.ledger.put("leg", leg.facts.id, leg.facts)

    def save_dialog(self, leg: Leg, dialog: Dialog) -> None:
        """Sip's latest word: only the ledger has it when sip and control die together. A password is not for the disk."""
        leg.dialog = dialog
        self.ledger.put("dialog", leg.facts.id, msgspec.structs.replace(dialog, auth=None))

    def publish(self, leg: Leg, event_type: str, *, with_room: bool = False, **fields: Any) -> None:
        facts = leg.facts
        room_id = facts.room_id if with_room else ""
        self.bus.publish(event_type, leg_id=facts.id, room_id=room_id, app_id=facts.app_id, **fields)

    def command_failed(self, leg: Leg, command: str, error: object) -> None:
        if not leg.is_over:
            self.publish(leg, "leg.command_failed", command=command, error=str(error))

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run on behind the reply."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)  # the loop itself holds tasks weakly
        task.add_done_callback(self._tasks.discard)
        return task

    # ---------------------------------------------------------------------------------------- deadlines

    def set_deadline(self, leg: Leg, reason: str, seconds: float) -> None:
        """End the leg with `reason` then, unless `clear_deadline` comes first. The caller saves."""
        leg.facts.deadlines_ns = {**leg.facts.deadlines_ns, reason: self.clock() + int(seconds * 1e9)}
        self.arm(leg)

    def clear_deadline(self, leg: Leg, reason: str) -> None:
        if reason in leg.facts.deadlines_ns:
            leg.facts.deadlines_ns = {name: at for name, at in leg.facts.deadlines_ns.items() if name != reason}
            self.arm(leg)

    def arm(self, leg: Leg) -> None:
        """One timer a leg, for the first of its deadlines."""
        if leg.timer is not None:
            leg.timer.cancel()
            leg.timer = None
        deadlines = leg.facts.deadlines_ns
        if deadlines and not leg.is_over:
            reason = min(deadlines, key=deadlines.__getitem__)
            delay_s = max(deadlines[reason] - self.clock(), 0) / 1e9
            leg.timer = asyncio.get_running_loop().call_later(delay_s, self.hang_up, leg, reason)

    # ---------------------------------------------------------------------------------------- rows of legs in no room

    def is_misplaced(self, leg: Leg) -> bool:
        """In no room, going to none, and not on a row of its codec's rate."""
        facts = leg.facts
        if leg.is_over or facts.path is None or facts.room_id or facts.wished_room_id or facts.is_mixed_alone:
            return False
        return facts.path.row.rate_hz != self.paths.idle_rate_hz(leg)

    async def settle_idle_row(self, leg: Leg) -> None:
        async with leg.lock:
            if not self.is_misplaced(leg):
                return
            try:
                row = self.paths.row_at(leg, self.paths.idle_rate_hz(leg))
                await self.paths.relocate(leg, row, None)
            except RoomtoneError as error:  # the row it has serves as well
                log.info("row kept", leg_id=leg.facts.id, error=str(error))
            else:
                if not leg.is_over:
                    self.rooms.relocated(leg)

    # ---------------------------------------------------------------------------------------- speech

    def follow_speech(self, leg: Leg) -> None:
        """Tell the world whether the leg speaks: what rtp hears, unless it is muted (media.md section 8)."""
        facts = leg.facts
        is_heard = leg.is_speaking and not facts.muted
        if is_heard != facts.has_spoken_up:
            facts.has_spoken_up = is_heard
            self.save(leg)
            self.publish(leg, "speaking.started" if is_heard else "speaking.stopped", with_room=True)

    # ---------------------------------------------------------------------------------------- the end

    def hang_up(self, leg: Leg, reason: str, status: int = DECLINED) -> None:
        """End the leg from our side; `status` is for an inbound call that was never answered."""
        if not leg.is_over:
            self.dismiss(leg, status)
            self.end(leg, reason)

    def dismiss(self, leg: Leg, status: int = DECLINED) -> None:
        """Make sip end the call: final response, CANCEL or BYE."""
        leg_id = leg.facts.id
        command: Command = Reject(leg_id=leg_id, status=status) if leg.is_unanswered_inbound else Hangup(leg_id=leg_id)
        self.leaving[leg_id] = leg
        self.spawn(self._see_off(leg_id, command))

    async def _see_off(self, leg_id: str, command: Command) -> None:
        try:
            await self.supervisor.sip.call(command)
        except RoomtoneError as error:
            log.debug("hang up", leg_id=leg_id, error=str(error))
        finally:
            del self.leaving[leg_id]

    def fall_silent(self, leg: Leg) -> None:
        """What a leg owes the world while it still is in its room."""
        leg.is_speaking = False
        self.follow_speech(leg)

    def end(self, leg: Leg, reason: str, *, after: Iterable[Awaitable[object]] = ()) -> None:
        """The leg is over, by whoever's will. Nothing about it is published after this but `leg.disconnected`, which waits for
        `after`."""
        if leg.is_over:
            return
        facts = leg.facts
        if facts.wished_room_id and facts.type == "sip_inbound":
            self._give_up_wish(leg, reason)
        self.fall_silent(leg)
        ending = self.rooms.leave(leg)
        leg.is_over = True
        facts.state = "hung_up"
        self.arm(leg)
        now = self.clock()
        total_s = (now - facts.created_ns) / 1e9
        answered_s = (now - facts.connected_ns) / 1e9 if facts.connected_ns else 0
        cdr = {"reason": reason, "duration_total": round(total_s, 2), "duration_answered": round(answered_s, 2)}
        log.info("leg ended", leg_id=facts.id, type=facts.type, **cdr)
        facts.farewell = {"cdr": cdr, "quality": self._quality(leg)}
        self.metrics.leg_ended(facts.type, reason, answered_s=answered_s, total_s=total_s)
        self._legs.pop(facts.id, None)
        self.ledger.drop("dialog", facts.id)
        self.paths.close(leg)
        endings = [*after, ending] if ending is not None else after
        awaited: set[asyncio.Future[Any]] = {asyncio.ensure_future(one) for one in endings}
        awaited = {one for one in awaited if not one.done()}
        if not awaited:
            self._say_farewell(leg)
        else:
            self.ledger.put("leg", facts.id, facts)
            self._parting[facts.id] = leg
            self.spawn(self._say_farewell_after(awaited, leg))

    async def _say_farewell_after(self, awaited: set[asyncio.Future[Any]], leg: Leg) -> None:
        await asyncio.wait(awaited, timeout=FAREWELL_LIMIT_S)
        self._say_farewell(leg)

    def _say_farewell(self, leg: Leg) -> None:
        facts = leg.facts
        self._parting.pop(facts.id, None)
        if facts.farewell is None:
            return
        self.publish(leg, "leg.disconnected", **facts.farewell)
        facts.farewell = None
        self.webhooks.unregister_leg(facts.id)
        self.ledger.drop("leg", facts.id)

    def _give_up_wish(self, leg: Leg, reason: str) -> None:
        if leg.joined is not None and not leg.joined.done():
            leg.joined.set_exception(CallerError(f"the leg ended before it could join: {reason}", 500))
        else:
            self.command_failed(leg, "add_to_room", reason)

    def _quality(self, leg: Leg) -> dict[str, Any] | None:
        facts = leg.facts
        if facts.path is None:
            return None
        row = facts.path.row
        counters = self._banks[row.rate_hz].leg[row.index]
        clock_hz = facts.media.send.clock_hz if facts.media else 8000
        received, lost = int(counters["packets_received"]), int(counters["packets_lost"])
        return quality_report(received, lost, float(counters["jitter"]), clock_hz)

    async def end_all(self, reason: str = "shutdown") -> None:
        """Hang everybody up; returns when sip has been told of all."""
        for leg in list(self._legs.values()):
            self.hang_up(leg, reason, UNAVAILABLE)
        while self.leaving:
            await asyncio.wait(set(self._tasks), return_when=asyncio.FIRST_COMPLETED)
        for leg in list(self._parting.values()):
            self._say_farewell(leg)

    # ---------------------------------------------------------------------------------------- a new control process

    def load(self, rows: Iterable[Row] = ()) -> list[Leg]:
        """What the predecessor's ledger knows. Their timers start once it is known that they are still there.

        `rows`: in use by others than legs."""
        known = [Leg(facts) for facts in self.ledger.load("leg", LegFacts).values()]
        self._legs = {leg.facts.id: leg for leg in known if leg.facts.farewell is None}
        for leg in known:
            if leg.facts.farewell is not None:
                leg.is_over = True
                self._parting[leg.facts.id] = leg
                self.spawn(self._say_farewell_after({asyncio.ensure_future(asyncio.sleep(FAREWELL_SETTLE_S))}, leg))
        for leg_id, dialog in self.ledger.load("dialog", Dialog).items():
            if leg_id in self._legs:
                self._legs[leg_id].dialog = dialog
        legs = list(self._legs.values())
        self.paths.resume(legs, rows)
        return legs
