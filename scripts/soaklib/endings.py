"""Every beginning has exactly one end: read from the webhooks, which outlive control's deaths.

Runs in: scripts/soak.
Rules:
 1. An event that came twice with one `event_id` is one event: delivery is at least once.
 2. Judged when everything has ended.
"""

from collections import Counter
from typing import Any

from soaklib.model import Model
from tests.flows.tools.webhooks import WebhookSink

ENDS = {
    "playback.finished": "playback_id",
    "playback.error": "playback_id",
    "tts.finished": "tts_id",
    "tts.error": "tts_id",
    "recording.finished": "file",
    "leg.disconnected": "leg_id",
    "room.deleted": "room_id",
}
BEGINNINGS = {
    "playback.started": "playback_id",
    "tts.started": "tts_id",
    "recording.started": "file",
    "leg.ringing": "leg_id",
    "leg.connected": "leg_id",
    "room.created": "room_id",
}
ONCE = ("recording.started", "leg.ringing", "leg.connected", "room.created", "playback.started", "tts.started")


class Endings:
    def __init__(self, model: Model, sink: WebhookSink) -> None:
        self.model, self.sink = model, sink

    def events(self) -> list[dict[str, Any]]:
        """In the order of their first arrival."""
        return list({delivery.event["event_id"]: delivery.event for delivery in self.sink.deliveries}.values())

    def open(self) -> set[str]:
        """What began and has no end yet."""
        events = self.events()
        begun = {e[BEGINNINGS[e["type"]]] for e in events if e["type"] in BEGINNINGS} | set(self.model.started)
        return begun - {self._name(e) for e in events if e["type"] in ENDS}

    @staticmethod
    def _name(event: dict[str, Any]) -> str:
        return str(event[ENDS[event["type"]]])

    def judge(self) -> None:
        events = self.events()
        ends = Counter(self._name(e) for e in events if e["type"] in ENDS)
        for name in self.open():
            self.model.fault(f"{name} of {self.model.started.get(name, 'somewhere')} has no end event")
        for name, times in ends.items():
            if times > 1:
                self.model.fault(f"{name} has {times} end events")
        for kind in ONCE:
            times = Counter(e[BEGINNINGS[kind]] for e in events if e["type"] == kind)
            for name in (name for name, count in times.items() if count > 1):
                self.model.fault(f"{name} has {times[name]} events {kind}")
        self._agents(events)
        self._nothing_after_the_end(events)

    def _agents(self, events: list[dict[str, Any]]) -> None:
        ended = sum(e["type"] == "agent.disconnected" for e in events)
        at_most = self.model.agents_started + self.model.lost_starts.get("agent/pipecat", 0)
        if not self.model.agents_started <= ended <= at_most:
            self.model.fault(f"{self.model.agents_started} agents started, {ended} agent.disconnected")

    def _nothing_after_the_end(self, events: list[dict[str, Any]]) -> None:
        over: set[str] = set()
        for event in events:
            leg_id = event.get("leg_id")
            if leg_id in over:
                self.model.fault(f"{event['type']} of {leg_id} came after its leg.disconnected")
            if event["type"] == "leg.disconnected":
                over.add(leg_id)
