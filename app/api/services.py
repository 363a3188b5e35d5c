"""Operations on what runs in rooms and on legs (contract rooms.md A8 to A19, legs.md section 6). Runs in: control.

Rooms and legs have them alike: each is written once and laid over both lines of the contract's index.
"""

from collections.abc import Iterable
from dataclasses import replace

from app.api.operations import Operation, bind
from app.services.agents import Agents
from app.services.playbacks import Playbacks
from app.services.recordings import Recordings
from app.services.requests import (
    AgentMessage,
    DeepgramAgent,
    ElevenLabsAgent,
    PipecatAgent,
    Play,
    Record,
    Speak,
    Transcribe,
    VapiAgent,
    Volume,
)
from app.services.services import Services
from app.services.speech import Speech
from app.services.transcriptions import Transcriptions

BASES = ("/v1/rooms/{room_id}", "/v1/legs/{leg_id}")

PLAYBACKS = (
    Operation(method="POST", path="/play", handler=Playbacks.play, request=Play, summary="Play a file or a tone"),
    Operation(
        method="PATCH",
        path="/play/{playback_id}",
        handler=Playbacks.set_volume,
        request=Volume,
        summary="Make a playback louder or softer",
    ),
    Operation(method="DELETE", path="/play/{playback_id}", handler=Playbacks.stop, summary="Stop a playback"),
)
SPEECH = (Operation(method="POST", path="/tts", handler=Speech.speak, request=Speak, summary="Speak a text"),)
RECORDINGS = (
    Operation(method="POST", path="/record", handler=Recordings.start, request=Record, summary="Record"),
    Operation(method="DELETE", path="/record", handler=Recordings.stop, summary="Stop recording"),
    Operation(method="POST", path="/record/pause", handler=Recordings.pause, summary="Record silence for a while"),
    Operation(method="POST", path="/record/resume", handler=Recordings.resume, summary="Go on recording"),
)
TRANSCRIPTIONS = (
    Operation(method="POST", path="/stt", handler=Transcriptions.start, request=Transcribe, summary="Transcribe"),
    Operation(method="DELETE", path="/stt", handler=Transcriptions.stop, summary="Stop transcribing"),
)
AGENTS = (
    Operation(
        method="POST",
        path="/agent/elevenlabs",
        handler=Agents.start_elevenlabs,
        request=ElevenLabsAgent,
        summary="Attach an ElevenLabs agent",
    ),
    Operation(
        method="POST", path="/agent/vapi", handler=Agents.start_vapi, request=VapiAgent, summary="Attach a VAPI agent"
    ),
    Operation(
        method="POST",
        path="/agent/pipecat",
        handler=Agents.start_pipecat,
        request=PipecatAgent,
        summary="Attach a Pipecat bot",
    ),
    Operation(
        method="POST",
        path="/agent/deepgram",
        handler=Agents.start_deepgram,
        request=DeepgramAgent,
        summary="Attach a Deepgram agent",
    ),
    Operation(
        method="POST",
        path="/agent/message",
        handler=Agents.send_message,
        request=AgentMessage,
        summary="Tell the agent something",
    ),
    Operation(method="DELETE", path="/agent", handler=Agents.stop, summary="Detach the agent"),
)


def service_operations(services: Services) -> list[Operation]:
    return [
        *bind(_on_both(PLAYBACKS), services.playbacks),
        *bind(_on_both(SPEECH), services.speech),
        *bind(_on_both(RECORDINGS), services.recordings),
        *bind(_on_both(TRANSCRIPTIONS), services.transcriptions),
        *bind(_on_both(AGENTS), services.agents),
    ]


def _on_both(operations: Iterable[Operation]) -> list[Operation]:
    return [replace(operation, path=base + operation.path) for operation in operations for base in BASES]
