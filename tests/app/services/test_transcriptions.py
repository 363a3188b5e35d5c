"""Where and when a transcription listens to its leg."""

import pytest

from app.services.requests import Transcribe
from shm.clock import PHASES
from shm.messages import MoveTap, StartTranscription


@pytest.fixture
async def idle_leg(stage):
    """(stage, leg id) of a leg in no room that is transcribed."""
    leg_id = await stage.connected_out()
    await stage.services.transcriptions.start(request=Transcribe(provider="local"), leg_id=leg_id)
    await stage.settle()
    return stage, leg_id


async def test_a_leg_in_no_room_is_read_when_any_phase_would_have_mixed_it(idle_leg):
    """Which phase its packets are placed for is rtp's choice: read earlier, each tick could be too early."""
    stage, _ = idle_leg
    (begun,) = stage.supervisor.stream[0].of(StartTranscription)
    assert begun.phase == PHASES - 1


async def test_in_a_room_it_is_read_with_the_rooms_mix_and_afterwards_late_again(idle_leg):
    stage, leg_id = idle_leg
    await stage.room("r")
    await stage.add("r", leg_id)
    await stage.settle()
    await stage.take_out("r", leg_id)
    await stage.settle()
    phases = [move.phase for move in stage.supervisor.stream[0].of(MoveTap)]
    assert phases == [stage.conference.rooms.existing("r").facts.phase, PHASES - 1]
