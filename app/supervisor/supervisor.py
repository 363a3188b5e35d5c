"""The supervisor: starts, watches, restarts and places all worker processes.

Runs in: control.
Owns: which workers there are, and which room is mixed where.

Rules
1. A death is seen by pidfd, never inferred from a channel. A worker that is still wanted is replaced at once; the layers above
   say what the successor must know (`Handlers.replay`).
2. Hung is not dead: a stats row that stands still for a second gets its process killed. Before its first beat a process has
   STARTING_NS: stream imports its vendors' libraries then, on a busy machine for several seconds.
3. The third death of a dedicated room worker within 10 s gives its room up (`Handlers.room_is_hopeless`). A shared worker that
   dies twice in 10 s has its rooms restarted one by one in dedicated workers, so that the guilty one shows itself.
4. A room worker starts with the first participant and ends EMPTY_ROOM_S after the room was released.

Not here: what a leg or a room is -> `app/legs`, `app/rooms`.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import msgspec
import structlog

from app.config import Config
from app.supervisor.starts import sip_start, stream_start
from app.supervisor.worker import Order, Worker
from app.supervisor.zygote import Found, ZygoteLink
from shm.clock import PHASES, monotonic_ns
from shm.errors import ResourceError
from shm.instance import STATS_ROWS, Instance
from shm.messages import (
    CloseRoom,
    Command,
    FinishRecording,
    Hangup,
    RoomInventoryPart,
    RoomStart,
    RtpStart,
    UploadRecording,
)

WATCH_EVERY_S = 0.25
SHARED_NAME = "rooms "
HUNG_NS = 1_000_000_000
STARTING_NS = 10_000_000_000
DEATHS_WINDOW_NS = 10_000_000_000
ROOM_DEATHS = 3
SHARED_DEATHS = 2
EMPTY_ROOM_S = 10.0
RESTART_PAUSE_S = 0.5  # after repeated deaths; the first restart is immediate
LEAVE_TIMEOUT_S = 1.0
# What is repeated to a successor although the rest of its predecessor's world ended with it.
REPEATED: dict[str, tuple[type[Command], ...]] = {"sip": (Hangup,), "stream": (UploadRecording, FinishRecording)}

_log = structlog.get_logger()


class Handlers(Protocol):
    """What the layers above answer."""

    def on_event(self, worker: Worker, event: Any, descriptors: Sequence[int] = ()) -> None: ...  # closes them
    def replay(self, worker: Worker) -> Iterable[Command | Order]: ...
    def reconcile(self, worker: Worker, inventory: list[Any]) -> None: ...  # takes and closes what is `lent`
    def worker_restarted(self, worker: Worker) -> None: ...
    def room_is_hopeless(self, room_id: str) -> None: ...


class Supervisor:
    """`sip`, `rtp` and `stream` exist after `start`; room workers come and go with rooms. `handlers` is set before `start`."""

    sip: Worker
    handlers: Handlers

    def __init__(self, config: Config, instance: Instance) -> None:
        self._config = config
        self._instance = instance
        self.rtp: list[Worker] = []
        self.stream: list[Worker] = []
        self._rooms: dict[str, Worker] = {}  # room id -> its worker
        self._room_workers: list[Worker] = []  # also those about to leave
        self._placing: dict[str, asyncio.Future[None]] = {}
        self._closing: dict[str, asyncio.TimerHandle] = {}
        self._stats_rows_in_use: set[int] = set()
        self._first_room_row = 1 + config.rtp_workers + config.stream_workers  # of the stats table
        self._stats_rows_end = self._first_room_row
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    # ------------------------------------------------------------------------------------------ start and stop

    async def start(self) -> None:
        """Find what is alive, start what is missing."""
        config = self._config
        self._zygote = ZygoteLink(self._instance.control_end.dup(), self.workers)
        self.sip = self._make("sip", "sip", 0, sip_start(self._config))
        for index in range(config.rtp_workers):
            start = RtpStart(
                index=index,
                stats_row=1 + index,
                io=config.rtp_io,
                playout_floor_ms=config.sip_jitter_buffer_ms,
                playout_ceiling_ms=config.sip_jitter_buffer_max_ms,
            )
            self.rtp.append(self._make(f"rtp {index}", "rtp", 1 + index, start, index))
        for index in range(config.stream_workers):
            row = 1 + config.rtp_workers + index
            self.stream.append(self._make(f"stream {index}", "stream", row, stream_start(config, row), index))
        found = {one.name: one for one in await self._zygote.list_workers()}
        await asyncio.gather(*(self._adopt(one) for one in found.values()))
        missing = [worker for worker in self.fixed_workers() if worker.name not in found]
        await asyncio.gather(*(self._spawn(worker) for worker in missing))
        for worker in missing:  # it may have died together with the control process before us
            self.handlers.worker_restarted(worker)
        self._run(self._watch())

    async def stop(self) -> None:
        """Tell everybody to leave, wait a second, kill the rest."""
        self._is_stopping = True
        for handle in self._closing.values():
            handle.cancel()
        for worker in self.workers():
            worker.leave()
        leaving = [worker for worker in self.workers() if worker.pid]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                await asyncio.gather(*(worker.gone.wait() for worker in leaving))
        for worker in leaving:
            worker.kill()
        self._zygote.close()
        for task in self._tasks:
            task.cancel()

    def fixed_workers(self) -> list[Worker]:
        """Those that live as long as the server."""
        return [self.sip, *self.rtp, *self.stream]

    def workers(self) -> list[Worker]:
        return [*self.fixed_workers(), *self._room_workers]

    def stats_rows(self) -> list[tuple[str, int]]:
        """(kind of process, row) of every stats row ever given out: counters outlive processes."""
        first_stream = 1 + self._config.rtp_workers
        rows = [("sip", 0), *(("rtp", row) for row in range(1, first_stream))]
        rows += [("stream", row) for row in range(first_stream, self._first_room_row)]
        return rows + [("room", row) for row in range(self._first_room_row, self._stats_rows_end)]

    # ------------------------------------------------------------------------------------------ rooms

    async def room_worker(self, room_id: str, *, shared: bool = False) -> Worker:
        """The worker that mixes this room; starts one where none does. `shared`: whatever ROOM_PLACEMENT says.

        Raises ResourceError."""
        if (timer := self._closing.pop(room_id, None)) is not None:
            timer.cancel()
        while (placing := self._placing.get(room_id)) is not None:
            await asyncio.shield(placing)
        if (worker := self._rooms.get(room_id)) is not None:
            return worker
        placed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._placing[room_id] = placed
        try:
            worker = await self._place(room_id, shared=shared)
            self._rooms[room_id] = worker
        finally:
            placed.set_result(None)
            del self._placing[room_id]
        return worker

    def release_room(self, room_id: str, *, at_once: bool = False) -> None:
        """The room is empty (its worker goes in 10 s unless it is asked for again), or deleted (`at_once`)."""
        if (timer := self._closing.pop(room_id, None)) is not None:
            timer.cancel()
        if at_once:
            self._unplace(room_id)
        elif room_id in self._rooms:
            loop = asyncio.get_running_loop()
            self._closing[room_id] = loop.call_later(EMPTY_ROOM_S, self._unplace, room_id)

    def phases_of(self, worker: Worker) -> range:
        """The phases that rooms of this worker may take. Shared workers divide them: a wake-up costs about the same for one
        room as for thirty, so each phase is best mixed by few processes."""
        if not self._is_shared(worker):
            return range(PHASES)
        number = int(worker.name.removeprefix(SHARED_NAME))
        return range(number % PHASES, PHASES, self._config.room_shared_workers)

    def rooms_on(self, worker: Worker) -> list[str]:
        return [room_id for room_id, other in self._rooms.items() if other is worker]

    def _unplace(self, room_id: str) -> None:
        self._closing.pop(room_id, None)
        worker = self._rooms.pop(room_id, None)
        if worker is None:
            return
        if self._is_shared(worker):
            worker.tell(CloseRoom(room_id=room_id))
        else:
            worker.leave()  # its death frees the rest

    async def _place(self, room_id: str, *, shared: bool) -> Worker:
        config = self._config
        dedicated = sum(not self._is_shared(worker) for worker in self._room_workers if worker.wanted)
        if not shared and (
            config.room_placement == "dedicated"
            or (config.room_placement == "auto" and dedicated < config.room_dedicated_max)
        ):
            return await self._start_room_worker(f"room {room_id}", shared=False)
        sharing = [worker for worker in self._room_workers if worker.wanted and self._is_shared(worker)]
        names = {f"{SHARED_NAME}{index}" for index in range(config.room_shared_workers)}
        unused = sorted(names - {worker.name for worker in sharing})
        if unused:
            return await self._start_room_worker(unused[0], shared=True)
        return min(sharing, key=lambda worker: len(self.rooms_on(worker)))

    async def _start_room_worker(self, name: str, *, shared: bool) -> Worker:
        worker = self._make_room_worker(name, shared=shared)
        try:
            await self._spawn(worker)
        except ResourceError:
            self._forget_room_worker(worker)
            raise
        return worker

    def _make_room_worker(self, name: str, *, shared: bool) -> Worker:
        stats_row = self._take_stats_row()
        start = RoomStart(stats_row=stats_row, comfort_noise=self._config.comfort_noise_enabled, shared=shared)
        worker = self._make(name, "room", stats_row, start)
        self._room_workers.append(worker)
        return worker

    @staticmethod
    def _is_shared(worker: Worker) -> bool:
        return isinstance(worker.start, RoomStart) and worker.start.shared

    def _forget_room_worker(self, worker: Worker) -> None:
        self._room_workers.remove(worker)
        self._stats_rows_in_use.discard(worker.stats_row)

    def _take_stats_row(self) -> int:
        row = next((row for row in range(self._first_room_row, STATS_ROWS) if row not in self._stats_rows_in_use), 0)
        if not row:
            raise ResourceError("no room for another process in the stats table")
        self._stats_rows_in_use.add(row)  # counters go on where an earlier room's stopped
        self._stats_rows_end = max(self._stats_rows_end, row + 1)
        return row

    # ------------------------------------------------------------------------------------------ lives

    def _make(self, name: str, kind: str, stats_row: int, start: msgspec.Struct, index: int = 0) -> Worker:
        worker = Worker(name, kind, stats_row, start, index)
        worker.on_event = self.handlers.on_event
        worker.on_death = self._on_death
        return worker

    async def _spawn(self, worker: Worker) -> None:
        found = await self._zygote.spawn(worker.name, worker.kind, msgspec.msgpack.encode(worker.start))
        worker.attach(found.channel_end, found.pid_fd, found.pid)
        worker.introduce(self.handlers.replay(worker))

    async def _adopt(self, found: Found) -> None:
        """Go on with a process that an earlier control process started."""
        worker = next((one for one in self.fixed_workers() if one.name == found.name), None)
        if worker is None:
            start = msgspec.msgpack.decode(found.start, type=RoomStart)
            worker = self._make(found.name, "room", start.stats_row, start)
            self._stats_rows_in_use.add(start.stats_row)
            self._stats_rows_end = max(self._stats_rows_end, start.stats_row + 1)
            self._room_workers.append(worker)
        worker.attach(found.channel_end, found.pid_fd, found.pid)
        try:
            inventory = await worker.meet()
        except ResourceError as error:
            _log.error("a worker is silent and is replaced", worker=worker.name, error=str(error))
            worker.kill()
            return
        mixed = {_room_of(part) for part in inventory if isinstance(part, RoomInventoryPart)} - {""}
        self._rooms.update(dict.fromkeys(mixed, worker))
        if worker.kind == "room" and not mixed:
            worker.leave()
        self.handlers.reconcile(worker, inventory)

    def _on_death(self, worker: Worker) -> None:
        if not worker.wanted:
            worker.fail_unanswered(keep=())
            if worker in self._room_workers:
                self._forget_room_worker(worker)
        if self._is_stopping or not worker.wanted:
            return
        _log.warning("worker died and is restarted", worker=worker.name, deaths=len(worker.deaths_ns))
        if worker.kind in REPEATED:
            worker.fail_unanswered(keep=REPEATED[worker.kind])
        self._run(self._restart(worker))

    async def _restart(self, worker: Worker) -> None:
        now_ns = monotonic_ns()
        recent = sum(now_ns - death_ns < DEATHS_WINDOW_NS for death_ns in worker.deaths_ns)
        if worker.kind == "room" and not self._is_shared(worker) and recent >= ROOM_DEATHS:
            self._give_up(worker)
            return
        if self._is_shared(worker) and recent >= SHARED_DEATHS:
            await self._separate(worker)
            return
        if recent > 1:
            await asyncio.sleep(RESTART_PAUSE_S if worker.kind != "room" else 0)
        try:
            await self._spawn(worker)
        except ResourceError as error:
            _log.error("restart failed", worker=worker.name, error=str(error))
            await asyncio.sleep(RESTART_PAUSE_S)
            self._on_death(worker)  # try again
            return
        self.handlers.worker_restarted(worker)

    def _give_up(self, worker: Worker) -> None:
        worker.wanted = False
        for room_id in self.rooms_on(worker):
            del self._rooms[room_id]
            _log.error("room ends: its worker died again and again", room_id=room_id)
            self.handlers.room_is_hopeless(room_id)
        worker.fail_unanswered(keep=())
        self._forget_room_worker(worker)

    async def _separate(self, worker: Worker) -> None:
        """Rooms of a shared worker that keeps dying go each to a worker of its own."""
        room_ids = self.rooms_on(worker)
        worker.wanted = False
        worker.fail_unanswered(keep=())
        self._forget_room_worker(worker)
        for room_id in room_ids:
            alone = self._make_room_worker(f"room {room_id}", shared=False)
            self._rooms[room_id] = alone
            await self._spawn(alone)
            self.handlers.worker_restarted(alone)

    async def _watch(self) -> None:
        """Kill what hangs. Does nothing in a round that comes late itself: then it was us."""
        loop = asyncio.get_running_loop()
        expected = loop.time()
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            expected, late_s = loop.time(), loop.time() - expected - WATCH_EVERY_S
            if late_s > WATCH_EVERY_S:
                continue
            now_ns = monotonic_ns()
            heartbeats = self._instance.stats.table["heartbeat_ns"]
            for worker in self.workers():
                if worker.pid and is_hung(worker.attached_at_ns, int(heartbeats[worker.stats_row]), now_ns):
                    _log.error("worker hangs and is killed", worker=worker.name, pid=worker.pid)
                    worker.kill()

    def _run(self, coroutine: Any) -> None:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def is_hung(attached_ns: int, beat_ns: int, now_ns: int) -> bool:
    """Of a process attached and last beating at these moments; beats before the first moment are its predecessor's."""
    if beat_ns < attached_ns:
        return now_ns - attached_ns > STARTING_NS
    return now_ns - beat_ns > HUNG_NS


def _room_of(part: RoomInventoryPart) -> str:
    """A closed room's last recording still keeps its worker busy."""
    return part.room_id or (part.recording.room_id if part.recording is not None else "")
