"""The desk of the stream process: control's commands, each to whoever carries it out.

Runs in: stream.
Owns: what everybody in this process shares: HTTP sessions, trust, vendors, the clip decoder.

Rules
1. Every command is answered once: at once, or when what it waits for is over (`later`). Errors are answered by blame.
2. A descriptor that comes with a command belongs to whoever accepts it; refused, it is closed here.

Not here: the channel, repeated commands, the process's life → `main.py`.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Literal

import msgspec

from shm import messages as wire
from shm.errors import CallerError, PeerError, ResourceError
from shm.instance import Instance
from shm.reach import GuardedResolver, Reach
from workers.stream import client, orphans
from workers.stream.clips import Clips
from workers.stream.conversing import Conversations, Vendors
from workers.stream.decode import Decoder
from workers.stream.fetch import Fetcher
from workers.stream.sockets import Sockets
from workers.stream.speech import deepgram, elevenlabs, google, local, polly
from workers.stream.speech.cache import SpeechCache
from workers.stream.speech.protocol import Synthesizer
from workers.stream.tick import Ticker
from workers.stream.transcribing import Transcriptions
from workers.stream.transcription import deepgram as deepgram_transcription
from workers.stream.transcription import elevenlabs as elevenlabs_transcription
from workers.stream.transcription import local as local_transcription
from workers.stream.transcription.protocol import Transcriber
from workers.stream.upload import Uploads

Reply = Callable[[wire.Done | wire.Failed], None]
Send = Callable[[msgspec.Struct, tuple[int, ...]], None]
Post = Callable[[wire.Event], None]
Level = Literal["debug", "info", "warning", "error"]


class Desk:
    """To be made in the running loop. `send` is the channel's, `post` the outbox's."""

    def __init__(self, instance: Instance, start: wire.StreamStart, send: Send, post: Post) -> None:
        self._send, self._post = send, post
        self._begun_s = instance.made_s
        self._recording_dir = Path(start.recording_dir)
        self._tasks: set[asyncio.Task[None]] = set()
        tls = client.trust()
        reach = Reach(private_allowed=start.fetch_allow_private)
        self._ticker = Ticker(instance.stats.row(start.stats_row))
        self._sockets = Sockets(instance.banks, self._ticker, post, lead_ms=start.websocket_lead_ms)
        self._http = client.open_session(tls=tls)
        self._guarded_http = client.open_session(tls=tls, resolver=GuardedResolver(reach))
        self._local_transcriber = local_transcription.Local()
        self._transcriptions = Transcriptions(instance.banks, self._ticker, post, self.log, self._transcribers(start))
        self._conversations = Conversations(
            instance.banks, self._ticker, post, self.log, Vendors(self._http, self._guarded_http, reach, start)
        )
        self._uploads = Uploads(start.recording_dir, reach, post, self.log)
        self._decoder = Decoder()
        self._clips = Clips(
            send,
            post,
            fetcher=Fetcher(reach, tls),
            decoder=self._decoder,
            synthesizers=self._synthesizers(start),
            cache=self._cache(start),
        )

    def log(self, level: Level, event: str, **fields: str | float | bool | None) -> None:
        """Through control, which alone writes logs."""
        self._send(wire.LogLine(level=level, event=event, fields=fields), ())

    def _synthesizers(self, start: wire.StreamStart) -> dict[str, Synthesizer]:
        http = self._http
        return {
            elevenlabs.NAME: elevenlabs.ElevenLabs(http, start.elevenlabs_base),
            polly.NAME: polly.Polly(http, start.polly_region, start.polly_endpoint),
            google.NAME: google.Google(http, start.google_tts_base),
            deepgram.NAME: deepgram.Deepgram(http, start.deepgram_base),
            local.NAME: local.Local(),
        }

    def _transcribers(self, start: wire.StreamStart) -> dict[str, Transcriber]:
        return {
            elevenlabs_transcription.NAME: elevenlabs_transcription.ElevenLabs(self._http, start.elevenlabs_base),
            deepgram_transcription.NAME: deepgram_transcription.Deepgram(self._http, start.deepgram_base),
            local_transcription.NAME: self._local_transcriber,
        }

    def _cache(self, start: wire.StreamStart) -> SpeechCache | None:
        if not start.tts_cache_dir:
            return None
        return SpeechCache(
            Path(start.tts_cache_dir),
            max_bytes=start.tts_cache_max_bytes,
            include_api_key=start.tts_cache_includes_key,
            on_failure=lambda text: self.log("warning", "speech cache", error=text),
        )

    # ------------------------------------------------------------------------------------------ commands

    def execute(self, command: wire.Command, descriptors: list[int], reply: Reply) -> None:
        """Carry out one command and answer it."""
        try:
            pending = self._do(command, descriptors)
        except (CallerError, PeerError, ResourceError, OSError) as error:
            for descriptor in descriptors:
                os.close(descriptor)
            reply(_failed(command, error))
            return
        if pending is None:
            reply(wire.Done(command_id=command.command_id))
            return
        task = asyncio.create_task(_answered(command, pending, reply))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _do(self, command: wire.Command, descriptors: list[int]) -> Coroutine[None, None, None] | None:
        """What is returned is waited for before the answer."""
        match command:
            case wire.FetchClip():
                self._clips.fetch(command)
            case wire.Synthesize():
                self._clips.synthesize(command)
            case wire.CancelClip():
                self._clips.cancel(command.clip_id)
            case wire.FinishRecording():
                return self._finish(command)
            case wire.UploadRecording():
                return self._uploads.start(command)
            case wire.StartTranscription():
                self._transcriptions.start(command)
            case wire.StopTranscription():
                self._transcriptions.stop(command.session_id)
            case wire.StartAgent():
                self._conversations.start(command)
            case wire.SendAgentMessage():
                return self._conversations.send(command)
            case wire.StopAgent():
                self._conversations.stop(command.session_id)
            case wire.MoveTap():
                if not self._transcriptions.move(command):
                    self._conversations.move(command)  # neither: it has ended a moment ago
            case wire.AcceptSocket():
                self._sockets.accept(command, descriptors)
            case wire.CloseSocket():
                self._sockets.close(command.participant_id, command.code)
            case _:
                raise CallerError(f"{type(command).__name__} means nothing here")
        return None

    async def _finish(self, command: wire.FinishRecording) -> None:
        self._post(await asyncio.to_thread(orphans.finish_one, command))

    # ------------------------------------------------------------------------------------------ life

    def ids(self) -> list[str]:
        """Everything alive, for the inventory."""
        return [
            one
            for kind in (self._clips, self._uploads, self._transcriptions, self._conversations, self._sockets)
            for one in kind.ids()
        ]

    async def resume(self) -> None:
        """Go on with what a predecessor left."""
        await self._uploads.resume()
        orphans.finish_in_background(self._recording_dir, self._begun_s, self.log)

    def settle(self, *, flushed: bool) -> None:
        """Now and then; `flushed` when no message waits any more."""
        self._clips.settle(flushed=flushed)

    async def close(self) -> None:
        """End everything in good order; the caller limits the time."""
        self._sockets.close_all()
        self._uploads.close()
        await asyncio.gather(self._clips.close(), self._transcriptions.close(), self._conversations.close())
        await asyncio.gather(self._decoder.close(), self._local_transcriber.close())
        await self._guarded_http.close()
        await self._http.close()


async def _answered(command: wire.Command, pending: Coroutine[None, None, None], reply: Reply) -> None:
    try:
        await pending
    except (CallerError, PeerError, ResourceError, OSError) as error:
        reply(_failed(command, error))
    else:
        reply(wire.Done(command_id=command.command_id))


def _failed(command: wire.Command, error: Exception) -> wire.Failed:
    text = str(error)
    match error:
        case CallerError():
            return wire.Failed(command_id=command.command_id, error=text, blame="caller")
        case PeerError():
            return wire.Failed(command_id=command.command_id, error=text, blame="peer")
        case _:
            return wire.Failed(command_id=command.command_id, error=text, blame="resource")
