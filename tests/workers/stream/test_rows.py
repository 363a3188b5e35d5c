"""Taps and mouths on real banks, without a clock."""

import numpy as np
import pytest

from shm.bank import HEARS_NOTHING, RX_SLOTS, TX_SLOTS
from shm.messages import Row
from workers.stream.rows import SILENCE, Mouth, Tap

T = 1_000_000


def place(row, rate_hz=16_000, generation=0):
    return Row(rate_hz=rate_hz, index=row, generation=generation)


@pytest.fixture(autouse=True)
def cleared(banks):
    for bank in banks.values():
        bank.rx_tick[:] = 0
        bank.tx_tick[:] = 0
        bank.tx_from[:] = HEARS_NOTHING


def say(bank, row, tick, value):
    bank.rx[row, tick % RX_SLOTS] = value
    bank.rx_tick[row, tick % RX_SLOTS] = tick


def mix(bank, row, tick, value, source=None):
    source = row if source is None else source
    if source >= 0:
        bank.tx[source, tick % TX_SLOTS] = value
    bank.tx_from[row, tick % TX_SLOTS] = source
    bank.tx_tick[row, tick % TX_SLOTS] = tick


def values(chunks):
    return [int(np.frombuffer(chunk, np.int16)[0]) for chunk in chunks]


def test_a_tick_is_given_once_and_gaps_are_silence(banks):
    bank = banks[16_000]
    tap = Tap(banks, place(1), "rx")
    say(bank, 1, T, 7)
    assert values(tap.read(T)) == [7]
    assert tap.read(T) == []
    say(bank, 1, T + 2, 9)
    assert values(tap.read(T + 3)) == [0, 9, 0]


def test_a_reader_that_comes_late_gets_what_the_ring_still_holds(banks):
    bank = banks[16_000]
    tap = Tap(banks, place(1), "rx")
    tap.read(T)
    for tick in range(T + 1, T + 101):
        say(bank, 1, tick, tick - T)
    given = values(tap.read(T + 100))
    assert given == list(range(100 - len(given) + 1, 101))
    assert len(given) >= 25


def test_a_late_mixer_is_waited_for_once(banks):
    bank = banks[16_000]
    tap = Tap(banks, place(1), "tx")
    mix(bank, 1, T, 5)
    assert values(tap.read(T)) == [5]
    assert tap.read(T + 1) == []
    mix(bank, 1, T + 1, 6)
    mix(bank, 1, T + 2, 7)
    assert values(tap.read(T + 2)) == [6, 7]
    assert values(tap.read(T + 5)) == [0, 0]  # it is dead: silence, one behind
    assert values(tap.read(T + 6)) == [0]


def test_it_hears_what_the_row_is_pointed_at(banks):
    bank = banks[16_000]
    tap = Tap(banks, place(1), "tx")
    mix(bank, 1, T, 5, source=9)
    assert values(tap.read(T)) == [5]
    mix(bank, 1, T + 1, 0, source=HEARS_NOTHING)
    assert tap.read(T + 1) == [SILENCE]


@pytest.mark.parametrize("rate_hz", [8_000, 48_000])
def test_there_and_back_between_rates(banks, rate_hz):
    """A tone through a mouth and out of a tap keeps its level and has no seams."""
    bank = banks[rate_hz]
    mouth, tap = Mouth(banks, place(2, rate_hz)), Tap(banks, place(2, rate_hz), "rx")
    tone = (8000 * np.sin(2 * np.pi * 1000 * np.arange(320) / 16_000)).astype(np.int16).tobytes()
    heard = []
    for tick in range(T, T + 50):
        mouth.say(tick - 1, tone)
        assert bank.rx_tick[2, tick % RX_SLOTS] == tick
        heard += tap.read(tick)
    samples = np.frombuffer(b"".join(heard), np.int16)[640:].astype(float)
    assert abs(np.abs(samples).max() - 8000) < 800  # the filters ripple by 0.3 dB each
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    peak = round(1000 * len(samples) / 16_000)
    assert spectrum.sum() - spectrum[peak - 4 : peak + 5].sum() < spectrum.sum() / 1e5


def test_a_mouth_writes_only_its_own_row(banks):
    bank = banks[16_000]
    mouth = Mouth(banks, place(3, generation=1))
    mouth.say(T, SILENCE)
    assert not bank.rx_tick[3].any()
    bank.leg["generation"][3] = 1
    mouth.say(T + 1, SILENCE)
    assert bank.rx_tick[3, (T + 2) % RX_SLOTS] == T + 2
    bank.leg["generation"][3] = 0


def test_a_mouth_says_no_tick_twice(banks):
    mouth = Mouth(banks, place(3))
    mouth.say(T, (np.ones(320, np.int16) * 5).tobytes())
    mouth.say(T, (np.ones(320, np.int16) * 6).tobytes())
    assert banks[16_000].rx[3, (T + 1) % RX_SLOTS][0] == 5


def test_what_the_resampler_holds_comes_out_at_the_end(banks):
    bank = banks[8_000]
    mouth = Mouth(banks, place(3, 8_000))
    mouth.say(T, (np.ones(320, np.int16) * 1000).tobytes())
    mouth.say(T + 1, None)
    tail = bank.rx[3, (T + 2) % RX_SLOTS]
    assert bank.rx_tick[3, (T + 2) % RX_SLOTS] == T + 2
    assert np.abs(tail[:20]).max() > 100
    mouth.say(T + 2, None)
    assert bank.rx_tick[3, (T + 3) % RX_SLOTS] != T + 3
