"""Banks: all audio of the instance, as rows indexed by time.

Runs in: every process. The master makes one bank per sample rate before it forks anything.
Owns: the byte layout below, and nothing of what happens in it.

One row per leg (or other source/listener). n = samples in a tick: 160, 320 or 960. T = tick (shm/clock.py).

    array      shape              type   slot     written by                     read by
    rx         [row, 32, n]       int16  T % 32   the row's I/O process          room worker, taps
    rx_tick    [row, 32]          int64  T % 32   same, after the samples        same
    tx         [row, 4, n]        int16  T % 4    the row's room worker          the row's I/O process
    tx_tick    [row, 4]           int64  T % 4    same, after the samples        same
    tx_from    [row, 4]           int32  T % 4    same, before tx_tick           same
    leg        [row]              LEG    -        one writer per field, see LEG  control, a restarted I/O process

Rules
1. A slot counts only if its stamp (`*_tick`) is the tick asked for; everything else is silence. No reader clears anything.
2. `tx_from[row]` names the row (same bank) whose `tx` samples this row's leg shall hear, or HEARS_NOTHING.
3. Control gives rows out and takes them back; a freed row rests and its stamps are cleared before it is used again.
4. Stores become visible in order on x86-64; elsewhere writer and reader are milliseconds and a system call apart.
5. `rx_frames`, `rx_stamps`, `tx_frames`, `tx_stamps` and `tx_sources` are the same memory as [row * slots + slot]: for numpy one
   index is half the work of two.
"""

import math

import numpy as np
from numpy.typing import NDArray

from shm.clock import TICKS_PER_SECOND
from shm.segment import PAGE_BYTES, Segment

RATES_HZ = (8000, 16000, 48000)
RX_SLOTS = 32
TX_SLOTS = 4
BLOCK_ROWS = 64
HEARS_NOTHING = -1

# What a leg's I/O process must find again after its own death, and what control reads for CDRs and metrics.
#
#  offset  field               writer
#       0  generation          control   the row's owner; a worker that remembers another one lets go
#       8  packets_received    rtp
#      16  packets_lost        rtp       sequence gaps never filled
#      24  packets_late        rtp       came after their mix
#      32  ticks_concealed     rtp
#      40  jitter              rtp       RFC 3550 section 6.4.1, in RTP clock units
#      48  last_received_ns    rtp       CLOCK_MONOTONIC, 0 = never
#      56  anchor_sample       rtp       bank position (tick * n + offset) of anchor_timestamp
#      64  margin_ms           rtp       adapted playout margin
#      68  anchor_timestamp    rtp       RTP timestamp at anchor_sample
#      72  receive_ssrc        rtp
#      76  send_ssrc           rtp
#      80  send_timestamp      rtp       of tick 0; tick T carries this + T * clock / 50, so it goes on by itself
#      84  send_sequence       rtp       of the next packet
#      86  receive_sequence    rtp       highest seen, with
#      88  receive_cycles      rtp       its wrap-arounds
#      90  latched_port        rtp       0 = not latched
#      92  is_anchored         rtp
#      93  address_family      rtp       4 or 6
#      96  latched_address     rtp       network order, 4 or 16 bytes used
#     112  level               rtp       RMS of the last decoded frame
#     116  digits_received     rtp
#     120  event_timestamp     rtp       RTP timestamp of the last RFC 4733 event reported
#     124  round_trip_ms       rtp       from RTCP, 0 = unknown
LEG = np.dtype(
    {
        "names": [
            "generation",
            "packets_received",
            "packets_lost",
            "packets_late",
            "ticks_concealed",
            "jitter",
            "last_received_ns",
            "anchor_sample",
            "margin_ms",
            "anchor_timestamp",
            "receive_ssrc",
            "send_ssrc",
            "send_timestamp",
            "send_sequence",
            "receive_sequence",
            "receive_cycles",
            "latched_port",
            "is_anchored",
            "address_family",
            "latched_address",
            "level",
            "digits_received",
            "event_timestamp",
            "round_trip_ms",
        ],
        "formats": [
            "i8",
            "i8",
            "i8",
            "i8",
            "i8",
            "f8",
            "i8",
            "i8",
            "f4",
            "u4",
            "u4",
            "u4",
            "u4",
            "u2",
            "u2",
            "u2",
            "u2",
            "u1",
            "u1",
            ("u1", 16),
            "f4",
            "u4",
            "u4",
            "f4",
        ],
        "offsets": [
            0, 8, 16, 24, 32, 40, 48, 56, 64, 68, 72, 76, 80, 84, 86, 88, 90, 92, 93, 96, 112, 116, 120, 124,
        ],
        "itemsize": 128,
    }
)  # fmt: skip


class Bank:
    """All rows of one sample rate. Arrays as in the module's table; `rate_hz`, `frame_samples`, `rows`."""

    def __init__(self, rate_hz: int, rows: int, label: str) -> None:
        self.rate_hz = rate_hz
        self.rows = rows
        self.frame_samples = rate_hz // TICKS_PER_SECOND
        shapes: dict[str, tuple[tuple[int, ...], np.dtype[np.generic]]] = {
            "rx": ((rows, RX_SLOTS, self.frame_samples), np.dtype(np.int16)),
            "rx_tick": ((rows, RX_SLOTS), np.dtype(np.int64)),
            "tx": ((rows, TX_SLOTS, self.frame_samples), np.dtype(np.int16)),
            "tx_tick": ((rows, TX_SLOTS), np.dtype(np.int64)),
            "tx_from": ((rows, TX_SLOTS), np.dtype(np.int32)),
            "leg": ((rows,), LEG),
        }
        self._regions: list[tuple[int, int]] = []  # (offset, bytes per row)
        offset = 0
        for shape, dtype in shapes.values():
            per_row = math.prod(shape[1:]) * dtype.itemsize
            self._regions.append((offset, per_row))
            offset += -(-rows * per_row // PAGE_BYTES) * PAGE_BYTES
        self._segment = Segment(f"{label}-{rate_hz}", offset)
        self.rx: NDArray[np.int16]
        self.rx_tick: NDArray[np.int64]
        self.tx: NDArray[np.int16]
        self.tx_tick: NDArray[np.int64]
        self.tx_from: NDArray[np.int32]
        self.leg: NDArray[np.void]
        for (start, per_row), (name, (shape, dtype)) in zip(self._regions, shapes.items(), strict=True):
            flat = np.frombuffer(self._segment.memory, np.uint8, rows * per_row, start)
            setattr(self, name, flat.view(dtype).reshape(shape))
        self.rx_frames, self.tx_frames = (each.reshape(-1, self.frame_samples) for each in (self.rx, self.tx))
        self.rx_stamps, self.tx_stamps = self.rx_tick.reshape(-1), self.tx_tick.reshape(-1)
        self.tx_sources = self.tx_from.reshape(-1)

    def back_block(self, block: int) -> None:
        """Give memory to rows [64 * block, 64 * block + 64). Raises ResourceError when there is none."""
        for start, per_row in self._regions:
            self._segment.back(start + block * BLOCK_ROWS * per_row, BLOCK_ROWS * per_row)

    def clear(self, row: int) -> None:
        """Make a resting row look never used. For control only, while nobody else holds the row."""
        self.rx_tick[row] = 0
        self.tx_tick[row] = 0
        self.tx_from[row] = HEARS_NOTHING
        generation = self.leg["generation"][row]
        self.leg[row] = np.zeros((), LEG)
        self.leg["generation"][row] = generation
