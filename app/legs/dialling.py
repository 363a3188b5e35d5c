"""Outbound legs: POST /v1/legs.

Runs in: control.
Owns: how a call is placed.

Rules
1. All checks come first, then the audio path (its port goes into our offer), then the leg exists and rings, then the INVITE.
   A request that is refused has left nothing behind.
2. The reply does not wait for the INVITE: what becomes of it is told by events.
"""

import uuid
from typing import Any

from app.legs.leg import Leg, LegFacts, shown_headers
from app.legs.legs import BUILT_CODECS, Legs, log
from app.legs.paths import IDLE_RATE_HZ
from app.legs.requests import CreateLeg, check_new_leg, host_of_sip_uri
from shm.errors import CallerError, ResourceError, RoomtoneError
from shm.messages import Credentials, Dial, Hangup


class Dialling:
    def __init__(self, legs: Legs) -> None:
        self._legs = legs

    async def create(self, *, request: CreateLeg) -> dict[str, Any]:
        legs = self._legs
        check_new_leg(request)
        codecs = self._codecs(request.codecs)
        media_host = self._media_host(request.outbound_proxy or request.to or request.uri)
        if legs.is_full:
            raise ResourceError("all legs are in use")
        facts = LegFacts(
            id=str(uuid.uuid4()),
            type="sip_outbound",
            accept_dtmf=request.accept_dtmf,
            app_id=request.app_id,
            detects_speech=_default(request.speech_detection, legs.config.speech_detection_enabled),
            media_host=media_host,
            codecs=codecs,
            created_ns=legs.clock(),
            max_duration_s=max(request.max_duration, 0),
        )
        leg = Leg(facts)
        rate_hz, phase = legs.rooms.seat(request.room_id) if request.room_id else (IDLE_RATE_HZ, None)
        await legs.paths.open(leg, rate_hz, phase)
        if request.room_id:
            legs.rooms.provide(request.room_id, request.app_id)
            facts.wished_room_id = request.room_id
        if request.ring_timeout > 0:
            legs.set_deadline(leg, "ring_timeout", request.ring_timeout)
        legs.add(leg)
        if request.webhook_url:
            legs.webhooks.register_leg(facts.id, request.webhook_url, request.webhook_secret)
        self._announce(leg, request)
        reply = leg.view()
        legs.spawn(self._dial(leg, request))
        return reply

    def _announce(self, leg: Leg, request: CreateLeg) -> None:
        self._legs.publish(
            leg,
            "leg.ringing",
            leg_type=leg.facts.type,
            uri=request.to or request.uri,
            from_=request.from_,
            sip_headers=shown_headers(request.headers),
        )

    def _codecs(self, wished: list[str] | None) -> tuple[str, ...]:
        if wished is None:
            return self._legs.codecs
        codecs = tuple(dict.fromkeys(name for name in wished if name in BUILT_CODECS))
        if wished and not codecs:
            raise CallerError("codecs: none of these is available")
        return codecs or self._legs.codecs

    def _media_host(self, target: str) -> str:
        """An offer's address family follows the destination; a host name counts as IPv4."""
        config = self._legs.config
        if host_of_sip_uri("to", target).startswith("[") and config.sip_bind_ipv6:
            return config.sip_bind_ipv6
        return self._legs.paths.advertised_host("")

    async def _dial(self, leg: Leg, request: CreateLeg) -> None:
        legs = self._legs
        auth = request.auth
        command = Dial(
            leg_id=leg.facts.id,
            target=request.to or request.uri,
            media=leg.local_media,
            from_uri=request.from_,
            headers=request.headers,
            privacy=request.privacy,
            auth=Credentials(username=auth.username, password=auth.password) if auth else None,
            outbound_proxy=request.outbound_proxy,
        )
        try:
            await legs.supervisor.sip.call(command)
        except RoomtoneError as error:
            log.info("dial", leg_id=leg.facts.id, error=str(error))
            legs.supervisor.sip.tell(Hangup(leg_id=leg.facts.id))
            legs.end(leg, "invite_failed")


def _default(wish: bool | None, default: bool) -> bool:
    return default if wish is None else wish
