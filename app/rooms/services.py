"""What rooms ask of the services above them (`app/services/`): playback, speech, recording, transcription, agents,
WebSocket clients.

Runs in: control.
Owns: the questions, and the answers of a server without services (in tests).
"""

from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Protocol

from app.legs.leg import Leg
from app.rooms.room import Guest, Room
from app.supervisor import Order, Worker
from shm.messages import Command, Row


class Services(Protocol):
    """`moved` and the endings return at once; what has to be waited for goes on behind them."""

    def needs_mix(self, leg: Leg) -> bool: ...  # also while it is in no room
    def is_finishing(self, room_id: str) -> bool: ...  # a recording still ends in that room's worker
    def moved(
        self, leg: Leg, old: Room | None, new: Room | None
    ) -> None: ...  # it is in the mix of `new`; None = of none, maybe on another row
    def guest_came(self, room: Room, guest: Guest) -> None: ...
    def guest_left(self, room: Room, guest: Guest) -> None: ...
    def leg_ends(self, leg: Leg) -> Awaitable[object] | None: ...  # what `leg.disconnected` has to wait for
    def room_ends(self, room: Room) -> Awaitable[object] | None: ...  # what the end of its webhook has to wait for
    async def end_all(self) -> None: ...

    def take(self, worker: Worker, event: Any, descriptors: Sequence[int]) -> None: ...
    def stream_restarted(self, worker: Worker) -> None: ...
    def replay(self, room_id: str, room: Room | None) -> Iterable[Command | Order]: ...  # None: it is deleted

    def rows(self) -> Iterable[Row]: ...  # a new control: rows in use by guests
    def load(self) -> None: ...  # after legs and rooms
    def reconcile_room(self, worker: Worker, inventory: list[Any]) -> None: ...
    def reconcile_stream(self, worker: Worker, inventory: list[Any]) -> None: ...
    def resume(self) -> None: ...


class NoServices:
    def needs_mix(self, _leg: Leg) -> bool:
        return False

    def is_finishing(self, _room_id: str) -> bool:
        return False

    def moved(self, leg: Leg, old: Room | None, new: Room | None) -> None: ...

    def guest_came(self, room: Room, guest: Guest) -> None: ...

    def guest_left(self, room: Room, guest: Guest) -> None: ...

    def leg_ends(self, _leg: Leg) -> Awaitable[object] | None:
        return None

    def room_ends(self, _room: Room) -> Awaitable[object] | None:
        return None

    async def end_all(self) -> None: ...

    def take(self, worker: Worker, event: Any, descriptors: Sequence[int]) -> None: ...

    def stream_restarted(self, worker: Worker) -> None: ...

    def replay(self, _room_id: str, _room: Room | None) -> Iterable[Command | Order]:
        return ()

    def rows(self) -> Iterable[Row]:
        return ()

    def load(self) -> None: ...

    def reconcile_room(self, worker: Worker, inventory: list[Any]) -> None: ...

    def reconcile_stream(self, worker: Worker, inventory: list[Any]) -> None: ...

    def resume(self) -> None: ...
