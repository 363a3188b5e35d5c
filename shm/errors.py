"""Errors by blame: whoever caused it decides what becomes of it.

CallerError -> a 4xx reply; PeerError -> an event, maybe 502; ResourceError -> 503; WireError -> the process that
raised it ends and is started anew. Only `app/api` turns them into HTTP status codes.
"""


class RoomtoneError(Exception):
    """Root of the tree; never raised itself."""


class CallerError(RoomtoneError):
    """The API caller asked for something that cannot be; `status` is the HTTP code of the contract."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


class PeerError(RoomtoneError):
    """The far end (a phone, a vendor, a webhook receiver) refused, vanished or spoke nonsense."""


class ResourceError(RoomtoneError):
    """We are out of something: rows, ports, descriptors, memory, processes."""


class WireError(RoomtoneError):
    """A message between our own processes cannot be what it is: a fault of ours."""
