"""Operations on rooms (contract rooms.md, part A). Runs in: control."""

from app.api.operations import Operation, bind
from app.rooms.conference import Conference
from app.rooms.membership import Membership
from app.rooms.requests import AddLeg, CreateRoom
from app.rooms.rooms import Rooms

ROOMS = "/v1/rooms"
ROOM = ROOMS + "/{room_id}"

ROOM_LIFE = (
    Operation(method="GET", path=ROOMS, handler=Rooms.list, command="list_rooms", summary="All rooms"),
    Operation(
        method="POST",
        path=ROOMS,
        handler=Rooms.create,
        request=CreateRoom,
        status=201,
        command="create_room",
        summary="Create a room",
    ),
    Operation(method="GET", path=ROOM, handler=Rooms.get, command="get_room", summary="One room"),
    Operation(
        method="DELETE",
        path=ROOM,
        handler=Rooms.delete,
        command="delete_room",
        summary="End a room and the calls in it",
    ),
)

MEMBERSHIP = (
    Operation(
        method="POST",
        path=ROOM + "/legs",
        handler=Membership.add,
        request=AddLeg,
        command="add_leg_to_room",
        payload_id="room_id",
        vsi_echo=("room_id", "leg_id"),
        summary="Add a leg, or move it here from another room",
    ),
    Operation(
        method="DELETE",
        path=ROOM + "/legs/{leg_id}",
        handler=Membership.remove,
        command="remove_leg_from_room",
        payload_id="room_id",
        summary="Take a leg out",
    ),
)


def room_operations(conference: Conference) -> list[Operation]:
    return [*bind(ROOM_LIFE, conference.rooms), *bind(MEMBERSHIP, conference.membership)]
