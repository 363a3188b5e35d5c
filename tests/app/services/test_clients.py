"""Room-WebSocket clients as control knows them, from the request to whatever takes them away."""

import asyncio

import pytest

from app.services import clients as module
from app.services import services
from shm.errors import CallerError, ResourceError
from shm.messages import (
    AcceptSocket,
    AddParticipant,
    CloseSocket,
    RemoveParticipant,
    RoomInventoryPart,
    SocketClosed,
    StreamInventoryPart,
)

HEAD = b"GET / HTTP/1.1\r\n\r\n"


@pytest.fixture(autouse=True)
def hasty(monkeypatch):
    monkeypatch.setattr(module, "LOST_AFTER_S", 0)
    monkeypatch.setattr(services, "END_LIMIT_S", 0)


async def come(stage, room_id="r"):
    client_id = await stage.services.clients.admit(room_id)
    await stage.services.clients.hand_over(client_id, HEAD, 0)
    return client_id


def leave(stage, client_id):
    stage.conference.on_event(stage.supervisor.stream[0], SocketClosed(participant_id=client_id))


def rows_in_use(stage):
    return {one.row.index for one in stage.services.clients._clients.values()}


async def test_a_client_is_in_the_mix_before_stream_gets_its_connection(stage):
    await stage.room("r", sample_rate=48000)
    stage.quiet()
    client_id = await come(stage)
    (entry,) = stage.mixer("r").of(AddParticipant)
    (accept,) = stage.supervisor.stream[0].sent
    room = stage.rooms.find("r")
    assert (entry.leg_id, entry.has_track, entry.row.rate_hz) == (client_id, True, 48000)
    assert accept == AcceptSocket(participant_id=client_id, row=entry.row, phase=room.facts.phase, head=HEAD)
    assert room.is_occupied
    assert (await stage.room_view("r"))["participants"] == []
    assert stage.told() == []


async def test_a_client_that_leaves_is_forgotten_and_so_is_an_empty_room(stage):
    await stage.room("r")
    client_id = await come(stage)
    leave(stage, client_id)
    assert stage.mixer("r").sent[-1] == RemoveParticipant(room_id="r", leg_id=client_id)
    assert ("r", False) in stage.supervisor.released
    assert not stage.rooms.find("r").is_occupied
    assert stage.rooms.mixing.loads == [0, 0, 0, 0]
    leave(stage, client_id)
    assert len(stage.services.clients) == 0
    assert stage.ledger.load(module.KIND, module.ClientFacts) == {}


async def test_no_room_no_client(stage):
    with pytest.raises(CallerError) as refused:
        await stage.services.clients.admit("r")
    assert refused.value.status == 404
    assert len(stage.services.clients) == 0


async def test_no_process_to_mix_it(stage):
    await stage.room("r")
    stage.supervisor.refusals.append(ResourceError("no memory"))
    with pytest.raises(ResourceError):
        await stage.services.clients.admit("r")
    assert len(stage.services.clients) == 0


async def test_rows_run_out(stage):
    await stage.room("r", sample_rate=8000)
    for _ in range(128):
        await stage.services.clients.admit("r")
    with pytest.raises(ResourceError):
        await stage.services.clients.admit("r")
    assert len(stage.services.clients) == 128


async def test_a_room_deleted_sends_its_clients_away(stage):
    await stage.room("r")
    await stage.room("other")
    mine, theirs = await come(stage), await come(stage, "other")
    stage.quiet()
    await stage.rooms.delete(room_id="r")
    assert stage.supervisor.stream[0].sent == [CloseSocket(participant_id=mine, code=1001)]
    assert stage.told() == ["room.deleted"]
    await stage.room("r")
    leave(stage, mine)  # stream's word for it comes later
    assert not stage.rooms.find("r").is_occupied
    assert stage.rooms.find("other").guests.keys() == {theirs}


async def test_a_room_deleted_while_a_client_comes_in(stage):
    await stage.room("r")
    await come(stage)
    gate = stage.mixer("r").gates[AddParticipant] = asyncio.Event()
    coming = asyncio.ensure_future(stage.services.clients.admit("r"))
    await stage.settle()
    await stage.rooms.delete(room_id="r")
    gate.set()
    with pytest.raises(CallerError) as refused:
        await coming
    assert refused.value.status == 404
    assert len(stage.services.clients) == 0
    resting = stage.legs.paths.rows._resting[16000]
    assert sorted(index for _, index in resting) == [0, 1]  # each once


