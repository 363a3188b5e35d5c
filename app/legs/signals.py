"""What sip and rtp report, and what follows from it.

Runs in: control.
Owns: the states of a leg after `ringing` (contract legs.md section 3), DTMF relay, speech.

Rules
1. Everything that must not be lost (state, ledger, events) happens before a handler returns: then the event is acknowledged.
   What waits for other processes is begun here and goes on behind; a new control process finds in the ledger what to repeat.
2. An event may come twice (after a restart of control): one that brings nothing new changes nothing.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from app.legs.leg import Leg, LegFacts, shown_headers
from app.legs.legs import UNAVAILABLE, Legs, log
from shm.messages import (
    CallAnswered,
    CallConfirmed,
    CallEnded,
    CallReceived,
    DialogSaved,
    DigitReceived,
    EarlyMediaReceived,
    Hangup,
    Media,
    MediaChanged,
    MediaTimedOut,
    Reject,
    SendDigits,
    SpeechChanged,
)

HOLD_LIMIT_S = 2 * 3600
RETRY_AFTER_S = 10


class Signals:
    def __init__(self, legs: Legs) -> None:
        self._legs = legs
        self._warned_of_untrusted = False
        self._by_type: dict[type, Callable[[Leg, Any], None]] = {
            EarlyMediaReceived: self._early_media_received,
            CallAnswered: self._call_answered,
            CallConfirmed: self._call_confirmed,
            MediaChanged: self._media_changed,
            CallEnded: self._call_ended,
            DialogSaved: self._dialog_saved,
            DigitReceived: self._digit_received,
            MediaTimedOut: self._media_timed_out,
            SpeechChanged: self._speech_changed,
        }

    def take(self, event: Any) -> None:
        """One event of a worker."""
        if isinstance(event, CallReceived):
            self._call_received(event)
            return
        react = self._by_type[type(event)]
        leg = self._legs.find(event.dialog.leg_id if isinstance(event, DialogSaved) else event.leg_id)
        if leg is not None:
            react(leg, event)

    # ---------------------------------------------------------------------------------------- arrival

    def _call_received(self, event: CallReceived) -> None:
        legs = self._legs
        if legs.find(event.leg_id) is not None:
            return
        if legs.is_full:
            log.warning("call refused: all legs are in use", source=event.source_address)
            refusal = Reject(leg_id=event.leg_id, status=UNAVAILABLE, retry_after_s=RETRY_AFTER_S)
            legs.supervisor.sip.tell(refusal)
            return
        orders = self._orders(event)
        facts = LegFacts(
            id=event.leg_id,
            type="sip_inbound",
            app_id=orders.get("x-app-id", ""),
            headers=shown_headers(event.headers),
            detects_speech=legs.config.speech_detection_enabled,
            offered_codecs=event.offered_codecs,
            has_offer=event.has_offer,
            media_host=legs.paths.advertised_host(event.local_host),
            codecs=legs.codecs,
            created_ns=legs.clock(),
        )
        leg = Leg(facts)
        legs.add(leg)
        if url := orders.get("x-webhook-url", ""):
            secret = orders.get("x-webhook-secret", "") or legs.config.webhook_secret
            legs.webhooks.register_leg(facts.id, url, secret)
        self._announce(leg, event)

    def _orders(self, event: CallReceived) -> dict[str, str]:
        """Headers that steer us, by lower-case name; none from a stranger."""
        named = ("x-app-id", "x-webhook-url", "x-webhook-secret")
        orders = {name.lower(): value for name, value in event.headers.items() if name.lower() in named}
        if orders and not event.trusted:
            if not self._warned_of_untrusted:
                self._warned_of_untrusted = True
                log.warning("steering headers ignored: not in SIP_TRUSTED_IPS", source=event.source_address)
            return {}
        return orders

    def _announce(self, leg: Leg, event: CallReceived) -> None:
        self._legs.publish(
            leg,
            "leg.ringing",
            leg_type=leg.facts.type,
            from_=event.from_user,
            to=event.to_user,
            sip_headers=leg.facts.headers,
            offered_codecs=[msgspec.structs.asdict(one) for one in event.offered_codecs],
            source_address=event.source_address,
        )

    # ---------------------------------------------------------------------------------------- connection

    def _early_media_received(self, leg: Leg, event: EarlyMediaReceived) -> None:
        if leg.facts.connected_ns:
            return
        is_first = leg.facts.state == "ringing"
        if is_first:
            leg.facts.state = "early_media"
        self._take_media(leg, event.media)
        if is_first:
            self._legs.publish(leg, "leg.early_media", leg_type=leg.facts.type)
            self._go_on(leg)

    def _call_answered(self, leg: Leg, event: CallAnswered) -> None:
        self._connected(leg, event.media)

    def _call_confirmed(self, leg: Leg, event: CallConfirmed) -> None:
        self._connected(leg, event.media)

    def _connected(self, leg: Leg, media: Media | None) -> None:
        legs, facts = self._legs, leg.facts
        if facts.connected_ns:
            return
        facts.state = "connected"
        facts.connected_ns = legs.clock()
        legs.clear_deadline(leg, "ring_timeout")
        if facts.max_duration_s:
            legs.set_deadline(leg, "max_duration", facts.max_duration_s)
        self._take_media(leg, media)
        legs.metrics.leg_reached(facts.type, "connected")
        legs.publish(leg, "leg.connected", leg_type=facts.type)
        self._go_on(leg)

    def _go_on(self, leg: Leg) -> None:
        """Join the wished room, or settle where a leg without room belongs."""
        if leg.facts.wished_room_id:
            self._legs.spawn(self._legs.rooms.join_wished(leg))
        elif self._legs.is_misplaced(leg):
            self._legs.spawn(self._legs.settle_idle_row(leg))

    def _take_media(self, leg: Leg, media: Media | None) -> None:
        if media is not None:
            leg.facts.media = media
        self._legs.save(leg)
        if media is not None:
            self._legs.paths.set_media(leg)

    def _dialog_saved(self, leg: Leg, event: DialogSaved) -> None:
        self._legs.save_dialog(leg, event.dialog)
        if leg.facts.media is None and event.dialog.media is not None:
            self._take_media(leg, event.dialog.media)  # the answer that told us went to the control process before us

    # ---------------------------------------------------------------------------------------- hold

    def _media_changed(self, leg: Leg, event: MediaChanged) -> None:
        legs, facts = self._legs, leg.facts
        was_held = facts.state == "held"
        changes_hold = facts.connected_ns != 0 and event.held != was_held
        if changes_hold and event.held:
            facts.state = "held"
            legs.set_deadline(leg, "rtp_timeout", HOLD_LIMIT_S)
        elif changes_hold:
            facts.state = "connected"
            legs.clear_deadline(leg, "rtp_timeout")
        self._take_media(leg, event.media)
        if changes_hold:
            legs.publish(leg, "leg.hold" if event.held else "leg.unhold", leg_type=facts.type)
        if legs.is_misplaced(leg):
            legs.spawn(legs.settle_idle_row(leg))

    # ---------------------------------------------------------------------------------------- the end

    def _call_ended(self, leg: Leg, event: CallEnded) -> None:
        facts = leg.facts
        if facts.is_answered and not facts.connected_ns and event.reason == "connect_failed":
            self._legs.command_failed(leg, "answer", "no common codec, or our 200 was never acknowledged")
        self._legs.end(leg, event.reason)

    def _media_timed_out(self, leg: Leg, _event: MediaTimedOut) -> None:
        if leg.facts.state != "held":
            self._legs.hang_up(leg, "rtp_timeout")

    # ---------------------------------------------------------------------------------------- digits, speech

    def _digit_received(self, leg: Leg, event: DigitReceived) -> None:
        legs = self._legs
        leg.facts.digits_received += 1
        legs.save(leg)
        legs.publish(leg, "dtmf.received", digit=event.digit, seq=leg.facts.digits_received)
        for other in legs.rooms.neighbours(leg):
            facts = other.facts
            can_send = facts.media is not None and facts.media.event_send_type is not None and facts.state != "held"
            if facts.accept_dtmf and can_send:
                legs.paths.worker(other).tell(SendDigits(leg_id=facts.id, digits=event.digit))

    def _speech_changed(self, leg: Leg, event: SpeechChanged) -> None:
        leg.is_speaking = event.speaking
        self._legs.follow_speech(leg)

    # ---------------------------------------------------------------------------------------- a restarted sip process

    def sip_restarted(self) -> None:
        """What was still ringing is over (design.md section 5)."""
        for leg in list(self._legs):
            if leg.facts.connected_ns == 0 and leg.dialog is None:
                self._legs.supervisor.sip.tell(Hangup(leg_id=leg.facts.id))
                is_inbound = leg.facts.type == "sip_inbound"
                self._legs.end(leg, "server_error" if is_inbound else "invite_failed")
