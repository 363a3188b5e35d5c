"""Numbers for Prometheus (contract README.md, section 7; then our own, named roomtone_*).

Runs in: control.
Owns: the names, and what a scrape reads: counters that control keeps, gauges asked from control's registries, and the stats rows of
all processes in shared memory. No worker is asked.

Rules
1. Legs, rooms and clients are asked at each scrape; counters are told by whoever owns the change.
2. Stats rows only grow: a row stays with its kind of process for the life of the instance, also after its process ended.

Not here: the layout of a stats row -> `shm/stats.py`.
"""

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from app.logs import outlet
from shm.stats import LATENESS_EDGES_MS, Stats

disable_created_metrics()  # type: ignore[no-untyped-call]  # text format 0.0.4 has no such samples

DURATION_BUCKETS_S = (5, 15, 30, 60, 120, 300, 600, 1800, 3600)

LegCounts = Iterable[tuple[str, str]]  # (type, state) of each leg
StatsRows = Iterable[tuple[str, int]]  # (kind of process, index of a stats row), every row ever given out

# field of a stats row -> name and help of the counter it becomes
_COUNTERS = {
    "ticks": ("roomtone_ticks", "Ticks done"),
    "ticks_skipped": ("roomtone_ticks_skipped", "Ticks skipped for being more than a period late"),
    "frames_missing": ("roomtone_frames_missing", "Frames that were not there when their tick was mixed"),
    "packets_received": ("roomtone_packets_received", "RTP packets received"),
    "packets_sent": ("roomtone_packets_sent", "RTP packets sent"),
    "packets_late": ("roomtone_packets_late", "RTP packets that came after their mix"),
    "packets_lost": ("roomtone_packets_lost", "RTP packets that never came"),
    "packets_refused": ("roomtone_packets_refused", "Packets refused as hostile, stray or truncated"),
    "frames_concealed": ("roomtone_frames_concealed", "Frames made up for lost ones"),
    "commands_late": ("roomtone_commands_late", "Commands that came after the tick they named"),
    "messages_dropped": ("roomtone_messages_dropped", "Telemetry messages that found no room in their channel"),
}


class Metrics:
    """Give it the registries by `watch` before the first scrape; without them it renders control's own counters only."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._legs: Callable[[], LegCounts] = tuple
        self._rooms: Callable[[], int] = int
        self._room_sockets: Callable[[], int] = int
        self._stats: Stats | None = None
        self._stats_rows: Callable[[], StatsRows] = tuple

        counter = self._counter
        self.legs_total = counter("voiceblender_legs", "Legs that reached a state", "type", "state")
        self.disconnect_reasons = counter("voiceblender_disconnect_reasons", "Ended legs", "type", "reason")
        self.call_duration = self._histogram("voiceblender_call_duration_seconds", "Answered part of a call")
        self.call_total_duration = self._histogram("voiceblender_call_total_duration_seconds", "Whole life of a leg")
        self.webhook_enqueued = counter("voiceblender_webhook_enqueued", "Events queued for a webhook")
        self.webhook_dropped = counter("voiceblender_webhook_dropped", "Events dropped because the queue was full")
        self.webhook_deliveries = counter("voiceblender_webhook_deliveries", "Webhook events by outcome", "outcome")
        self.vsi_events_dropped = counter("voiceblender_vsi_events_dropped", "Events event WebSockets had no room for")
        self.events_published = counter("roomtone_events_published", "Events published", "type")
        self.event_sockets_sent = counter("roomtone_vsi_events_sent", "Events written to event WebSockets")
        for outcome in ("success", "exhausted", "marshal_error", "request_error"):
            self.webhook_deliveries.labels(outcome)
        self._registry.register(self)  # a collector by its `collect`

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(name, text, ("type",), buckets=DURATION_BUCKETS_S, registry=self._registry)

    def watch(
        self,
        *,
        legs: Callable[[], LegCounts],
        rooms: Callable[[], int],
        room_sockets: Callable[[], int] = int,
        stats: Stats | None = None,
        stats_rows: Callable[[], StatsRows] = tuple,
    ) -> None:
        """What a scrape asks: (type, state) of every leg, how many rooms and clients of theirs, and which stats row is whose."""
        self._legs, self._rooms, self._room_sockets = legs, rooms, room_sockets
        self._stats, self._stats_rows = stats, stats_rows

    def leg_reached(self, leg_type: str, state: str) -> None:
        """A leg came to `ringing` or `connected` for the first time."""
        self.legs_total.labels(leg_type, state).inc()

    def leg_ended(self, leg_type: str, reason: str, *, answered_s: float, total_s: float) -> None:
        self.legs_total.labels(leg_type, "disconnected").inc()
        self.disconnect_reasons.labels(leg_type, reason).inc()
        self.call_total_duration.labels(leg_type).observe(total_s)
        if answered_s > 0:
            self.call_duration.labels(leg_type).observe(answered_s)

    def render(self) -> bytes:
        """Text format 0.0.4."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        tally = Tally(self._legs())
        yield GaugeMetricFamily("voiceblender_active_legs", "Legs that exist", tally.total())
        rooms = self._rooms()
        yield GaugeMetricFamily("voiceblender_active_rooms", "Rooms that exist", rooms)
        yield GaugeMetricFamily("roomtone_rooms", "Rooms that exist", rooms)
        yield GaugeMetricFamily("roomtone_room_sockets", "WebSocket clients in rooms", self._room_sockets())
        legs = GaugeMetricFamily("roomtone_legs", "Legs that exist", labels=("type", "state"))
        for (leg_type, state), count in tally.items():
            legs.add_metric((leg_type, state), count)
        yield legs
        yield CounterMetricFamily(
            "roomtone_log_lines_dropped", "Log lines that stdout did not take", outlet.dropped_total
        )
        yield from self._collect_stats()

    def _collect_stats(self) -> Iterator[Metric]:
        lateness = HistogramMetricFamily(
            "roomtone_tick_lateness_seconds", "Wake-up after its deadline", labels=("process",)
        )
        counters = {
            field: CounterMetricFamily(name, text, labels=("process",)) for field, (name, text) in _COUNTERS.items()
        }
        rows_by_kind: dict[str, list[int]] = {}
        for kind, row in self._stats_rows():
            rows_by_kind.setdefault(kind, []).append(row)
        for kind, rows in rows_by_kind.items() if self._stats is not None else ():
            assert self._stats is not None
            table = self._stats.table[rows]
            for field, family in counters.items():
                family.add_metric((kind,), float(table[field].sum()))
            cumulated = np.cumsum(table["lateness"].sum(axis=0))
            edges = [str(edge / 1000) for edge in LATENESS_EDGES_MS] + ["+Inf"]
            lateness.add_metric(
                (kind,),
                [(edge, float(count)) for edge, count in zip(edges, cumulated, strict=True)],
                float(table["lateness_sum_ns"].sum()) / 1e9,
            )
        yield from counters.values()
        yield lateness
