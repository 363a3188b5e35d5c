"""A stage for control: real legs, rooms, ledger and bus on top of worker processes that only remember what they were told."""

import asyncio
import json
from collections import defaultdict

import pytest

from app.config import Config
from app.events.bus import Bus
from app.events.webhooks import Webhooks
from app.ledger import Ledger
from app.legs.requests import AnswerLeg, CreateLeg, DeleteLeg
from app.metrics import Metrics
from app.rooms.conference import Conference
from app.rooms.requests import AddLeg, CreateRoom
from app.services.services import Services
from shm.bank import RATES_HZ, Bank
from shm.clock import PHASES
from shm.messages import (
    Answer,
    CallAnswered,
    CallConfirmed,
    CallReceived,
    Codec,
    Dialog,
    DialogSaved,
    Done,
    Media,
    OfferedCodec,
    Progress,
)

ROWS = 128
PCMU = Codec(name="PCMU", payload_type=0, clock_hz=8000, rate_hz=8000)
G722 = Codec(name="G722", payload_type=9, clock_hz=8000, rate_hz=16000)


def media(codec: Codec = PCMU, **fields) -> Media:
    defaults = {"remote_host": "192.0.2.1", "remote_port": 4000, "event_send_type": 101, "event_receive_type": 101}
    return Media(send=codec, receive=(codec,), **(defaults | fields))


class FakeWorker:
    """Remembers commands in order. `failures` and `gates` by command type: raise the next one; wait until opened."""

    def __init__(self, name: str, kind: str, index: int = 0) -> None:
        self.name, self.kind, self.index = name, kind, index
        self.sent = []
        self.failures = defaultdict(list)
        self.gates = {}
        self.media = media()
        self.lent = {}
        self.wanted = True
        self.gone = asyncio.Event()

    async def call(self, command, timeout_s=10.0, descriptors=()):
        self.sent.append(command)
        if (gate := self.gates.get(type(command))) is not None:
            await gate.wait()
        if self.failures[type(command)]:
            raise self.failures[type(command)].pop(0)
        await asyncio.sleep(0)
        return Done(command_id=1, media=self.media if isinstance(command, Answer | Progress) else None)

    def tell(self, command, descriptors=()) -> None:
        self.sent.append(command)

    def of(self, *kinds) -> list:
        return [command for command in self.sent if isinstance(command, kinds)]


class FakeSupervisor:
    def __init__(self) -> None:
        self.sip = FakeWorker("sip", "sip")
        self.rtp = [FakeWorker(f"rtp {index}", "rtp", index) for index in range(2)]
        self.stream = [FakeWorker("stream 0", "stream")]
        self.mixers: dict[str, FakeWorker] = {}
        self.released: list[tuple[str, bool]] = []
        self.placing: asyncio.Event | None = None
        self.refusals: list[Exception] = []

    async def room_worker(self, room_id: str, *, shared: bool = False) -> FakeWorker:
        if self.placing is not None:
            await self.placing.wait()
        if self.refusals:
            raise self.refusals.pop(0)
        return self.mixers.setdefault(room_id, FakeWorker(f"room {room_id}", "room"))

    def release_room(self, room_id: str, *, at_once: bool = False) -> None:
        self.released.append((room_id, at_once))
        if at_once:
            self.mixers.pop(room_id, None)

    def phases_of(self, _worker) -> range:
        return range(PHASES)

    def rooms_on(self, worker) -> list[str]:
        return [room_id for room_id, mixer in self.mixers.items() if mixer is worker]


