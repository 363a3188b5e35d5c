"""A tiny domain behind the real API machinery, and an ASGI application of it for a real gunicorn."""

import asyncio
import os
from ipaddress import ip_network

import msgspec

from app.api.application import create_api
from app.api.operations import Operation, bind, overlay
from app.api.unbuilt import CONTRACT
from app.api.vsi import EventSocket
from app.events.bus import Bus
from app.events.webhooks import Webhooks
from app.ledger import Ledger
from app.metrics import Metrics
from shm.errors import CallerError, PeerError, ResourceError


class CreateRoom(msgspec.Struct, frozen=True):
    id: str = ""
    sample_rate: int = 0
    app_id: str = ""


class AddLeg(msgspec.Struct, frozen=True):
    leg_id: str
    mute: bool | msgspec.UnsetType = msgspec.UNSET


class FakeRooms:
    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.rooms: dict[str, dict] = {}
        self.gate = asyncio.Event()
        self.finished: list[str] = []

    async def list(self) -> list:
        return list(self.rooms.values())

    async def create(self, *, request: CreateRoom) -> dict:
        if request.id in self.rooms:
            raise CallerError("room exists", 409)
        self.rooms[request.id] = {"id": request.id, "sample_rate": request.sample_rate}
        self.bus.publish("room.created", room_id=request.id, app_id=request.app_id)
        return self.rooms[request.id]

    async def get(self, *, room_id: str) -> dict:
        match room_id:
            case "boom":
                raise ZeroDivisionError
            case "full":
                raise ResourceError("no rows left")
            case "refused":
                raise PeerError("the far end refused")
        if room_id not in self.rooms:
            raise CallerError("room not found", 404)
        return self.rooms[room_id]

    async def delete(self, *, room_id: str) -> dict:
        if room_id == "flood":
            for _ in range(2000):
                self.bus.publish("room.deleted", room_id="x" * 1000)
        if room_id == "slow":
            await self.gate.wait()
        self.finished.append(room_id)
        return {"status": "deleted"}

    async def add(self, *, room_id: str, request: AddLeg) -> dict:
        assert request.leg_id
        return {"status": "added", "muted": str(request.mute)} if room_id else {}

    async def remove(self, *, room_id: str, leg_id: str) -> dict:
        self.gate.set()
        return {"status": "removed", "ids": f"{room_id} {leg_id}"}


OPERATIONS = (
    Operation(method="GET", path="/v1/rooms", handler=FakeRooms.list),
    Operation(method="POST", path="/v1/rooms", handler=FakeRooms.create, request=CreateRoom),
    Operation(method="GET", path="/v1/rooms/{room_id}", handler=FakeRooms.get),
    Operation(method="DELETE", path="/v1/rooms/{room_id}", handler=FakeRooms.delete),
    Operation(method="POST", path="/v1/rooms/{room_id}/legs", handler=FakeRooms.add, request=AddLeg),
    Operation(method="DELETE", path="/v1/rooms/{room_id}/legs/{leg_id}", handler=FakeRooms.remove),
)


def make_api(*, allowed: str = "", trusts_proxy: bool = False, **timers: float):
    """The API over a fresh fake; returns (app, fake)."""
    metrics = Metrics()
    bus = Bus("test", Webhooks(Ledger(":memory:"), metrics), metrics, buffer_size=256)
    fake = FakeRooms(bus)
    operations = overlay(CONTRACT, bind(OPERATIONS, fake))
    app = create_api(
        instance_id="test",
        operations=operations,
        sockets=[EventSocket(bus, operations, metrics, **timers)],
        render_metrics=metrics.render,
        allowed=tuple(ip_network(item) for item in allowed.split(",") if item),
        trusts_proxy=trusts_proxy,
    )
    return app, fake


def serve():
    """For gunicorn: `tests.app.api.fake:serve()`."""
    timers = {name: float(os.environ[name.upper()]) for name in _TIMERS if name.upper() in os.environ}
    app, _fake = make_api(allowed=os.environ.get("ALLOWED_IPS", ""), **timers)
    return app


_TIMERS = ("ping_every_s", "idle_limit_s", "stall_limit_s")
