"""Inbound legs before they are connected: ring, early media, answer.

Runs in: control.
Owns: what is done behind the 202, and what its failure means.

Rule: what waits for other processes holds the leg's lock, so early media, answer and joining follow one another.
"""

from typing import Any

from app.legs.leg import Leg
from app.legs.legs import Legs
from app.legs.paths import IDLE_RATE_HZ
from app.legs.requests import AnswerLeg, EarlyMedia
from shm.errors import CallerError, ResourceError, RoomtoneError
from shm.messages import Answer, DetectSpeech, Progress, Ring

NOT_ACCEPTABLE, INTERNAL_ERROR = 488, 500


class Answering:
    def __init__(self, legs: Legs) -> None:
        self._legs = legs

    # ---------------------------------------------------------------------------------------- requests

    async def answer(self, *, leg_id: str, request: AnswerLeg) -> dict[str, Any]:
        leg = self._inbound(leg_id)
        self._check_codec(leg, request.codec)
        if request.streams:
            raise CallerError("streams is not implemented", 501)
        if leg.facts.state not in ("ringing", "early_media"):
            raise CallerError(f"leg is {leg.facts.state}", 409)
        if not leg.facts.is_answered:
            self._set_speech_detection(leg, request.speech_detection)
            self.order(leg, request.codec)
        return {"status": "answering"}

    async def early_media(self, *, leg_id: str, request: EarlyMedia) -> dict[str, Any]:
        leg = self._inbound(leg_id)
        self._check_codec(leg, request.codec)
        if leg.facts.state != "ringing" or leg.facts.is_answered or leg.is_progressing:
            raise CallerError("leg is not ringing", 409)
        leg.is_progressing = True
        self._legs.spawn(self._progress(leg, request.codec))
        return {"status": "early_media"}

    async def ring(self, *, leg_id: str) -> dict[str, Any]:
        leg = self._inbound(leg_id)
        if leg.facts.state != "ringing" or leg.facts.is_answered:
            raise CallerError(f"leg is {leg.facts.state}", 409)
        self._legs.spawn(self._ring(leg))
        return {"status": "ringing"}

    def _inbound(self, leg_id: str) -> Leg:
        leg = self._legs.get(leg_id)
        if leg.facts.type != "sip_inbound":
            raise CallerError("not an inbound SIP leg")
        return leg

    def _check_codec(self, leg: Leg, codec: str) -> None:
        if not codec:
            return
        offered = {one.name for one in leg.facts.offered_codecs}
        if codec not in self._legs.codecs or (leg.facts.has_offer and codec not in offered):
            raise CallerError(f"codec {codec!r} is not offered or not enabled")

    def _set_speech_detection(self, leg: Leg, wish: bool | None) -> None:
        if wish is None or wish == leg.facts.detects_speech:
            return
        leg.facts.detects_speech = wish
        if leg.facts.path is not None:
            self._legs.paths.worker(leg).tell(DetectSpeech(leg_id=leg.facts.id, enabled=wish))

    # ---------------------------------------------------------------------------------------- behind the reply

    def order(self, leg: Leg, codec: str = "") -> None:
        """Begin to answer; `leg.connected` or `leg.disconnected` tells how it went."""
        leg.facts.is_answered = True
        self._legs.save(leg)
        self._legs.spawn(self._answer(leg, codec))

    async def _answer(self, leg: Leg, codec: str) -> None:
        legs = self._legs
        try:
            async with leg.lock:
                await self._open_path(leg)
                done = await legs.supervisor.sip.call(Answer(leg_id=leg.facts.id, media=leg.local_media, codec=codec))
                if done.media is not None and not leg.is_over:
                    leg.facts.media = done.media
                    legs.save(leg)
                    legs.paths.set_media(leg)
        except RoomtoneError as error:
            if not leg.is_over:
                legs.command_failed(leg, "answer", error)
                leg.facts.is_answered = False  # so that a final response ends it, not a BYE
                is_ours = isinstance(error, ResourceError)
                legs.dismiss(leg, INTERNAL_ERROR if is_ours else NOT_ACCEPTABLE)
                legs.end(leg, "server_error" if is_ours else "connect_failed")
            return
        await legs.settle_idle_row(leg)

    async def _progress(self, leg: Leg, codec: str) -> None:
        legs = self._legs
        try:
            async with leg.lock:
                await self._open_path(leg)
                done = await legs.supervisor.sip.call(Progress(leg_id=leg.facts.id, media=leg.local_media, codec=codec))
                if leg.is_over:
                    return
                leg.facts.media = done.media
                if leg.facts.state == "ringing":  # the ACK to a 200 may have been faster
                    leg.facts.state = "early_media"
                legs.save(leg)
                legs.paths.set_media(leg)
                if leg.facts.state == "early_media":
                    legs.publish(leg, "leg.early_media", leg_type=leg.facts.type)
        except RoomtoneError as error:
            legs.command_failed(leg, "early_media", error)
        finally:
            leg.is_progressing = False
        await legs.settle_idle_row(leg)

    async def _ring(self, leg: Leg) -> None:
        try:
            await self._legs.supervisor.sip.call(Ring(leg_id=leg.facts.id))
        except RoomtoneError as error:
            self._legs.command_failed(leg, "ring", error)

    async def _open_path(self, leg: Leg) -> None:
        """Where the leg will want to be: in its room's bank, if it is on its way there."""
        if leg.is_over:
            raise CallerError("the leg has ended", 404)
        if leg.facts.path is None:
            wish = leg.facts.wished_room_id
            rate_hz, phase = self._legs.rooms.seat(wish) if wish else (IDLE_RATE_HZ, None)
            await self._legs.paths.open(leg, rate_hz, phase)
            self._legs.save(leg)
