"""Webhooks: each event to one URL, in order, at least once (contract events.md, section 3).

Runs in: control.
Owns: who is registered, the queue of events to deliver, their copies in the ledger, retries.

Rules
1. The destination is fixed when an event is published: the leg's webhook, else the room's, else the operator's, else none.
2. A lane is one leg (else room) and one URL. A lane delivers one event after the other; lanes do not wait for each other.
   Without a leg and a room the URL alone is the lane.
3. At most PARALLEL attempts at once; a lane that waits for its next attempt holds no place.
4. The queue holds QUEUE_LIMIT events of all lanes; a new one that finds it full is dropped, counted and logged.
5. What is queued is in the ledger until it is delivered or given up: a successor sends identical bytes.
6. Redirects 301-303 count as failures, 307 and 308 are followed up to REDIRECTS_LIMIT times.
"""

import asyncio
import hashlib
import hmac
import ssl
from collections import deque
from typing import Literal

import aiohttp
import msgspec
from yarl import URL

from app.ledger import Ledger
from app.logs import log
from app.metrics import Metrics
from shm.clock import monotonic_ns
from shm.reach import GuardedResolver, Reach, plain_address, proxy_for

QUEUE_LIMIT = 1000
PARALLEL = 10
ATTEMPT_TIMEOUT_S = 10.0
PAUSES_S = (0.0, 2.0, 4.0)  # before each attempt
REDIRECTS_LIMIT = 5
# A connection left open is used again only this long: a receiver that closes idle ones would cost a failed attempt.
KEEP_ALIVE_S = 2.0
LOG_PAUSE_NS = 1_000_000_000

_LEG, _ROOM, _EVENT = "webhook_leg", "webhook_room", "webhook_event"  # kinds in the ledger
Outcome = Literal["success", "exhausted", "request_error"]


class Destination(msgspec.Struct, frozen=True):
    url: str
    secret: str = ""
    by_operator: bool = False  # set by WEBHOOK_URL: may lead to any address


class Delivery(msgspec.Struct, frozen=True):
    """One event on its way."""

    destination: Destination
    subject: str  # leg id, else room id
    event_id: str
    body: bytes


