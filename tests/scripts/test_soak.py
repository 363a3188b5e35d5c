"""The judges of scripts/soak find what is wrong. That it finds nothing in a server that is right is tests/flows/test_soak.py."""

import json
import time
from types import SimpleNamespace

import pytest

from tests.flows.tools.webhooks import Delivery


@pytest.fixture
def model():
    from soaklib.model import Model

    return Model()


def judged(model, *events):
    from soaklib.endings import Endings

    deliveries = [
        Delivery("/hook", json.dumps({"event_id": str(number), **event}).encode(), {}, 0.0, 200, None)
        for number, event in enumerate(events)
    ]
    deliveries += deliveries  # each came twice: delivery is at least once
    Endings(model, SimpleNamespace(deliveries=deliveries)).judge()
    return [line.partition(" s: ")[2] for line in model.wrong]


def test_a_beginning_and_its_end(model):
    model.started["pb-1"] = "/rooms/r"
    events = [{"type": "playback.started", "playback_id": "pb-1"}, {"type": "playback.finished", "playback_id": "pb-1"}]
    assert judged(model, *events) == []


def test_an_end_that_never_came(model):
    model.started["pb-1"] = "/rooms/r"
    assert judged(model) == ["pb-1 of /rooms/r has no end event"]


def test_two_ends(model):
    end = {"type": "recording.finished", "file": "a.wav"}
    assert judged(model, {"type": "recording.started", "file": "a.wav"}, end, end) == ["a.wav has 2 end events"]


def test_a_word_after_the_last(model):
    events = [{"type": kind, "leg_id": "1"} for kind in ("leg.ringing", "leg.disconnected", "leg.muted")]
    assert judged(model, *events) == ["leg.muted of 1 came after its leg.disconnected"]


def test_agents_are_counted(model):
    model.agents_started = 2
    assert judged(model, {"type": "agent.disconnected"}) == ["2 agents started, 1 agent.disconnected"]


def test_what_is_left_behind():
    from soaklib.remains import Holding, Use, differences

    before = Holding({"sip": Use(1, 28, 1, 60.0)}, frozenset(), 0)
    assert differences(before, Holding({"sip": Use(1, 29, 1, 70.0)}, frozenset(), 0)) == []
    after = Holding({"sip": Use(1, 40, 2, 99.0), "room": Use(1, 15, 1, 60.0)}, frozenset({"x.rec"}), 4)
    assert differences(before, after) == [
        "room: 1 processes instead of 0",
        "sip: 40 descriptors instead of 28",
        "sip: 2 threads instead of 1",
        "sip: 99 MiB instead of 60",
        "4 RTP ports instead of 0",
        "left: x.rec",
    ]


def test_deaths_excuse_only_what_was_under_way(model):
    model.deaths.append((time.monotonic() - 10, "roomtone: sip"))
    assert model.died_since(time.monotonic() - 11)
    assert not model.died_since(time.monotonic() - 9)
    assert not model.died_since(time.monotonic() - 11, "control")


def test_a_subject_is_steady_when_nobody_changed_it(model):
    from soaklib.model import Room

    room = Room(path="/rooms/r")
    with room.taken():
        assert not room.steady(0)
    assert room.steady(0)
    assert not room.steady(60)
