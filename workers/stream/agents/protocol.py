"""What a conversational agent is to the rest of the process: the room's audio in, its voice and words out, until somebody ends it.

Runs in: stream.
Owns: what is reported, the promise of an agent, one request per vendor (contract media.md, section 11; rooms.md, A17 and A18).

Rules
1. Audio goes in as 640-byte chunks through an AudioFeed, silence included, from the start on. Closing the feed is the stop.
2. Reports come from within `run`, in the vendor's order, never after it has returned. `Connected` comes once, before audio and
   words. Audio comes in bursts, many seconds at once: the owner queues it and discards the queue on `Interrupted`.
3. `run` returns how it ended, once, and raises nothing of a vendor's. A lost connection is not made anew.
4. `inject` may be called while `run` runs: CallerError 501 when the vendor has no such thing, 409 when it is not connected or
   offers none for this call, VendorError when it could not be delivered.

Not here: whose audio, the queue, keys from the environment, events → the owner.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from shm.errors import CallerError
from workers.stream.feed import AudioFeed
from workers.stream.vendor_socket import Ended, VendorSocket

Variables = dict[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class ElevenLabsRequest:
    """Empty is the agent's own setting."""

    agent_id: str
    api_key: str = field(repr=False)
    first_message: str = field(default="", repr=False)
    language: str = ""
    dynamic_variables: Variables = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class VapiRequest:
    """Empty is the assistant's own setting."""

    assistant_id: str
    api_key: str = field(repr=False)
    first_message: str = field(default="", repr=False)
    variable_values: Variables = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class PipecatRequest:
    """The URL may carry a token of the bot's own."""

    websocket_url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class DeepgramRequest:
    """`settings` None: our defaults."""

    api_key: str = field(repr=False)
    settings: dict[str, Any] | None = field(default=None, repr=False)
    greeting: str = field(default="", repr=False)
    language: str = ""


class Connected(msgspec.Struct, frozen=True):
    """`agent.connected`."""

    conversation_id: str


class AgentAudio(msgspec.Struct, frozen=True):
    """16 kHz signed 16-bit little-endian mono, any even length."""

    pcm: bytes


class Interrupted(msgspec.Struct, frozen=True):
    """Somebody speaks over the agent: what it has not said yet is void."""


class UserTranscript(msgspec.Struct, frozen=True):
    """`agent.user_transcript`; never empty."""

    text: str


class AgentResponse(msgspec.Struct, frozen=True):
    """`agent.agent_response`; never empty."""

    text: str


class AgentProblem(msgspec.Struct, frozen=True):
    """The vendor complained and goes on: for the log."""

    error: str


Outcome = Connected | AgentAudio | Interrupted | UserTranscript | AgentResponse | AgentProblem
Report = Callable[[Outcome], None]


class Agent(Protocol):
    """One conversation with one vendor."""

    async def run(self, audio: AudioFeed, report: Report) -> Ended:
        """To be called once."""
        ...

    async def inject(self, text: str) -> None:
        """Tell the agent something that nobody said."""
        ...


def check_connected(socket: VendorSocket | None) -> VendorSocket:
    """For `inject`: the socket of an agent that is there."""
    if socket is None or not socket.is_open:
        raise CallerError("the agent is not connected", 409)
    return socket
