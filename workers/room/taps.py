"""Taps: what the recordings of one group take from each tick, collected for the writing thread.

Runs in: a room worker, in the tick.
Owns: the chunk being filled: half a second of all recorded sounds of a group, one lane each.

    chunk (lanes, ticks, n) int16   lane: a room's full mix, what a participant says, or what one hears

Rules
1. A tick costs a few array operations however many recordings there are; files are the thread's business.
2. A chunk goes to the thread when it is full, or when the set of lanes changes. With that and the thread's own time less than
   a second is lost when the process is killed.
3. At most WAITING_LIMIT_BYTES wait for the thread. A chunk beyond that is dropped: its time is silence, what follows is in place.
4. A lane starts as silence and stays it where nothing is taken: paused, absent, deaf, a tick skipped.

Not here: which lanes a recording needs -> `recording.py`.
"""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from shm.bank import RX_SLOTS, TX_SLOTS, Bank
from workers.recording.files import Sink
from workers.room.jobs import Job
from workers.room.mixer import Plan, Samples
from workers.room.recording import Fitting, Lane, Recording, Track
from workers.room.small import WORD_SAMPLES, Small, words_of

CHUNK_TICKS = 25
WAITING_LIMIT_BYTES = 64 * 1024 * 1024


class Backlog:
    """Chunks on their way to the thread, counted in bytes: what was put by the tick, what was written by the thread."""

    def __init__(self, put: Callable[[Job], None]) -> None:
        self._put = put
        self._put_bytes = 0
        self._written_bytes = 0

    def add(self, write: Job, size_bytes: int) -> bool:
        """False when too much waits already: `write` will not happen."""
        if self._put_bytes + size_bytes - self._written_bytes > WAITING_LIMIT_BYTES:
            return False
        self._put_bytes += size_bytes
        self._put(partial(self._run, write, size_bytes))
        return True

    def _run(self, write: Job, size_bytes: int) -> None:
        write()
        self._written_bytes += size_bytes


class Taps:
    """The lanes of one group; `fit` after each change of it, `take` once a tick."""

    def __init__(self, bank: Bank, backlog: Backlog, noise: NDArray[np.int16] | None) -> None:
        self.last_tick = 0  # the last one taken
        self._bank = bank
        self._backlog = backlog
        self._noise = noise
        self._lanes: list[Lane] = []
        self._fresh_recordings: list[Recording] = []
        self._fresh_tracks: list[Track] = []
        self._chunk: NDArray[np.int16] | None = None
        self._chunk_tick = 0
        self._words: memoryview  # the chunk
        self._fitting = Fitting()
        self._plan: Plan | None = None  # the one that `_totals` is of

    def fit(self, fitting: Fitting) -> bool:
        """From the next tick on; False when there is nothing to record any more."""
        if fitting.lanes != self._lanes:
            self.hand_over()
            self._lanes = fitting.lanes
        self._fitting, self._plan = fitting, None
        self._mix_lanes, self._mix_rooms = _columns(fitting.mixes)
        self._voice_lanes, self._voice_rows = _columns(fitting.voices)
        self._ear_lanes, self._ear_positions = _columns(fitting.ears)
        self._fresh_recordings = [lane.recording for lane in fitting.lanes if not lane.recording.begun_tick]
        self._fresh_tracks = [track for track in fitting.tracks if not track.first_tick]
        return bool(fitting.lanes)

    def _advance(self, tick: int) -> int:
        """Where in the chunk `tick` belongs."""
        if self._fresh_recordings or self._fresh_tracks:
            self._begin(tick)
        if self._chunk is None or not 0 <= tick - self._chunk_tick < CHUNK_TICKS:
            self.hand_over()
            sides = sum(lane.sides for lane in self._lanes)
            self._chunk = np.zeros((sides, CHUNK_TICKS, self._bank.frame_samples), np.int16)
            self._words = words_of(self._chunk)
            self._chunk_tick = tick
        self.last_tick = tick
        return tick - self._chunk_tick

    def take_few(self, tick: int, small: Small) -> None:
        """As `take`, for a group that is mixed without numpy."""
        at = self._advance(tick)
        size = self._bank.frame_samples // WORD_SAMPLES
        fitting, words = self._fitting, self._words
        for pairs, sound in ((fitting.mixes, small.total), (fitting.voices, small.said), (fitting.ears, small.heard)):
            for lane, source in pairs:
                frame = sound(source, tick)
                if frame is not None:
                    start = (lane * CHUNK_TICKS + at) * size
                    words[start : start + size] = frame

    def take(self, tick: int, plan: Plan, totals: Samples) -> None:
        """After the mix of `tick`."""
        at = self._advance(tick)
        assert self._chunk is not None
        lanes = self._chunk[:, at]
        if len(self._mix_lanes):
            self._take_mixes(tick, plan, totals, lanes)
        if len(self._voice_lanes):
            self._take_voices(tick, lanes)
        if len(self._ear_lanes):
            heard = plan.hears[self._ear_positions]
            hears = heard >= 0
            lanes[self._ear_lanes[hears]] = self._bank.tx[heard[hears], tick % TX_SLOTS]

    def _take_mixes(self, tick: int, plan: Plan, totals: Samples, lanes: Samples) -> None:
        """Media.md M7: everybody who is not muted, whoever hears it."""
        if plan is not self._plan:
            self._plan = plan
            total = plan.total_of_room[self._mix_rooms]
            self._sounding, self._totals = self._mix_lanes[total >= 0], total[total >= 0]
            self._silent = self._mix_lanes[total < 0] if self._noise is not None else self._mix_lanes[:0]
        lanes[self._sounding] = totals[self._totals]
        if self._noise is not None and len(self._silent):
            lanes[self._silent] = self._noise[tick % len(self._noise)]

    def _take_voices(self, tick: int, lanes: Samples) -> None:
        slot = tick % RX_SLOTS
        present = self._bank.rx_tick[self._voice_rows, slot] == tick
        if present.all():
            lanes[self._voice_lanes] = self._bank.rx[self._voice_rows, slot]
        else:
            lanes[self._voice_lanes[present]] = self._bank.rx[self._voice_rows[present], slot]

    def _begin(self, tick: int) -> None:
        for recording in self._fresh_recordings:
            recording.begin(tick)
        for track in self._fresh_tracks:
            track.first_tick = tick
        self._fresh_recordings, self._fresh_tracks = [], []

    def hand_over(self) -> None:
        """Give the thread what has been taken."""
        chunk, self._chunk = self._chunk, None
        if chunk is None:
            return
        chunk = chunk[:, : self.last_tick + 1 - self._chunk_tick]
        places = [(lane.sink, lane.recording.since_tick, lane.first, lane.sides) for lane in self._lanes]
        if not self._backlog.add(partial(_write, places, chunk, self._chunk_tick), chunk.nbytes):
            for recording in {lane.recording for lane in self._lanes}:
                recording.lost_ticks += chunk.shape[1]


def _columns(pairs: Iterable[tuple[int, int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    table = np.array(list(pairs), np.int64).reshape(-1, 2)
    return table[:, 0].copy(), table[:, 1].copy()


def _write(places: list[tuple[Sink, int, int, int]], chunk: NDArray[np.int16], first_tick: int) -> None:
    for sink, since_tick, first, sides in places:
        sink.write(since_tick, first_tick, chunk[first : first + sides])
