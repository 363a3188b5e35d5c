"""Transcription sessions: what one participant says, to a vendor, and its words to control.

Runs in: stream.
Owns: one session for each StartTranscription, from its row to its end.

Rules
1. The tap reads what the leg says, muted or not, silence included, while the connection is made too (10 s are kept for it).
2. Each session ends with one `TranscriptionEnded`: stopped, within STOP_S; closed by the vendor or failed, with the reason.
3. A text is never written to the log.

Not here: dialects → `transcription/`; who is transcribed, keys → control. Turns (`UtteranceEnded`) have no message yet.
"""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from shm import messages as wire
from shm.bank import Bank
from shm.errors import CallerError
from workers.stream.feed import TRANSCRIPTION_LIMIT_CHUNKS, AudioFeed
from workers.stream.place import Place
from workers.stream.rows import Tap
from workers.stream.tick import Ticker
from workers.stream.transcription.protocol import (
    Outcome,
    Transcriber,
    Transcript,
    TranscriptionProblem,
    TranscriptionRequest,
)
from workers.stream.vendor_socket import Ended

STOP_S = 1.4

Post = Callable[[wire.Event], None]
Log = Callable[..., None]


class _Session:
    """One participant."""

    task: asyncio.Task[None]

    def __init__(self, banks: dict[int, Bank], ticker: Ticker, command: wire.StartTranscription) -> None:
        self.feed = AudioFeed(TRANSCRIPTION_LIMIT_CHUNKS)
        self.tap = Tap(banks, command.row, "rx")
        self.place = Place(ticker, command.phase, self._on_tick)

    def move(self, mixed: int, row: wire.Row) -> None:
        self._on_tick(mixed)
        self.tap.move(row)

    def _on_tick(self, mixed: int) -> None:
        for chunk in self.tap.read(mixed):
            self.feed.push(chunk)


class Transcriptions:
    """All of this process."""

    def __init__(
        self, banks: dict[int, Bank], ticker: Ticker, post: Post, log: Log, transcribers: dict[str, Transcriber]
    ) -> None:
        self._banks = banks
        self._ticker = ticker
        self._post = post
        self._log = log
        self._transcribers = transcribers
        self._sessions: dict[str, _Session] = {}

    def ids(self) -> list[str]:
        return list(self._sessions)

    def start(self, command: wire.StartTranscription) -> None:
        """Raises CallerError for an unknown provider."""
        transcriber = self._transcribers.get(command.provider)
        if transcriber is None:
            raise CallerError(f"unknown provider {command.provider}")
        if command.session_id not in self._sessions:
            session = self._sessions[command.session_id] = _Session(self._banks, self._ticker, command)
            session.task = asyncio.create_task(self._run(command, session, transcriber))

    def move(self, command: wire.MoveTap) -> bool:
        """False when it is no session of these."""
        session = self._sessions.get(command.session_id)
        if session is None:
            return False
        session.place.move(command.at_tick, command.phase, lambda mixed: session.move(mixed, command.row))
        return True

    def stop(self, session_id: str) -> None:
        """Unknown ones have ended already."""
        session = self._sessions.get(session_id)
        if session is not None and not session.feed.is_closed:
            session.place.leave()
            session.feed.close()
            asyncio.get_running_loop().call_later(STOP_S, session.task.cancel)

    async def close(self) -> None:
        """Stop all."""
        tasks = [session.task for session in self._sessions.values()]
        for session_id in self.ids():
            self.stop(session_id)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, command: wire.StartTranscription, session: _Session, transcriber: Transcriber) -> None:
        session_id = command.session_id
        error = ""
        try:
            ended = await transcriber.transcribe(
                _request(command), session.feed, lambda outcome: self._report(session_id, outcome)
            )
            error = _error(ended)
        except asyncio.CancelledError:
            pass  # stopped, and the vendor took too long over its goodbye
        except Exception as fault:  # noqa: BLE001 - a vendor's connection loop: whatever it was, the session is over
            error = "internal error"
            self._log(
                "error", "transcription failed", session_id=session_id, provider=command.provider, error=repr(fault)
            )
        finally:
            session.place.leave()
            del self._sessions[session_id]
        if session.feed.dropped_chunks:
            self._log(
                "warning",
                "transcription fell behind",
                session_id=session_id,
                provider=command.provider,
                dropped_ms=20 * session.feed.dropped_chunks,
            )
        self._post(wire.TranscriptionEnded(session_id=session_id, error=error))

    def _report(self, session_id: str, outcome: Outcome) -> None:
        match outcome:
            case Transcript():
                self._post(
                    wire.Transcribed(
                        session_id=session_id,
                        text=outcome.text,
                        is_final=outcome.is_final,
                        speech_final=outcome.speech_final,
                        audio_start_ms=outcome.start_ms,
                        audio_end_ms=outcome.end_ms,
                    )
                )
            case TranscriptionProblem():
                self._log("warning", "transcription problem", session_id=session_id, error=outcome.error)
            case _:
                pass


def _error(ended: Ended) -> str:
    if ended.reason == "closed":
        return "closed by the provider"
    return ended.error


def _request(command: wire.StartTranscription) -> TranscriptionRequest:
    options: dict[str, Any] = dict(command.options)
    return TranscriptionRequest(
        language=command.language,
        partial=command.partial,
        api_key=command.api_key,
        model=str(options.get("model", "")),
        keyterms=tuple(options.get("keyterms", ())),
        endpointing_ms=cast("int | None", options.get("endpointing")),
        utterance_end_ms=cast("int | None", options.get("utterance_end_ms")),
    )
