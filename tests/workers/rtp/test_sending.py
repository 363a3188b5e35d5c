"""What each leg is sent: encoded once for all who hear the same, and the same as if each were encoded alone."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shm.bank import HEARS_NOTHING, TX_SLOTS, Bank
from workers.audio import g711
from workers.audio.resample import resampler
from workers.rtp.codecs import PCMU
from workers.rtp.sending import Sending

ROWS = 6
TICK = 1001
IN_ROOM = 8


@pytest.fixture(scope="module", params=[8000, 16000, 48000])
def bank(request):
    bank = Bank(request.param, 64, "sending")
    random = np.random.default_rng(1)
    bank.tx[:ROWS] = random.integers(-20000, 20000, bank.tx[:ROWS].shape)
    return bank


class NoTransport:
    def prepare(self, _legs, packets):
        return packets


def batch_of(bank, rows):
    legs = SimpleNamespace(limit=64, banks=[bank], row=np.array(rows), bank=np.zeros(len(rows), np.int64))
    sending = Sending(legs, NoTransport())
    key = ((PCMU * 4 + 1) * 4 + 0) * 16 + IN_ROOM + 1
    return sending, sending._batch(np.arange(len(rows)), key)


def alone(bank, before, now):
    """What a leg gets that hears these rows in the tick before and now."""
    frames = [
        bank.tx[row, tick % TX_SLOTS] if row != HEARS_NOTHING else np.zeros(bank.frame_samples, np.int16)
        for row, tick in ((before, TICK - 1), (now, TICK))
    ]
    if bank.rate_hz != 8000:
        convert = resampler(bank.rate_hz, 8000)
        return g711.ulaw_encode(convert(frames[0][None, -convert.history :], frames[1][None]))[0]
    return g711.ulaw_encode(frames[1][None])[0]


heard = st.integers(HEARS_NOTHING, ROWS - 1)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(heard, heard), min_size=1, max_size=ROWS), st.permutations(range(ROWS)), st.booleans())
def test_each_leg_gets_what_it_would_get_alone(bank, hears, rows, goes_on):
    rows = rows[: len(hears)]
    sending, batch = batch_of(bank, rows)
    for tick, which in ((TICK - 1, 0), (TICK, 1)):
        bank.tx_from[rows, tick % TX_SLOTS] = [pair[which] for pair in hears]
        bank.tx_tick[rows, tick % TX_SLOTS] = tick
    room = np.zeros((len(rows), 160), np.uint8)
    if goes_on:  # else the batch is new: it looks up what its legs heard before
        sending._encode(batch, TICK - 1, room)
    sending._encode(batch, TICK, room)
    is_silent = all(now == HEARS_NOTHING for _, now in hears)  # then nothing is encoded, not even a filter's tail
    for leg, (before, now) in enumerate(hears):
        if is_silent:
            before = HEARS_NOTHING  # noqa: PLW2901
        np.testing.assert_array_equal(room[leg], alone(bank, before, now))
