"""The object graph of control, and the order of its beginning and its end.

Runs in: control.
Owns: nothing but the order.

Rules
1. Beginning: read the ledger, meet or start the workers, go on with what a predecessor had begun, then serve.
2. End: hang up, deliver what is queued, tell the workers to leave. Without `hang_up` the workers stay for the successor.
"""

import asyncio

import structlog

from app.api.application import Api, create_api
from app.api.legs import leg_operations
from app.api.operations import overlay
from app.api.room_socket import RoomSocket
from app.api.rooms import room_operations
from app.api.services import service_operations
from app.api.unbuilt import CONTRACT
from app.api.vsi import EventSocket
from app.config import Config
from app.events.bus import Bus
from app.events.webhooks import Destination, Webhooks
from app.ledger import Ledger
from app.logs import outlet
from app.metrics import Metrics
from app.rooms.conference import Conference
from app.services.services import Services
from app.supervisor import Supervisor
from shm.instance import Instance

WEBHOOK_PATIENCE_S = 5.0
LOG_FLUSH_S = 1.0

log = structlog.get_logger("control")


class Control:
    def __init__(self, config: Config, instance: Instance, ledger: Ledger) -> None:
        metrics = Metrics()
        operator = Destination(config.webhook_url, config.webhook_secret) if config.webhook_url else None
        self._ledger = ledger
        self._webhooks = Webhooks(
            ledger,
            metrics,
            operator=operator,
            private_allowed=config.fetch_allow_private,
            ca_bundle=config.requests_ca_bundle,
        )
        bus = Bus(config.instance_id, self._webhooks, metrics, buffer_size=config.vsi_event_buffer_size)
        self._conference = conference = Conference(
            config=config,
            ledger=ledger,
            bus=bus,
            webhooks=self._webhooks,
            metrics=metrics,
            banks=instance.banks,
        )
        self._supervisor = Supervisor(config, instance)
        self._supervisor.handlers = conference
        conference.attach(self._supervisor)
        services = Services(conference)
        metrics.watch(
            legs=lambda: [(leg.facts.type, leg.facts.state) for leg in conference.legs],
            rooms=lambda: len(conference.rooms),
            room_sockets=lambda: len(services.clients),
            stats=instance.stats,
            stats_rows=self._supervisor.stats_rows,
        )
        operations = overlay(
            CONTRACT, [*leg_operations(conference), *room_operations(conference), *service_operations(services)]
        )
        self.api: Api = create_api(
            instance_id=config.instance_id,
            operations=operations,
            sockets=[EventSocket(bus, operations, metrics), RoomSocket(services.clients)],
            render_metrics=metrics.render,
            allowed=config.allowed_ips,
            trusts_proxy=config.trust_proxy_headers,
        )

    async def start(self) -> None:
        self._keep_house()
        await self._webhooks.start()
        recovery = self._conference.recovery
        recovery.load()
        await self._supervisor.start()
        recovery.resume()

    def _keep_house(self) -> None:
        """Log lines that stdout did not take at once go out when it does, not with the next line."""
        outlet.flush()
        asyncio.get_running_loop().call_later(LOG_FLUSH_S, self._keep_house)

    async def end(self, *, hang_up: bool) -> None:
        if hang_up:
            await self._conference.end_all()
            await self._webhooks.stop(WEBHOOK_PATIENCE_S)
            await self._supervisor.stop()
        else:
            await self._webhooks.stop(0)
        self._ledger.close()
