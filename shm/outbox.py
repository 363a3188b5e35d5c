"""The outbox of a worker: events that must survive control's death.

Runs in: every worker.
Owns: the numbers of this worker's events and the copies not yet acknowledged.

Rules
1. Numbers start at 1 for each process and have no gaps.
2. Copies are kept until control acknowledges them, at most OUTBOX_LIMIT; beyond it the oldest are forgotten and counted:
   control has then been away for so long that its inventory tells more than old events.
"""

from collections import deque

import msgspec

from shm.channel import Channel, Incoming
from shm.messages import Event

OUTBOX_LIMIT = 50_000


class Outbox:
    def __init__(self, channel: Channel[Incoming]) -> None:
        self._send = channel.send
        self._kept: deque[Event] = deque()
        self._last_number = 0
        self.forgotten = 0

    def post(self, event: Event) -> None:
        """Number the event, send it, and keep it."""
        self._last_number += 1
        numbered = msgspec.structs.replace(event, number=self._last_number)
        self._kept.append(numbered)
        if len(self._kept) > OUTBOX_LIMIT:
            self._kept.popleft()
            self.forgotten += 1
        self._send(numbered)

    def acknowledge(self, number: int) -> None:
        while self._kept and self._kept[0].number <= number:
            self._kept.popleft()

    def repeat(self) -> None:
        """After an inventory: send everything kept once more."""
        for event in self._kept:
            self._send(event)
