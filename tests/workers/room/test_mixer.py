"""The mixer against a loop over legs that follows media.md section 2 word by word."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shm.bank import HEARS_NOTHING, RX_SLOTS, TX_SLOTS, Bank
from shm.messages import (
    AddParticipant,
    CloseRoom,
    OpenRoom,
    RemoveParticipant,
    Row,
    SetParticipant,
    StartPlayback,
)
from workers.room import mixer
from workers.room.loop import mix_group
from workers.room.membership import Membership
from workers.room.sources import Playback

TICK = 1_000_003
RATE = 8000


@pytest.fixture(scope="module")
def bank():
    return Bank(RATE, 128, "test-mixer")


def reference(legs, room_of, muted, deaf, frames, *, sounds):
    """What each leg hears: None = nothing, "noise" = comfort noise, else int16 samples.

    sounds: (room, leg or None for all, frame) of each source.
    """
    heard = []
    for me in range(legs):
        if deaf[me]:
            heard.append(None)
            continue
        total = np.zeros(RATE // 50, np.int64)
        for other in range(legs):
            if other != me and room_of[other] == room_of[me] and not muted[other] and frames[other] is not None:
                total += frames[other]
        silent = not total.any() and all(
            frames[o] is None or muted[o] or not frames[o].any()
            for o in range(legs)
            if o != me and room_of[o] == room_of[me]
        )
        for room, leg, frame in sounds:
            if room == room_of[me] and leg in {None, me} and frame.any():
                total += frame
                silent = False
        heard.append("noise" if silent else np.clip(total, -32768, 32767))
    return heard


LEVELS = {"zeros": 0, "quiet": 500, "loud": 32767}


@st.composite
def situations(draw):
    rooms = draw(st.integers(1, 4))
    sizes = [draw(st.integers(1, 5)) for _ in range(rooms)]
    room_of = [room for room, size in enumerate(sizes) for _ in range(size)]
    legs = len(room_of)
    flags = st.lists(st.booleans(), min_size=legs, max_size=legs)
    kinds = draw(st.lists(st.sampled_from(["absent", "zeros", "quiet", "loud"]), min_size=legs, max_size=legs))
    rows = draw(st.permutations(range(legs)))
    sources = draw(
        st.lists(
            st.tuples(st.integers(-1, legs - 1), st.integers(0, rooms - 1), st.sampled_from(sorted(LEVELS))), max_size=5
        )
    )
    return room_of, draw(flags), draw(flags), kinds, rows, draw(st.integers(0, 2**32 - 1)), sources


def noise(random, kind):
    return random.integers(-LEVELS[kind], LEVELS[kind], RATE // 50, endpoint=True).astype(np.int16)


class Still:
    """A sound that is the same in each tick."""

    ended = None

    def __init__(self, frame):
        self._frame = frame

    def next_frame(self):
        return self._frame


@settings(max_examples=300, deadline=None)
@given(situations())
def test_everyone_hears_all_others_and_not_themselves(bank, situation):
    room_of, muted, deaf, kinds, rows, seed, sources = situation
    random = np.random.default_rng(seed)
    frames = []
    bank.rx_tick[:] = 0
    for leg, kind in enumerate(kinds):
        frame = None
        if kind != "absent":
            frame = noise(random, kind)
            bank.rx[rows[leg], TICK % RX_SLOTS] = frame
            bank.rx_tick[rows[leg], TICK % RX_SLOTS] = TICK
        frames.append(frame)
    membership = Membership({RATE: bank}, with_comfort_noise=True)
    for room in sorted(set(room_of)):
        membership.open(OpenRoom(room_id=str(room), rate_hz=RATE, phase=0))
    for leg, room in enumerate(room_of):
        row = Row(rate_hz=RATE, index=rows[leg], generation=0)
        membership.schedule(
            AddParticipant(room_id=str(room), leg_id=str(leg), row=row, muted=muted[leg], deaf=deaf[leg])
        )
    sounds = []
    for number, (leg, room, kind) in enumerate(sources):
        heard_by = None if leg < 0 else leg
        in_room = room if heard_by is None else room_of[leg]
        sounds.append((in_room, heard_by, noise(random, kind)))
        command = StartPlayback(
            room_id=str(in_room), playback_id=str(number), leg_id="" if heard_by is None else str(leg)
        )
        membership.rooms[str(in_room)].playbacks[str(number)] = Playback(command, Still(sounds[-1][2]), -1)
    membership.apply_due(TICK)
    (group,) = membership.groups[0]
    assert (group.sources is not None) == bool(sources)
    for small in (group.small, group.small, None, None):  # each the second time from the kept plan
        group.small = small
        if group.sources is not None:
            group.sources.prepare(TICK)
        missing = mix_group(group, TICK)
        assert missing == kinds.count("absent")
        out = TICK % TX_SLOTS
        expected = reference(len(rows), room_of, muted, deaf, frames, sounds=sounds)
        for leg, wish in enumerate(expected):
            assert bank.tx_tick[rows[leg], out] == TICK
            source = bank.tx_from[rows[leg], out]
            if wish is None:
                assert source == HEARS_NOTHING
                continue
            heard = bank.tx[source, out]
            assert source in rows
            if isinstance(wish, str):
                assert np.abs(heard).max() <= 8
            else:
                np.testing.assert_array_equal(heard, wish)


def test_the_mixer_means_the_same_nothing_as_the_bank():
    assert mixer.NOTHING == HEARS_NOTHING


def test_many_listeners_share_one_row(bank):
    membership = Membership({RATE: bank}, with_comfort_noise=False)
    membership.open(OpenRoom(room_id="r", rate_hz=RATE, phase=2))
    for index in range(50):
        membership.schedule(
            AddParticipant(room_id="r", leg_id=str(index), row=Row(rate_hz=RATE, index=index, generation=0))
        )
    bank.rx_tick[:] = 0
    bank.rx[7, TICK % RX_SLOTS] = 900
    bank.rx_tick[7, TICK % RX_SLOTS] = TICK
    membership.apply_due(TICK)
    mix_group(membership.groups[2][0], TICK)
    sources = bank.tx_from[:50, TICK % TX_SLOTS]
    assert set(np.delete(sources, 7)) == {0}
    assert sources[7] == HEARS_NOTHING  # the lone talker hears silence, and comfort noise is off


def test_no_change_overtakes_an_earlier_one_of_the_same_participant(bank):
    membership = Membership({RATE: bank}, with_comfort_noise=False)
    membership.open(OpenRoom(room_id="r", rate_hz=RATE, phase=0))
    row = Row(rate_hz=RATE, index=1, generation=0)
    come, go = AddParticipant(room_id="r", leg_id="a", row=row), RemoveParticipant(room_id="r", leg_id="a")
    participants = membership.rooms["r"].participants
    membership.schedule(come)
    membership.apply_due(TICK)
    membership.schedule(replace(go, at_tick=TICK + 2))  # a move to another room
    membership.schedule(come)  # and back at once
    membership.schedule(SetParticipant(room_id="r", leg_id="a", muted=True, deaf=False))
    membership.schedule(AddParticipant(room_id="r", leg_id="b", row=replace(row, index=2)))
    assert not participants["a"].muted
    assert "b" in participants  # others need not wait
    membership.apply_due(TICK + 2)
    assert participants["a"].muted
    membership.schedule(replace(go, at_tick=TICK + 5))
    membership.schedule(replace(come, at_tick=TICK + 4))
    membership.apply_due(TICK + 4)
    assert "a" in participants
    membership.apply_due(TICK + 5)
    assert "a" in participants
    assert not participants["a"].muted


def test_a_change_waits_for_its_tick_and_a_late_one_is_applied_at_once(bank):
    membership = Membership({RATE: bank}, with_comfort_noise=False)
    membership.open(OpenRoom(room_id="r", rate_hz=RATE, phase=0))
    row = Row(rate_hz=RATE, index=1, generation=0)
    membership.apply_due(TICK)
    assert membership.schedule(AddParticipant(room_id="r", leg_id="a", row=row, at_tick=TICK + 2))
    membership.apply_due(TICK + 1)
    assert membership.groups == {}
    membership.apply_due(TICK + 2)
    assert list(membership.rooms["r"].participants) == ["a"]
    assert not membership.schedule(SetParticipant(room_id="r", leg_id="a", muted=True, deaf=False, at_tick=TICK))
    assert membership.rooms["r"].participants["a"].muted
    assert membership.schedule(RemoveParticipant(room_id="r", leg_id="a"))
    membership.close(CloseRoom(room_id="r"))
    membership.apply_due(TICK + 3)
    assert membership.groups == {}
