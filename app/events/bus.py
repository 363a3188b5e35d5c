"""The bus: one event becomes bytes once and is queued for whoever wants it before `publish` returns.

Runs in: control.
Owns: the envelope (contract events.md, section 1) and the subscriptions of event WebSockets.

Rules
1. `publish` is synchronous and never blocks: events of one leg or room are queued in the order they are published.
2. A subscription holds `limit` events; a new one that finds it full is dropped and counted, and the subscriber is told the count
   before the next event it gets.

Not here: who is told by HTTP and how -> `webhooks.py`; frames -> `app/api/vsi.py`; names of events -> `catalogue.py`.
"""

import asyncio
import uuid
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
from prometheus_client import Counter

from app.events.catalogue import CATALOGUE
from app.events.webhooks import Webhooks
from app.metrics import Metrics

AppFilter = Callable[[str], bool]

_encode = msgspec.json.Encoder().encode


def timestamp_now() -> str:
    """RFC 3339, UTC, microseconds always present."""
    return datetime.now(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


class Subscription:
    """One event WebSocket's share of the events. `matches` judges the event's app id ("" when it has none)."""

    def __init__(self, limit: int, matches: AppFilter | None, dropped: Counter) -> None:
        self._limit = limit
        self._matches = matches
        self._dropped_total = dropped
        self._events: deque[str] = deque()
        self._dropped = 0
        self._wake = asyncio.Event()

    def offer(self, event: str, app_id: str) -> None:
        if self._matches is not None and not self._matches(app_id):
            return
        if len(self._events) >= self._limit:
            self._dropped += 1
            self._dropped_total.inc()
            return
        self._events.append(event)
        self._wake.set()

    def take(self) -> str | None:
        """The next frame to send, None when there is none: an event, or before it the count of those dropped."""
        if not self._events:
            self._wake.clear()
            return None
        if self._dropped:
            notice = {"type": "events_dropped", "count": self._dropped, "timestamp": timestamp_now()}
            self._dropped = 0
            return _encode(notice).decode()
        return self._events.popleft()

    async def wait(self) -> None:
        """Until there is something to take."""
        await self._wake.wait()


class Bus:
    """`buffer_size`: VSI_EVENT_BUFFER_SIZE."""

    def __init__(self, instance_id: str, webhooks: Webhooks, metrics: Metrics, *, buffer_size: int = 256) -> None:
        self._instance_id = instance_id
        self._webhooks = webhooks
        self._buffer_size = buffer_size
        self._vsi_dropped = metrics.vsi_events_dropped
        self._subscriptions: set[Subscription] = set()
        self._kinds = {
            name: (frozenset(kind.fields), kind.always, metrics.events_published.labels(name))
            for name, kind in CATALOGUE.items()
        }

    def publish(self, event_type: str, *, leg_id: str = "", room_id: str = "", app_id: str = "", **fields: Any) -> None:
        """Tell everybody. A reserved word as field name takes an underscore behind it (`from_`). Fields that are None, "" or an
        empty container are left out unless the catalogue says that they are always there."""
        known, always, count = self._kinds[event_type]
        event_id = str(uuid.uuid4())
        event: dict[str, Any] = {
            "type": event_type,
            "timestamp": timestamp_now(),
            "event_id": event_id,
            "instance_id": self._instance_id,
        }
        if leg_id:
            event["leg_id"] = leg_id
        if room_id:
            event["room_id"] = room_id
        if app_id:
            event["app_id"] = app_id
        for name, value in fields.items():
            wire_name = name.rstrip("_")
            assert wire_name in known, f"{event_type} has no field {wire_name}"
            if value or isinstance(value, int | float) or wire_name in always:
                event[wire_name] = value
        body = _encode(event)
        count.inc()
        if self._subscriptions:
            text = body.decode()
            for subscription in self._subscriptions:
                subscription.offer(text, app_id)
        destination = self._webhooks.destination(leg_id, room_id)
        if destination is not None:
            self._webhooks.enqueue(destination, leg_id or room_id, event_id, body)

    def subscribe(self, matches: AppFilter | None = None) -> Subscription:
        """Active at once; end it by `unsubscribe`."""
        subscription = Subscription(self._buffer_size, matches, self._vsi_dropped)
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions.discard(subscription)
