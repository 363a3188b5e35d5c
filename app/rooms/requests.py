"""What callers may ask of rooms (contract rooms.md, A3 and A6). Runs in: control. Pure."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from app.legs.requests import check_room_id
from shm.bank import RATES_HZ
from shm.errors import CallerError


class CreateRoom(msgspec.Struct, kw_only=True):
    id: str = ""
    webhook_url: str = ""
    webhook_secret: str = ""
    app_id: str = ""
    sample_rate: int = 0


class AddLeg(msgspec.Struct, kw_only=True):
    """None = keep; a role of "" clears."""

    leg_id: str = ""
    mute: bool | None = None
    deaf: bool | None = None
    accept_dtmf: bool | None = None
    role: str | UnsetType = UNSET
    streams: list[dict[str, Any]] = []


def check_new_room(request: CreateRoom) -> None:
    """Raises CallerError."""
    check_room_id(request.id)
    if request.sample_rate and request.sample_rate not in RATES_HZ:
        raise CallerError(f"sample_rate: one of {', '.join(map(str, RATES_HZ))}")
    if request.webhook_url and not request.webhook_url.lower().startswith(("http://", "https://")):
        raise CallerError("webhook_url: only http and https")


def check_streams(streams: list[dict[str, Any]]) -> None:
    """No leg has streams beside its own yet. Raises CallerError."""
    for stream in streams:
        if stream.get("stream_id") in (None, "", "0"):
            raise CallerError("streams: stream_id is required and not 0")
        raise CallerError("stream not found", 404)
