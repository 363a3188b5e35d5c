"""Agents in rooms and on legs: the mix to a vendor, its voice into a row, its words to control.

Runs in: stream.
Owns: one conversation for each StartAgent, and the voice that waits to be heard.

Rules
1. The vendor hears without a gap what the agent's row hears, or what `hears` says, from the start on, silence included.
2. Its voice comes in bursts and is played in real time; at most VOICE_LIMIT_S wait, what comes beyond is dropped and logged.
   An interruption discards what waits; one frame may still be heard.
3. Each conversation that was not stopped ends with one `AgentEnded`. A stopped one is silent at once, and its vendor has
   STOP_S for a goodbye. A lost connection is not made anew.
4. A caller-given URL (Pipecat) is judged like a fetch (`shm/reach.py`). Nothing that was said is written to the log.

Not here: dialects → `agents/`; rows, keys → control.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from shm import messages as wire
from shm.bank import Bank
from shm.errors import CallerError
from shm.reach import Forbidden, Reach, plain_address, proxy_for
from workers.stream.agents.deepgram import DeepgramAgent
from workers.stream.agents.elevenlabs import ElevenLabsAgent
from workers.stream.agents.pipecat import PipecatAgent
from workers.stream.agents.protocol import (
    Agent,
    AgentAudio,
    AgentProblem,
    AgentResponse,
    Connected,
    DeepgramRequest,
    ElevenLabsRequest,
    Interrupted,
    Outcome,
    PipecatRequest,
    UserTranscript,
    VapiRequest,
    Variables,
)
from workers.stream.agents.vapi import VapiAgent
from workers.stream.feed import AGENT_LIMIT_CHUNKS, CHUNK_BYTES, AudioFeed
from workers.stream.place import Place
from workers.stream.playout import Playout
from workers.stream.rows import Mouth, Tap
from workers.stream.tick import Ticker
from workers.stream.vendor_socket import Ended

VOICE_LIMIT_S = 300
STOP_S = 3.0

Post = Callable[[wire.Event], None]
Log = Callable[..., None]


class _Settings(msgspec.Struct):
    """The request's own fields, of all vendors."""

    agent_id: str = ""
    assistant_id: str = ""
    websocket_url: str = ""
    first_message: str = ""
    language: str = ""
    greeting: str = ""
    dynamic_variables: Variables = {}
    variable_values: Variables = {}
    settings: dict[str, Any] | None = None


class Vendors:
    """Makes one agent for each conversation. `http` goes to vendors, `guarded_http` to URLs of API callers."""

    def __init__(
        self, http: aiohttp.ClientSession, guarded_http: aiohttp.ClientSession, reach: Reach, start: wire.StreamStart
    ) -> None:
        self._http = http
        self._guarded_http = guarded_http
        self._reach = reach
        self._start = start

    def agent(self, command: wire.StartAgent) -> Agent:
        """Raises CallerError for what cannot be one."""
        try:
            wanted = msgspec.json.decode(command.settings, type=_Settings)
        except msgspec.DecodeError as error:
            raise CallerError(f"agent settings: {error}") from None
        key = command.api_key
        match command.provider:
            case "elevenlabs":
                request = ElevenLabsRequest(
                    wanted.agent_id, key, wanted.first_message, wanted.language, wanted.dynamic_variables
                )
                return ElevenLabsAgent(self._http, request, self._start.elevenlabs_base)
            case "vapi":
                call = VapiRequest(wanted.assistant_id, key, wanted.first_message, wanted.variable_values)
                return VapiAgent(self._http, call, self._start.vapi_base)
            case "deepgram":
                converse = DeepgramRequest(key, wanted.settings, wanted.greeting, wanted.language)
                return DeepgramAgent(self._http, converse, self._start.deepgram_agent_base)
            case "pipecat":
                return self._pipecat(wanted.websocket_url)
            case _:
                raise CallerError(f"unknown provider {command.provider}")

    def _pipecat(self, url: str) -> Agent:
        try:
            target = URL(url)
        except ValueError:
            target = URL()
        if target.scheme not in {"ws", "wss"} or not target.host:
            raise CallerError("websocket_url is not a ws or wss URL")
        if (address := plain_address(target.host)) is not None:
            try:
                self._reach.check(target.host, address)
            except Forbidden as fault:
                raise CallerError(str(fault)) from None
        proxy = proxy_for(target.with_scheme("https" if target.scheme == "wss" else "http"))
        return PipecatAgent(self._http if proxy else self._guarded_http, PipecatRequest(url))