class Stage:
    """Control with fake workers. `restart` is a new control process on the same ledger."""

    def __init__(self, **settings) -> None:
        self.config = Config(instance_id="test", **({"sip_codecs": ("PCMU", "PCMA", "G722", "opus")} | settings))
        self.ledger = Ledger(":memory:")
        self.banks = {rate_hz: Bank(rate_hz, ROWS, "test") for rate_hz in RATES_HZ}
        self._numbers = iter(range(1, 10_000))
        self.restart()

    def restart(self) -> None:
        self.supervisor = FakeSupervisor()
        metrics = Metrics()
        self.webhooks = Webhooks(self.ledger, metrics)
        self.bus = Bus("test", self.webhooks, metrics, buffer_size=10_000)
        self._subscription = self.bus.subscribe()
        self.conference = Conference(
            config=self.config,
            ledger=self.ledger,
            bus=self.bus,
            webhooks=self.webhooks,
            metrics=metrics,
            banks=self.banks,
        )
        self.conference.attach(self.supervisor)
        self.services = Services(self.conference)
        self.conference.recovery.load()
        self.legs, self.rooms = self.conference.legs, self.conference.rooms

    @property
    def sip(self) -> FakeWorker:
        return self.supervisor.sip

    def mixer(self, room_id: str) -> FakeWorker:
        return self.supervisor.mixers[room_id]

    def rtp_of(self, leg_id: str) -> FakeWorker:
        return self.supervisor.rtp[self.legs.get(leg_id).facts.path.rtp_index]

    # ---- what happened

    def events(self) -> list[dict]:
        """All events since the last look."""
        events = []
        while (text := self._subscription.take()) is not None:
            events.append(json.loads(text))
        return events

    def told(self) -> list[str]:
        """Types of all events since the last look."""
        return [event["type"] for event in self.events()]

    def quiet(self) -> None:
        """Forget what happened so far."""
        self.events()
        for worker in (self.sip, *self.supervisor.rtp, *self.supervisor.stream, *self.supervisor.mixers.values()):
            worker.sent.clear()

    @staticmethod
    async def settle() -> None:
        """Let everything that needs no clock run to its end."""
        for _ in range(50):
            await asyncio.sleep(0)

    # ---- what sip reports

    def report(self, event) -> None:
        self.conference.on_event(self.sip, event)

    def ring_in(self, leg_id: str = "", **fields) -> str:
        leg_id = leg_id or f"in-{next(self._numbers)}"
        defaults = {
            "from_user": "alice",
            "to_user": "200",
            "offered_codecs": (OfferedCodec(name="PCMU", payload_type=0, clock_rate=8000, priority=1),),
            "source_address": "192.0.2.1:5060",
            "local_host": "127.0.0.1",
        }
        self.report(CallReceived(leg_id=leg_id, **(defaults | fields)))
        return leg_id

    def save_dialog(self, leg_id: str, **fields) -> None:
        tags = {"call_id": leg_id, "local_tag": "a", "remote_tag": "b", "local_uri": "", "remote_uri": ""}
        self.report(DialogSaved(dialog=Dialog(leg_id=leg_id, remote_target="sip:x@y", **(tags | fields))))

    async def connected_in(self, **fields) -> str:
        leg_id = self.ring_in(**fields)
        await self.conference.answering.answer(leg_id=leg_id, request=AnswerLeg())
        await self.settle()
        self.save_dialog(leg_id)
        self.report(CallConfirmed(leg_id=leg_id))
        await self.settle()
        return leg_id

    async def dial(self, **fields) -> str:
        request = CreateLeg(**({"type": "sip", "to": "sip:bob@192.0.2.1"} | fields))
        leg = await self.conference.dialling.create(request=request)
        await self.settle()
        return leg["id"]

    async def connected_out(self, codec: Codec = PCMU, **fields) -> str:
        leg_id = await self.dial(**fields)
        self.save_dialog(leg_id)
        self.report(CallAnswered(leg_id=leg_id, media=media(codec)))
        await self.settle()
        return leg_id

    # ---- what callers ask

    async def room(self, room_id: str, **fields) -> dict:
        return await self.rooms.create(request=CreateRoom(id=room_id, **fields))

    async def add(self, room_id: str, leg_id: str, **fields) -> dict:
        return await self.conference.membership.add(room_id=room_id, request=AddLeg(leg_id=leg_id, **fields))

    async def take_out(self, room_id: str, leg_id: str) -> dict:
        return await self.conference.membership.remove(room_id=room_id, leg_id=leg_id)

    async def delete_leg(self, leg_id: str, reason: str = "") -> dict:
        return await self.conference.control.delete(leg_id=leg_id, request=DeleteLeg(reason=reason))

    async def view(self, leg_id: str) -> dict:
        return await self.conference.control.get(leg_id=leg_id)

    async def room_view(self, room_id: str) -> dict:
        return await self.rooms.get(room_id=room_id)


@pytest.fixture
async def stage():
    return Stage()


@pytest.fixture
async def make_stage():
    """For tests with settings of their own."""
    return Stage


@pytest.fixture
def make_media():
    return media


@pytest.fixture
def g722():
    return G722