async def test_stream_cannot_take_it(stage):
    await stage.room("r")
    stage.supervisor.stream[0].failures[AcceptSocket].append(ResourceError("stream 0 was restarted"))
    with pytest.raises(ResourceError):
        await come(stage)
    assert not stage.rooms.find("r").is_occupied


async def test_the_room_ends_before_the_connection_is_handed_over(stage):
    await stage.room("r")
    client_id = await stage.services.clients.admit("r")
    await stage.rooms.delete(room_id="r")
    stage.quiet()
    with pytest.raises(ResourceError):
        await stage.services.clients.hand_over(client_id, HEAD, 0)
    assert stage.supervisor.stream[0].sent == []


async def test_a_dead_stream_process_takes_its_clients_along(stage):
    await stage.room("r")
    await come(stage)
    await come(stage)
    stage.conference.worker_restarted(stage.supervisor.stream[0])
    assert len(stage.services.clients) == 0
    assert not stage.rooms.find("r").is_occupied


async def test_the_emptiest_stream_process_gets_the_next(stage):
    first = stage.supervisor.stream[0]
    stage.supervisor.stream.append(type(first)("stream 1", "stream", 1))
    await stage.room("r")
    for _ in range(4):
        await come(stage)
    assert [len(one.of(AcceptSocket)) for one in stage.supervisor.stream] == [2, 2]


async def test_a_fresh_room_process_is_told_of_clients(stage):
    await stage.room("r")
    client_id = await come(stage)
    entries = [one for one in stage.conference.replay(stage.mixer("r")) if isinstance(one, AddParticipant)]
    assert [(one.leg_id, one.has_track) for one in entries] == [(client_id, True)]


async def test_the_server_ends(stage):
    await stage.room("r")
    client_id = await come(stage)
    await stage.conference.end_all()
    assert stage.supervisor.stream[0].sent[-1] == CloseSocket(participant_id=client_id, code=1001)


# ---------------------------------------------------------------------------------------------- a new control


async def restart_control(stage, *alive):
    """It finds the mix of `r` as it was and these clients in stream."""
    entries = stage.rooms.find("r").entries()
    phase = stage.rooms.find("r").facts.phase
    stage.restart()
    await stage.supervisor.room_worker("r")
    mixed = tuple(one.leg_id for one in entries)
    part = RoomInventoryPart(room_id="r", rate_hz=16000, phase=phase, participants=())
    stage.conference.reconcile(stage.mixer("r"), [part, RoomInventoryPart(last=True)])
    stage.conference.reconcile(stage.supervisor.stream[0], [StreamInventoryPart(session_ids=alive, last=True)])
    stage.conference.recovery.resume()
    await stage.settle()
    return mixed


async def test_a_new_control_knows_clients_again(stage):
    await stage.room("r")
    client_id = await come(stage)
    (row,) = rows_in_use(stage)
    assert await restart_control(stage, client_id) == (client_id,)
    assert stage.rooms.find("r").is_occupied
    assert stage.mixer("r").of(AddParticipant)[0].leg_id == client_id
    assert stage.supervisor.stream[0].sent == []
    other = await come(stage)
    assert rows_in_use(stage) - {row} != set()
    leave(stage, client_id)
    leave(stage, other)
    assert not stage.rooms.find("r").is_occupied


async def test_who_left_meanwhile_is_forgotten(stage):
    await stage.room("r")
    gone, here = await come(stage), await come(stage)
    await restart_control(stage, here)
    assert stage.rooms.find("r").guests.keys() == {here}
    assert RemoveParticipant(room_id="r", leg_id=gone) in stage.mixer("r").sent


async def test_whom_nobody_knows_is_sent_away(stage):
    await stage.room("r")
    await restart_control(stage, "ws-00000000")
    assert CloseSocket(participant_id="ws-00000000") in stage.supervisor.stream[0].sent


async def test_the_predecessor_died_while_it_deleted_the_room(stage):
    await stage.room("r")
    client_id = await come(stage)
    stage.ledger.drop("room", "r")
    stage.restart()
    assert len(stage.services.clients) == 0
    stage.conference.reconcile(stage.supervisor.stream[0], [StreamInventoryPart(session_ids=(client_id,), last=True)])
    await stage.settle()
    assert CloseSocket(participant_id=client_id) in stage.supervisor.stream[0].sent
