"""Legs and rooms put together, as the supervisor and the API use them.

Runs in: control.
Owns: the order in which the parts are built.

Use: `conference = Conference(...)`; `supervisor = Supervisor(..., handlers=conference)`; `conference.attach(supervisor)`;
`conference.recovery.load()`; `await supervisor.start()`; `conference.recovery.resume()`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.config import Config
from app.events.bus import Bus
from app.events.webhooks import Webhooks
from app.ledger import Ledger
from app.legs.answering import Answering
from app.legs.control import Control
from app.legs.dialling import Dialling
from app.legs.legs import Legs
from app.legs.signals import Signals
from app.metrics import Metrics
from app.rooms.membership import Membership
from app.rooms.recovery import Recovery
from app.rooms.rooms import Rooms
from app.supervisor import Order, Supervisor, Worker
from shm.bank import Bank
from shm.messages import Command


class Conference:
    """Implements `app.supervisor.Handlers`."""

    legs: Legs
    rooms: Rooms
    dialling: Dialling
    answering: Answering
    control: Control
    membership: Membership
    recovery: Recovery

    def __init__(
        self,
        *,
        config: Config,
        ledger: Ledger,
        bus: Bus,
        webhooks: Webhooks,
        metrics: Metrics,
        banks: Mapping[int, Bank],
    ) -> None:
        self._parts = {
            "config": config,
            "ledger": ledger,
            "bus": bus,
            "webhooks": webhooks,
            "metrics": metrics,
            "banks": banks,
        }

    def attach(self, supervisor: Supervisor) -> None:
        """Build everything on top of `supervisor`, which need not be started yet."""
        parts: dict[str, Any] = self._parts
        self.legs = Legs(supervisor=supervisor, **parts)
        self.dialling = Dialling(self.legs)
        self.answering = Answering(self.legs)
        self.control = Control(self.legs)
        self._signals = Signals(self.legs)
        self.rooms = Rooms(self.legs)
        self.membership = Membership(self.rooms, self.answering)
        self.legs.rooms = self.membership
        self.recovery = Recovery(self.legs, self.rooms, self.membership, self.answering)

    async def end_all(self, reason: str = "shutdown") -> None:
        """Hang everybody up, with events; returns when sip has been told of all and recordings are in their files."""
        await self.rooms.services.end_all()
        self.rooms.say_farewells()
        await self.legs.end_all(reason)

    # ---------------------------------------------------------------------------------------- Handlers

    def on_event(self, worker: Worker, event: Any, descriptors: Sequence[int] = ()) -> None:
        if worker.kind in ("room", "stream"):
            self.rooms.services.take(worker, event, descriptors)
        else:
            self._signals.take(event)

    def replay(self, worker: Worker) -> Iterable[Command | Order]:
        return self.recovery.replay(worker)

    def reconcile(self, worker: Worker, inventory: list[Any]) -> None:
        self.recovery.reconcile(worker, inventory)

    def worker_restarted(self, worker: Worker) -> None:
        if worker.kind == "sip":
            self._signals.sip_restarted()
        elif worker.kind == "stream":
            self.rooms.services.stream_restarted(worker)

    def room_is_hopeless(self, room_id: str) -> None:
        room = self.rooms.mixed(room_id)
        if room is not None:
            self.rooms.remove(room, "mixer_panic")
