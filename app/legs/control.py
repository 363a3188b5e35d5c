"""What may be done to any leg: look, hang up, mute, hold, digits.

Runs in: control.
Owns: the checks and replies of contract legs.md sections 2, 5.1, 5.5 to 5.7.
"""

from typing import Any

from app.legs.leg import Leg
from app.legs.legs import DECLINED, Legs
from app.legs.requests import DeleteLeg, Digits, check_digits
from shm.errors import CallerError, RoomtoneError
from shm.messages import Hold, SendDigits

REJECTIONS = {
    "busy": 486,
    "declined": 603,
    "rejected": 603,
    "unavailable": 480,
    "not_found": 404,
    "forbidden": 403,
    "server_error": 500,
}
HOLD_TIMEOUT_S = 35.0  # a re-INVITE is given up after 32 s (RFC 3261, Timer B)


class Control:
    def __init__(self, legs: Legs) -> None:
        self._legs = legs

    async def list(self) -> list[dict[str, Any]]:
        return [leg.view() for leg in self._legs]

    async def get(self, *, leg_id: str) -> dict[str, Any]:
        return self._legs.get(leg_id).view()

    async def delete(self, *, leg_id: str, request: DeleteLeg) -> dict[str, Any]:
        leg = self._legs.get(leg_id)
        status, reason = DECLINED, "api_hangup"
        if leg.is_unanswered_inbound and request.reason:
            if request.reason not in REJECTIONS:
                raise CallerError(f"unknown reason {request.reason!r}")
            status, reason = REJECTIONS[request.reason], request.reason
        self._legs.hang_up(leg, reason, status)
        return {"status": "hanging_up"}

    # ---------------------------------------------------------------------------------------- mute and deaf

    async def mute(self, *, leg_id: str) -> dict[str, Any]:
        return await self._set(leg_id, "muted", muted=True)

    async def unmute(self, *, leg_id: str) -> dict[str, Any]:
        return await self._set(leg_id, "unmuted", muted=False)

    async def deafen(self, *, leg_id: str) -> dict[str, Any]:
        return await self._set(leg_id, "deaf", deaf=True)

    async def undeafen(self, *, leg_id: str) -> dict[str, Any]:
        return await self._set(leg_id, "undeaf", deaf=False)

    async def _set(
        self, leg_id: str, word: str, *, muted: bool | None = None, deaf: bool | None = None
    ) -> dict[str, Any]:
        """`word` is both the reply's status and the event's name."""
        leg = self._legs.get(leg_id)
        async with leg.lock:
            self._legs.get(leg_id)  # it may have ended while we waited
            if muted is not None:
                leg.facts.muted = muted
            if deaf is not None:
                leg.facts.deaf = deaf
            self._legs.save(leg)
            self._legs.publish(leg, f"leg.{word}")
            self._legs.follow_speech(leg)
            await self._legs.rooms.refresh(leg)
        return {"status": word}

    # ---------------------------------------------------------------------------------------- hold

    async def hold(self, *, leg_id: str) -> dict[str, Any]:
        return self._begin_hold(leg_id, held=True)

    async def unhold(self, *, leg_id: str) -> dict[str, Any]:
        return self._begin_hold(leg_id, held=False)

    def _begin_hold(self, leg_id: str, *, held: bool) -> dict[str, Any]:
        leg = self._legs.get(leg_id)
        if leg.facts.state not in ("connected", "held"):
            raise CallerError(f"leg is {leg.facts.state}", 409)
        self._legs.spawn(self._hold(leg, held=held))
        return {"status": "holding" if held else "unholding"}

    async def _hold(self, leg: Leg, *, held: bool) -> None:
        async with leg.lock:
            if leg.is_over or (leg.facts.state == "held") == held:
                return
            try:  # MediaChanged, which comes before the answer, changes the state and tells the world
                await self._legs.supervisor.sip.call(Hold(leg_id=leg.facts.id, held=held), HOLD_TIMEOUT_S)
            except RoomtoneError as error:
                self._legs.command_failed(leg, "hold" if held else "unhold", error)

    # ---------------------------------------------------------------------------------------- digits

    async def send_digits(self, *, leg_id: str, request: Digits) -> dict[str, Any]:
        leg = self._legs.get(leg_id)
        digits = check_digits(request.digits)
        if leg.facts.state not in ("connected", "held", "early_media"):
            raise CallerError(f"leg is {leg.facts.state}", 409)
        try:
            await self._legs.paths.worker(leg).call(SendDigits(leg_id=leg_id, digits=digits))
        except CallerError as error:
            raise CallerError(str(error), 409) from None
        return {"status": "sent"}

    async def accept_digits(self, *, leg_id: str) -> dict[str, Any]:
        return self._accept_digits(leg_id, "dtmf_accepting", accepts=True)

    async def reject_digits(self, *, leg_id: str) -> dict[str, Any]:
        return self._accept_digits(leg_id, "dtmf_rejecting", accepts=False)

    def _accept_digits(self, leg_id: str, status: str, *, accepts: bool) -> dict[str, Any]:
        leg = self._legs.get(leg_id)
        leg.facts.accept_dtmf = accepts
        self._legs.save(leg)
        return {"status": status}
