"""Playbacks as control commands them.

Runs in: a room worker.
Owns: which playbacks run in which room, their clips' descriptors, and the events of their begin and end.

Rules
1. One `PlaybackFinished` for each playback that was started here, whatever ends it. Its room's end is a stop.
2. A playback that is here is not started again: commands may be repeated.

Not here: its sound -> `sources.py`.
"""

import os
from collections.abc import Callable, Iterator, Sequence

from shm.clip import Clip
from shm.clock import TICKS_PER_SECOND
from shm.errors import CallerError, ResourceError
from shm.messages import Event, PlaybackFinished, PlaybackStarted, SetVolume, StartPlayback, StopPlayback
from workers.audio.tones import parse_tone
from workers.room.membership import Membership
from workers.room.sources import TICK_MS, VOLUME_LIMIT, ClipSound, ConvertedSound, Playback, Sound, ToneSound


class Playbacks:
    def __init__(self, membership: Membership, post: Callable[[Event], None]) -> None:
        self._membership = membership
        self._post = post
        self._running: dict[tuple[str, str], Playback] = {}
        self._unannounced: list[Playback] = []

    @property
    def are_running(self) -> bool:
        return bool(self._running)

    def start(self, command: StartPlayback, descriptors: Sequence[int]) -> None:
        """Takes the descriptor over if it returns. Raises CallerError, ResourceError."""
        room = self._membership.room(command.room_id)
        key = (command.room_id, command.playback_id)
        if abs(command.volume) > VOLUME_LIMIT:
            raise CallerError(f"volume {command.volume} is beyond ±{VOLUME_LIMIT}")
        if key in self._running:
            for descriptor in descriptors:
                os.close(descriptor)
            return
        sound, kept = _sound(command, descriptors, room.rate_hz)
        playback = self._running[key] = room.playbacks[command.playback_id] = Playback(command, sound, kept)
        if not command.played_ticks:
            self._unannounced.append(playback)
        self._membership.refresh(room)

    def set_volume(self, command: SetVolume) -> None:
        """Raises CallerError when it does not run here."""
        playback = self._running.get((command.room_id, command.playback_id))
        if playback is None:
            raise CallerError("no such playback is running")
        if abs(command.volume) > VOLUME_LIMIT:
            raise CallerError(f"volume {command.volume} is beyond ±{VOLUME_LIMIT}")
        playback.set_volume(command.volume)

    def stop(self, command: StopPlayback) -> None:
        playback = self._running.get((command.room_id, command.playback_id))
        if playback is not None:
            playback.stop()

    def end_room(self, room_id: str) -> None:
        """The room is closed: nothing will sound there any more."""
        for playback in self._running.values():
            if playback.command.room_id == room_id:
                playback.ended = playback.ended or "stopped"

    def settle(self) -> None:
        """After a tick or commands: tell what began and what ended."""
        if self._unannounced:
            for playback in self._unannounced:
                if playback.first_tick:
                    command = playback.command
                    self._post(
                        PlaybackStarted(
                            room_id=command.room_id, playback_id=command.playback_id, tick=playback.first_tick
                        )
                    )
            self._unannounced = [one for one in self._unannounced if not one.first_tick and not one.ended]
        for key in [key for key, playback in self._running.items() if playback.ended]:
            self._end(key)

    def _end(self, key: tuple[str, str]) -> None:
        playback = self._running.pop(key)
        if playback.descriptor >= 0:
            os.close(playback.descriptor)
        room_id, playback_id = key
        room = self._membership.rooms.get(room_id)
        if room is not None and room.playbacks.get(playback_id) is playback:
            del room.playbacks[playback_id]
            self._membership.refresh(room)
        assert playback.ended is not None
        self._post(
            PlaybackFinished(
                room_id=room_id,
                playback_id=playback_id,
                reason=playback.ended,
                played_ms=playback.played_ticks * TICK_MS,
            )
        )

    def inventory(self) -> Iterator[tuple[StartPlayback, tuple[int, ...]]]:
        """The commands that would go on with what runs here, each with duplicates of its descriptors."""
        for playback in self._running.values():
            if not playback.ended:
                yield playback.going_on(), () if playback.descriptor < 0 else (os.dup(playback.descriptor),)


def _sound(command: StartPlayback, descriptors: Sequence[int], rate_hz: int) -> tuple[Sound, int]:
    """(sound, the descriptor kept for others or -1)"""
    if command.tone:
        try:
            tone = parse_tone(command.tone)
        except ValueError as error:
            raise CallerError(str(error)) from error
        return ToneSound(tone, rate_hz, command.played_ticks), -1
    if len(descriptors) != 1:
        raise ResourceError("a clip comes with one descriptor")
    own = os.dup(descriptors[0])
    try:
        clip = Clip(own)  # closes it
    except (OSError, ValueError) as error:
        os.close(own)
        raise ResourceError(f"not a clip: {error}") from error
    clip_rate_hz = command.clip_rate_hz or rate_hz
    sound: Sound = ClipSound(clip, clip_rate_hz // TICKS_PER_SECOND, command.repeat, command.played_ticks)
    return sound if clip_rate_hz == rate_hz else ConvertedSound(sound, clip_rate_hz, rate_hz), descriptors[0]
