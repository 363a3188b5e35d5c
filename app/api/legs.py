"""Operations on legs (contract legs.md). Runs in: control."""

from app.api.operations import Operation, bind
from app.legs.answering import Answering
from app.legs.control import Control
from app.legs.dialling import Dialling
from app.legs.requests import AnswerLeg, CreateLeg, DeleteLeg, Digits, EarlyMedia
from app.rooms.conference import Conference

LEGS = "/v1/legs"
LEG = LEGS + "/{leg_id}"

DIALLING = (
    Operation(
        method="POST",
        path=LEGS,
        handler=Dialling.create,
        request=CreateLeg,
        status=201,
        command="create_leg",
        summary="Call somebody",
    ),
)

CONTROL = (
    Operation(method="GET", path=LEGS, handler=Control.list, command="list_legs", summary="All legs"),
    Operation(method="GET", path=LEG, handler=Control.get, command="get_leg", summary="One leg"),
    Operation(
        method="DELETE",
        path=LEG,
        handler=Control.delete,
        request=DeleteLeg,
        status=202,
        command="delete_leg",
        summary="Hang up",
    ),
    Operation(method="POST", path=LEG + "/mute", handler=Control.mute, command="mute_leg", summary="Mute"),
    Operation(method="DELETE", path=LEG + "/mute", handler=Control.unmute, command="unmute_leg", summary="Unmute"),
    Operation(method="POST", path=LEG + "/deaf", handler=Control.deafen, command="deaf_leg", summary="Make deaf"),
    Operation(method="DELETE", path=LEG + "/deaf", handler=Control.undeafen, command="undeaf_leg", summary="Make hear"),
    Operation(method="POST", path=LEG + "/hold", handler=Control.hold, status=202, command="hold_leg", summary="Hold"),
    Operation(
        method="DELETE", path=LEG + "/hold", handler=Control.unhold, status=202, command="unhold_leg", summary="Unhold"
    ),
    Operation(
        method="POST",
        path=LEG + "/dtmf",
        handler=Control.send_digits,
        request=Digits,
        command="send_leg_dtmf",
        summary="Send DTMF digits",
    ),
    Operation(
        method="POST",
        path=LEG + "/dtmf/accept",
        handler=Control.accept_digits,
        command="accept_leg_dtmf",
        summary="Relay the digits of others to this leg",
    ),
    Operation(
        method="POST",
        path=LEG + "/dtmf/reject",
        handler=Control.reject_digits,
        command="reject_leg_dtmf",
        summary="Relay no digits to this leg",
    ),
)

ANSWERING = (
    Operation(
        method="POST",
        path=LEG + "/answer",
        handler=Answering.answer,
        request=AnswerLeg,
        status=202,
        command="answer_leg",
        summary="Answer an inbound call",
    ),
    Operation(
        method="POST",
        path=LEG + "/early-media",
        handler=Answering.early_media,
        request=EarlyMedia,
        status=202,
        command="leg_early_media",
        summary="Send 183 with audio",
    ),
    Operation(
        method="POST",
        path=LEG + "/ring",
        handler=Answering.ring,
        status=202,
        command="leg_ring",
        summary="Send 180",
    ),
)


def leg_operations(conference: Conference) -> list[Operation]:
    return [
        *bind(DIALLING, conference.dialling),
        *bind(CONTROL, conference.control),
        *bind(ANSWERING, conference.answering),
    ]
