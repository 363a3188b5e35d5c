"""What control makes of agents when requests, moves and ends cross each other; with real vendors: `tests/flows/agents/`."""

import asyncio

import pytest

from app.services.requests import AgentMessage, DeepgramAgent, PipecatAgent
from shm.errors import CallerError, PeerError, ResourceError
from shm.messages import (
    AddParticipant,
    AgentConnected,
    AgentEnded,
    MoveTap,
    RemoveParticipant,
    SendAgentMessage,
    StartAgent,
    StopAgent,
    StreamInventoryPart,
)

BOT = PipecatAgent(websocket_url="ws://bot.example/")


async def start(stage, **where):
    reply = await stage.services.agents.start_pipecat(request=BOT, **where)
    await stage.settle()
    return reply


def gate_mixer(stage, room_id):
    """Entries into the room are answered when the event is set."""
    gate = stage.mixer(room_id).gates[AddParticipant] = asyncio.Event()
    return gate


@pytest.fixture
async def leg_id(stage):
    """In room r."""
    leg_id = await stage.connected_in()
    await stage.add("r", leg_id)
    return leg_id


async def test_stopped_on_its_way_after_its_leg_it_is_nowhere(stage, leg_id):
    await start(stage, leg_id=leg_id)
    await stage.add("s", leg_id)
    gate = gate_mixer(stage, "s")
    await stage.settle()
    await stage.services.agents.stop(leg_id=leg_id)
    gate.set()
    await stage.settle()
    assert not stage.rooms.find("r").guests
    assert not stage.rooms.find("s").guests
    assert isinstance(stage.mixer("s").sent[-1], RemoveParticipant)
    assert stage.told().count("agent.disconnected") == 1


async def test_stopped_on_its_way_in_it_is_nowhere(stage, leg_id):
    gate = gate_mixer(stage, "r")
    await start(stage, room_id="r")
    await stage.services.agents.stop(room_id="r")
    gate.set()
    await stage.settle()
    assert not stage.rooms.find("r").guests
    assert not stage.supervisor.stream[0].of(StartAgent)


async def test_its_leg_ends_on_its_way(stage, leg_id):
    await start(stage, leg_id=leg_id)
    await stage.add("s", leg_id)
    gate = gate_mixer(stage, "s")
    await stage.settle()
    await stage.delete_leg(leg_id)
    gate.set()
    await stage.settle()
    assert not stage.rooms.find("s").guests
    assert stage.told().count("agent.disconnected") == 1


async def test_messages_wait_for_the_vendor_and_fail_by_blame(stage, leg_id):
    agents, stream = stage.services.agents, stage.supervisor.stream[0]

    async def refused(status):
        with pytest.raises(CallerError) as caught:
            await agents.send_message(request=AgentMessage(message="psst"), room_id="r")
        assert caught.value.status == status

    await refused(404)
    await start(stage, room_id="r")
    await refused(409)
    (started,) = stream.of(StartAgent)
    stage.conference.on_event(stream, AgentConnected(session_id=started.session_id, conversation_id="c"))
    assert await agents.send_message(request=AgentMessage(message="psst"), room_id="r") == {"status": "message_sent"}
    for fault, status in ((CallerError("not connected"), 409), (PeerError("gone"), 500), (ResourceError("dead"), 500)):
        stream.failures[SendAgentMessage].append(fault)
        await refused(status)


async def test_the_ledger_does_not_know_the_key(stage, leg_id):
    request = DeepgramAgent(api_key="hush-hush", greeting="hi")
    await stage.services.agents.start_deepgram(request=request, leg_id=leg_id)
    await stage.settle()
    (started,) = stage.supervisor.stream[0].of(StartAgent)
    assert (started.api_key, b'"hi"' in started.settings) == ("hush-hush", True)
    (facts,) = stage.ledger.load("agent", dict).values()
    assert facts["provider"] == "deepgram"
    assert "hush-hush" not in repr(facts)


async def test_whatever_ends_it_it_ends_once(stage, leg_id):
    agents, stream = stage.services.agents, stage.supervisor.stream[0]
    await start(stage, room_id="r")
    (started,) = stream.of(StartAgent)
    connected = AgentConnected(session_id=started.session_id, conversation_id="c")
    ended = AgentEnded(session_id=started.session_id, error="gone")
    for event in (connected, connected, ended, ended, connected):
        stage.conference.on_event(stream, event)
    agents.stream_restarted(stream)
    assert [kind for kind in stage.told() if kind.startswith("agent.")] == ["agent.connected", "agent.disconnected"]
    assert stream.of(StopAgent)
    assert not stage.rooms.find("r").guests


async def test_a_new_control_goes_on_with_it_or_tells_of_its_end(stage, leg_id, monkeypatch):
    monkeypatch.setattr("app.services.agents.LOST_AFTER_S", 0)
    await stage.room("s")
    await start(stage, room_id="r")
    await start(stage, room_id="s")
    alive = stage.supervisor.stream[0].of(StartAgent)[0]
    rows = [one.row for one in stage.supervisor.stream[0].of(StartAgent)]
    stage.restart()
    stream = stage.supervisor.stream[0]
    assert {guest.row for room in "rs" for guest in stage.rooms.find(room).guests.values()} == set(rows)
    stage.conference.recovery.reconcile(stream, [StreamInventoryPart(session_ids=(alive.session_id,), last=True)])
    await asyncio.sleep(0.01)
    assert [(event["type"], event["room_id"]) for event in stage.events()] == [("agent.disconnected", "s")]
    stage.conference.on_event(stream, AgentConnected(session_id=alive.session_id, conversation_id="c"))
    assert stage.told() == ["agent.connected"]
    await stage.services.agents.stop(room_id="r")
    assert stream.of(StopAgent)[-1].session_id == alive.session_id


async def test_a_new_control_brings_it_after_the_leg_that_had_just_moved(stage, leg_id):
    """Else it would be heard in the room that its leg has left, and hear whoever is given the leg's old row."""
    await start(stage, leg_id=leg_id)
    await stage.room("s", sample_rate=8000)
    await stage.add("s", leg_id)
    stage.restart()  # before the agent is brought along
    stage.conference.recovery.resume()
    await stage.settle()
    assert not stage.rooms.find("r").guests
    (guest,) = stage.rooms.find("s").guests.values()
    (move,) = stage.supervisor.stream[0].of(MoveTap)
    assert (move.row, move.speaks) == (stage.legs.get(leg_id).facts.path.row, guest.row)
    assert guest.row.rate_hz == 8000
    assert stage.told().count("agent.disconnected") == 0