class Webhooks:
    """`operator`: WEBHOOK_URL and its secret. `start` before the first event; registrations are read when made."""

    def __init__(
        self,
        ledger: Ledger,
        metrics: Metrics,
        *,
        operator: Destination | None = None,
        private_allowed: bool = True,
        ca_bundle: str = "",
        pauses_s: tuple[float, ...] = PAUSES_S,
    ) -> None:
        self._ledger = ledger
        self._metrics = metrics
        self._operator = operator
        self._reach = Reach(private_allowed=private_allowed)
        self._ca_bundle = ca_bundle
        self._pauses_s = pauses_s
        self._legs = ledger.load(_LEG, Destination)
        self._rooms = ledger.load(_ROOM, Destination)
        self._lanes: dict[tuple[str, str], deque[Delivery]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(PARALLEL)
        self._queued = 0
        self._dropped = 0
        self._logged_ns = 0
        self._session: aiohttp.ClientSession
        self._guarded_session: aiohttp.ClientSession

    # ------------------------------------------------------------------------------------------ registrations

    def register_leg(self, leg_id: str, url: str, secret: str = "") -> None:
        self._legs[leg_id] = Destination(url, secret)
        self._ledger.put(_LEG, leg_id, self._legs[leg_id])

    def register_room(self, room_id: str, url: str, secret: str = "") -> None:
        self._rooms[room_id] = Destination(url, secret)
        self._ledger.put(_ROOM, room_id, self._rooms[room_id])

    def unregister_leg(self, leg_id: str) -> None:
        """Later events of the leg go elsewhere; what is queued stays on its way."""
        if self._legs.pop(leg_id, None):
            self._ledger.drop(_LEG, leg_id)

    def unregister_room(self, room_id: str) -> None:
        if self._rooms.pop(room_id, None):
            self._ledger.drop(_ROOM, room_id)

    def destination(self, leg_id: str, room_id: str) -> Destination | None:
        return self._legs.get(leg_id) or self._rooms.get(room_id) or self._operator

    # ------------------------------------------------------------------------------------------ queue

    async def start(self) -> None:
        """Go on with what a predecessor left."""
        tls = ssl.create_default_context()
        if self._ca_bundle:
            tls.load_verify_locations(self._ca_bundle)
        timeout = aiohttp.ClientTimeout(total=ATTEMPT_TIMEOUT_S)
        self._session, self._guarded_session = (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=tls, keepalive_timeout=KEEP_ALIVE_S, resolver=resolver),
                timeout=timeout,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
            for resolver in (None, GuardedResolver(self._reach))
        )
        for delivery in self._ledger.load(_EVENT, Delivery).values():
            self._line_up(delivery)

    def enqueue(self, destination: Destination, subject: str, event_id: str, body: bytes) -> None:
        """Queue one event; it is safe in the ledger when this returns. Never blocks."""
        if self._queued >= QUEUE_LIMIT:
            self._metrics.webhook_dropped.inc()
            self._log_drop()
            return
        self._metrics.webhook_enqueued.inc()
        delivery = Delivery(destination, subject, event_id, body)
        self._ledger.put(_EVENT, event_id, delivery)
        self._line_up(delivery)

    def _line_up(self, delivery: Delivery) -> None:
        self._queued += 1
        lane = (delivery.subject, delivery.destination.url)
        if lane in self._lanes:
            self._lanes[lane].append(delivery)
            return
        self._lanes[lane] = deque((delivery,))
        task = asyncio.ensure_future(self._work(lane))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _log_drop(self) -> None:
        self._dropped += 1
        now_ns = monotonic_ns()
        if now_ns - self._logged_ns > LOG_PAUSE_NS:
            log.warning("webhook_queue_full", dropped=self._dropped, limit=QUEUE_LIMIT)
            self._dropped, self._logged_ns = 0, now_ns

    async def stop(self, patience_s: float) -> None:
        """Deliver on for at most `patience_s`; what is left stays in the ledger."""
        if self._tasks and patience_s > 0:
            await asyncio.wait(self._tasks, timeout=patience_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._queued:
            log.warning("webhook_events_undelivered", count=self._queued)
        await self._session.close()
        await self._guarded_session.close()

    # ------------------------------------------------------------------------------------------ delivery

    async def _work(self, lane: tuple[str, str]) -> None:
        waiting = self._lanes[lane]
        while waiting:
            delivery = waiting[0]
            outcome = await self._deliver(delivery)
            self._metrics.webhook_deliveries.labels(outcome).inc()
            waiting.popleft()
            self._queued -= 1
            self._ledger.drop(_EVENT, delivery.event_id)
        del self._lanes[lane]

    async def _deliver(self, delivery: Delivery) -> Outcome:
        fault = ""
        for pause_s in self._pauses_s:
            await asyncio.sleep(pause_s)
            try:
                async with self._places:
                    status = await self._attempt(delivery)
            except (aiohttp.InvalidURL, ValueError) as error:
                log.warning("webhook_url_unusable", event_id=delivery.event_id, error=type(error).__name__)
                return "request_error"
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                fault = str(error) or type(error).__name__
            else:
                if 200 <= status < 300:
                    return "success"
                fault = f"status {status}"
        log.warning("webhook_event_given_up", event_id=delivery.event_id, error=fault)
        return "exhausted"

    async def _attempt(self, delivery: Delivery) -> int:
        """One POST, redirects that keep the method included; the status of the last reply."""
        headers = {"Content-Type": "application/json", "X-Event-Id": delivery.event_id}
        secret = delivery.destination.secret
        if secret:
            digest = hmac.new(secret.encode(), delivery.body, hashlib.sha256).hexdigest()
            headers["X-Signature-256"] = f"sha256={digest}"
        url = URL(delivery.destination.url)
        async with asyncio.timeout(ATTEMPT_TIMEOUT_S):
            for _ in range(REDIRECTS_LIMIT + 1):
                if url.scheme not in ("http", "https") or not url.host:
                    raise aiohttp.InvalidURL(url)
                proxy = proxy_for(url)
                session = self._session
                if not delivery.destination.by_operator:
                    address = plain_address(url.host)
                    if address is not None:
                        self._reach.check(url.host, address)
                    if proxy is None:  # a proxy resolves the name itself
                        session = self._guarded_session
                async with session.post(
                    url, data=delivery.body, headers=headers, proxy=proxy, allow_redirects=False
                ) as reply:
                    if reply.status not in (307, 308) or "Location" not in reply.headers:
                        return reply.status
                    url = url.join(URL(reply.headers["Location"]))
        return reply.status
