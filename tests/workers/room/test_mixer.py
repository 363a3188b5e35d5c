"""The mixer against a loop over legs that follows media.md section 2 word by word."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shm.bank import HEARS_NOTHING, RX_SLOTS, TX_SLOTS, Bank
from shm.messages import AddParticipant, CloseRoom, OpenRoom, RemoveParticipant, Row, SetParticipant
from workers.room import mixer
from workers.room.loop import mix_group
from workers.room.membership import Membership

TICK = 1_000_003
RATE = 8000


@pytest.fixture(scope="module")
def bank():
    return Bank(RATE, 128, "test-mixer")


def reference(legs, room_of, muted, deaf, frames):
    """What each leg hears: None = nothing, "noise" = comfort noise, else int16 samples."""
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
        heard.append("noise" if silent else np.clip(total, -32768, 32767))
    return heard


@st.composite
def situations(draw):
    rooms = draw(st.integers(1, 4))
    sizes = [draw(st.integers(1, 5)) for _ in range(rooms)]
    room_of = [room for room, size in enumerate(sizes) for _ in range(size)]
    legs = len(room_of)
    flags = st.lists(st.booleans(), min_size=legs, max_size=legs)
    kinds = draw(st.lists(st.sampled_from(["absent", "zeros", "quiet", "loud"]), min_size=legs, max_size=legs))
    rows = draw(st.permutations(range(legs)))
    return room_of, draw(flags), draw(flags), kinds, rows, draw(st.integers(0, 2**32 - 1))


@settings(max_examples=300, deadline=None)
@given(situations())
def test_everyone_hears_all_others_and_not_themselves(bank, situation):
    room_of, muted, deaf, kinds, rows, seed = situation
    random = np.random.default_rng(seed)
    frames = []
    bank.rx_tick[:] = 0
    for leg, kind in enumerate(kinds):
        frame = None
        if kind != "absent":
            scale = {"zeros": 0, "quiet": 500, "loud": 32767}[kind]
            frame = random.integers(-scale, scale, RATE // 50, endpoint=True).astype(np.int16)
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
    membership.apply_due(TICK)
    (group,) = membership.groups[0]
    for _ in range(2):  # the second time from the kept plan
        missing = mix_group(group, TICK)
        assert missing == kinds.count("absent")
        out = TICK % TX_SLOTS
        expected = reference(len(rows), room_of, muted, deaf, frames)
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
