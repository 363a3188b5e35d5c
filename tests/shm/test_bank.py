"""The layout that the drawing in shm/bank.py promises, and what rows rest on."""

import itertools
import os
import re
from pathlib import Path

import numpy as np
import pytest

import shm.bank
from shm.bank import HEARS_NOTHING, LEG, RX_SLOTS, TX_SLOTS, Bank
from shm.errors import ResourceError
from shm.segment import Segment


def test_the_drawing_is_the_dtype():
    source = Path(shm.bank.__file__).read_text()
    drawn = {
        name: int(offset) for offset, name in re.findall(r"^# +(\d+)  (\w+) +(?:control|rtp)\b", source, re.MULTILINE)
    }
    assert drawn == {name: LEG.fields[name][1] for name in LEG.names}
    ends = sorted((LEG.fields[name][1], LEG.fields[name][0].itemsize) for name in LEG.names)
    for (offset, size), (following, _) in itertools.pairwise(ends):
        assert offset + size <= following  # no field overlaps the next


@pytest.mark.parametrize(("rate_hz", "samples"), [(8000, 160), (16000, 320), (48000, 960)])
def test_shapes(rate_hz, samples):
    bank = Bank(rate_hz, 64, "test")
    assert bank.rx.shape == (64, RX_SLOTS, samples)
    assert bank.tx.shape == (64, TX_SLOTS, samples)
    assert bank.rx_tick.shape == (64, RX_SLOTS)
    assert bank.tx_from.shape == (64, TX_SLOTS)
    assert bank.leg.shape == (64,)


def test_arrays_do_not_overlap():
    bank = Bank(8000, 64, "test")
    for index, name in enumerate(("rx", "rx_tick", "tx", "tx_tick", "tx_from"), start=1):
        getattr(bank, name)[...] = index
    for index, name in enumerate(("rx", "rx_tick", "tx", "tx_tick", "tx_from"), start=1):
        assert (getattr(bank, name) == index).all()


def test_a_cleared_row_looks_unused_but_keeps_its_generation():
    bank = Bank(8000, 64, "test")
    bank.rx_tick[3] = bank.tx_tick[3] = 77
    bank.leg["generation"][3] = 5
    bank.leg["packets_received"][3] = 9
    bank.clear(3)
    assert not bank.rx_tick[3].any()
    assert not bank.tx_tick[3].any()
    assert (bank.tx_from[3] == HEARS_NOTHING).all()
    assert bank.leg["generation"][3] == 5
    assert bank.leg["packets_received"][3] == 0


def test_segments_leave_no_name_and_are_shared_over_fork():
    before = set(Path("/dev/shm").iterdir())
    segment = Segment("test", 4096)
    assert set(Path("/dev/shm").iterdir()) == before
    child = os.fork()
    if child == 0:
        segment.memory[7] = 42
        os._exit(0)
    os.waitpid(child, 0)
    assert segment.memory[7] == 42


def test_missing_memory_is_an_error_and_not_a_crash():
    segment = Segment("test", 1 << 42)
    with pytest.raises(ResourceError, match="shared memory"):
        segment.back(0, 1 << 42)


def test_backing_a_block_covers_every_array():
    bank = Bank(8000, 128, "test")
    bank.back_block(0)
    bank.back_block(1)
    bank.rx[127, RX_SLOTS - 1] = np.int16(3)
    assert bank.rx[127].sum() == 3 * 160
