"""Audio paths: each leg's UDP port, its rtp process and its row, from opening to closing.

Runs in: control.
Owns: ports and rows in use, how many legs each rtp process serves.

Rules
1. A path is opened before our SDP can name its port. What another program holds is skipped, BIND_ATTEMPTS times.
2. A change of row is asked for first (`row_at`), carried out together with the room's part (`move`), and only then
   settled (`settle`); until then the old row stays the leg's own. A move that failed drops its row (`drop`).
3. Closing needs no answer: the row rests and the port waits at the end of the queue longer than any command travels.

Not here: why a leg moves -> `app/rooms/`; what rtp does -> `workers/rtp/`.
"""

from collections.abc import Iterable

import msgspec

from app.config import Config
from app.legs.leg import AudioPath, Leg
from app.legs.ports import Ports
from app.legs.rows import Rows
from app.supervisor import Supervisor, Worker
from shm.errors import CallerError, ResourceError
from shm.messages import CloseLeg, Media, OpenLeg, PlaceLeg, Row, SetMedia

BIND_ATTEMPTS = 8
FULL_BATCH = 300
IDLE_RATE_HZ = 8000  # of a leg in no room whose codec is not known yet


def process_for(load: list[int]) -> int:
    """Index of the rtp process for the next leg: the first with less than FULL_BATCH, the emptiest when all have more.

    A wake-up costs about the same for ten legs as for a hundred, so few full batches beat many small ones.
    """
    return next((index for index, legs in enumerate(load) if legs < FULL_BATCH), load.index(min(load)))