class _Conversation:
    """One agent."""

    task: asyncio.Task[None]

    def __init__(self, banks: dict[int, Bank], ticker: Ticker, command: wire.StartAgent, agent: Agent) -> None:
        self.agent = agent
        self.hears_leg = command.hears is not None
        self.feed = AudioFeed(AGENT_LIMIT_CHUNKS)
        self.voice = Playout(CHUNK_BYTES, limit_bytes=VOICE_LIMIT_S * 50 * CHUNK_BYTES)
        self.tap = Tap(banks, command.row, "tx") if command.hears is None else Tap(banks, command.hears, "rx")
        self.mouth = Mouth(banks, command.row)
        self.place = Place(ticker, command.phase, self._on_tick)

    def move(self, mixed: int, command: wire.MoveTap) -> None:
        self._listen(mixed)
        self.tap.move(command.row)
        if not self.hears_leg:
            self.mouth.move(command.row)
        elif command.speaks is not None:
            self.mouth.move(command.speaks)

    def _on_tick(self, mixed: int) -> None:
        self.mouth.say(mixed, self.voice.take())
        self._listen(mixed)

    def _listen(self, mixed: int) -> None:
        for chunk in self.tap.read(mixed):
            self.feed.push(chunk)


class Conversations:
    """All of this process."""

    def __init__(self, banks: dict[int, Bank], ticker: Ticker, post: Post, log: Log, vendors: Vendors) -> None:
        self._banks = banks
        self._ticker = ticker
        self._post = post
        self._log = log
        self._vendors = vendors
        self._alive: dict[str, _Conversation] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    def ids(self) -> list[str]:
        return list(self._alive)

    def start(self, command: wire.StartAgent) -> None:
        """Raises CallerError for what cannot be an agent."""
        if command.session_id in self._alive:
            return
        conversation = _Conversation(self._banks, self._ticker, command, self._vendors.agent(command))
        self._alive[command.session_id] = conversation
        conversation.task = asyncio.create_task(self._run(command, conversation))

    def move(self, command: wire.MoveTap) -> bool:
        """False when it is no conversation of these."""
        conversation = self._alive.get(command.session_id)
        if conversation is None:
            return False
        conversation.place.move(command.at_tick, command.phase, lambda mixed: conversation.move(mixed, command))
        return True

    def send(self, command: wire.SendAgentMessage) -> Coroutine[None, None, None]:
        """Raises CallerError when there is no such agent; awaited, what the vendor makes of it."""
        conversation = self._alive.get(command.session_id)
        if conversation is None:
            raise CallerError("no such agent", 404)
        return conversation.agent.inject(command.text)

    def stop(self, session_id: str) -> None:
        """Unknown ones have ended already."""
        conversation = self._alive.pop(session_id, None)
        if conversation is not None:
            conversation.place.leave()
            conversation.feed.close()
            self._leaving.add(conversation.task)
            conversation.task.add_done_callback(self._leaving.discard)
            asyncio.get_running_loop().call_later(STOP_S, conversation.task.cancel)

    async def close(self) -> None:
        """Stop all."""
        for session_id in self.ids():
            self.stop(session_id)
        await asyncio.gather(*self._leaving, return_exceptions=True)

    async def _run(self, command: wire.StartAgent, conversation: _Conversation) -> None:
        session_id, provider = command.session_id, command.provider
        try:
            ended = await conversation.agent.run(
                conversation.feed, lambda outcome: self._report(session_id, conversation, outcome)
            )
        except Exception as fault:  # noqa: BLE001 - a vendor's connection loop: whatever it was, the conversation is over
            self._log("error", "agent failed", session_id=session_id, provider=provider, error=repr(fault))
            ended = Ended("failed", "internal error")
        finally:
            conversation.place.leave()
        if conversation.voice.dropped_pieces:
            self._log("warning", "agent spoke too long ahead", session_id=session_id, provider=provider)
        if self._alive.get(session_id) is conversation:  # else it was stopped, and nothing is to be said
            del self._alive[session_id]
            self._post(wire.AgentEnded(session_id=session_id, error=ended.error))

    def _report(self, session_id: str, conversation: _Conversation, outcome: Outcome) -> None:
        if self._alive.get(session_id) is not conversation:
            return
        match outcome:
            case AgentAudio():
                conversation.voice.push(outcome.pcm)
            case Interrupted():
                conversation.voice.flush()
            case Connected():
                self._post(wire.AgentConnected(session_id=session_id, conversation_id=outcome.conversation_id))
            case UserTranscript():
                self._post(wire.AgentSaid(session_id=session_id, text=outcome.text, by_user=True))
            case AgentResponse():
                self._post(wire.AgentSaid(session_id=session_id, text=outcome.text, by_user=False))
            case AgentProblem():
                self._log("warning", "agent problem", session_id=session_id, error=outcome.error)