class Paths:
    def __init__(self, config: Config, supervisor: Supervisor, rows: Rows) -> None:
        self._config = config
        self._supervisor = supervisor
        self.rows = rows
        self.ports = Ports(config.rtp_port_min, config.rtp_port_max)
        self._unsettled: set[Row] = set()
        self.load: list[int] = []  # legs by rtp process
        self.capacity = min(config.max_legs, self.ports.capacity)

    def advertised_host(self, local_host: str) -> str:
        """What our SDP names for an address of ours; "" = the IPv4 one."""
        if ":" in local_host:
            return local_host
        return self._config.sip_external_ip or local_host or self._config.sip_bind_ip

    def _listening_host(self, media_host: str) -> str:
        config = self._config
        return (config.sip_listen_ipv6 if ":" in media_host else "") or config.sip_listen_ip

    def worker(self, leg: Leg) -> Worker:
        """Raises CallerError when the leg has ended meanwhile."""
        if leg.facts.path is None:
            raise CallerError("leg not found")
        return self._supervisor.rtp[leg.facts.path.rtp_index]

    async def open(self, leg: Leg, rate_hz: int, phase: int | None) -> None:
        """Give the leg a path. Raises ResourceError; CallerError when the leg ended meanwhile."""
        self.load.extend([0] * (len(self._supervisor.rtp) - len(self.load)))
        index = process_for(self.load)
        host = self._listening_host(leg.facts.media_host)
        row = self.rows.take(rate_hz)
        self.load[index] += 1
        try:
            port = await self._bind(leg, index, row, host, phase)
        except Exception:  # whatever it was, nothing may leak
            self.load[index] -= 1
            self.rows.give_back(row)
            raise
        leg.facts.path = AudioPath(row=row, bind_host=host, port=port, rtp_index=index)
        leg.phase = phase
        if leg.is_over:
            self.close(leg)
            raise CallerError("the leg has ended", 404)

    async def _bind(self, leg: Leg, index: int, row: Row, host: str, phase: int | None) -> int:
        for attempt in range(1, BIND_ATTEMPTS + 1):
            port = self.ports.take(host, probed=attempt > 1)
            command = OpenLeg(
                leg_id=leg.facts.id,
                row=row,
                host=host,
                port=port,
                phase=phase,
                detect_speech=leg.facts.detects_speech,
            )
            try:
                await self._supervisor.rtp[index].call(command)
            except ResourceError:
                self.ports.give_back(port)
                if attempt == BIND_ATTEMPTS:
                    raise
            else:
                return port
        raise AssertionError

    def idle_rate_hz(self, leg: Leg) -> int:
        """The rate of a leg's row while it is in no room: its codec's audio rate."""
        return leg.facts.media.send.rate_hz if leg.facts.media else IDLE_RATE_HZ

    def row_at(self, leg: Leg, rate_hz: int) -> Row:
        """The leg's own row if it has that rate, else a new one. Raises ResourceError."""
        assert leg.facts.path is not None
        if leg.facts.path.row.rate_hz == rate_hz:
            return leg.facts.path.row
        row = self.rows.take(rate_hz)
        self._unsettled.add(row)
        return row

    def needs_move(self, leg: Leg, row: Row, phase: int | None) -> bool:
        assert leg.facts.path is not None
        return leg.facts.path.row != row or leg.phase != phase

    async def move(self, leg: Leg, row: Row, phase: int | None, at_tick: int = 0) -> None:
        await self.worker(leg).call(PlaceLeg(leg_id=leg.facts.id, row=row, phase=phase, at_tick=at_tick))

    def move_back(self, leg: Leg, row: Row, phase: int | None, at_tick: int) -> None:
        """Undo a move that was asked for but not settled."""
        self.worker(leg).tell(PlaceLeg(leg_id=leg.facts.id, row=row, phase=phase, at_tick=at_tick))

    async def relocate(self, leg: Leg, row: Row, phase: int | None) -> None:
        """Move and settle, where no room has a part in it. Raises what the move raises; the row is then dropped."""
        try:
            await self.move(leg, row, phase)
        except BaseException:
            self.drop(row)
            raise
        if leg.is_over:
            self.drop(row)
        else:
            self.settle(leg, row, phase)

    def settle(self, leg: Leg, row: Row, phase: int | None) -> None:
        """The move has happened: `row` is the leg's own, its former one rests."""
        path = leg.facts.path
        assert path is not None
        leg.phase = phase
        if path.row != row:
            self._unsettled.discard(row)
            self.rows.give_back(path.row)
            leg.facts.path = msgspec.structs.replace(path, row=row)

    def drop(self, row: Row) -> None:
        """The move has not happened: a row taken for it goes back."""
        if row in self._unsettled:
            self._unsettled.remove(row)
            self.rows.give_back(row)

    def set_media(self, leg: Leg) -> None:
        media = _media_for_rtp(leg)
        if leg.facts.path is not None and media is not None:
            self.worker(leg).tell(SetMedia(leg_id=leg.facts.id, media=media))

    def reopening(self, leg: Leg) -> OpenLeg:
        """What a fresh rtp process must know of this leg to go on where its predecessor stopped."""
        path = leg.facts.path
        assert path is not None
        return OpenLeg(
            leg_id=leg.facts.id,
            row=path.row,
            host=path.bind_host,
            port=path.port,
            media=_media_for_rtp(leg),
            phase=leg.phase,
            detect_speech=leg.facts.detects_speech,
            resume=True,
        )

    def close(self, leg: Leg) -> None:
        path = leg.facts.path
        if path is None:
            return
        self.worker(leg).tell(CloseLeg(leg_id=leg.facts.id))
        leg.facts.path = None
        self.load[path.rtp_index] -= 1
        self.rows.give_back(path.row)
        self.ports.give_back(path.port)

    def resume(self, legs: list[Leg], rows: Iterable[Row]) -> None:
        """In a new control process: the paths of these legs are in use, and these rows besides."""
        paths = [leg.facts.path for leg in legs if leg.facts.path is not None]
        self.load = [0] * (max((path.rtp_index for path in paths), default=-1) + 1)
        for path in paths:
            self.load[path.rtp_index] += 1
        self.rows.resume([*(path.row for path in paths), *rows])
        self.ports.resume(path.port for path in paths)


def _media_for_rtp(leg: Leg) -> Media | None:
    """As agreed; but a held leg neither gets nor gives audio, whatever SDP would still allow (legs.md section 5.6)."""
    media = leg.facts.media
    if media is not None and leg.facts.state == "held":
        return msgspec.structs.replace(media, direction="inactive")
    return media
