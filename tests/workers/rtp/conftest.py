"""Beds and phones that are closed whatever happens."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from bed import Bed, Phone, Room


@pytest.fixture(params=["uring", "epoll"])
def io(request):
    """Every test of the process runs over both."""
    if request.param == "uring":
        from workers.rtp.uring import Uring

        try:
            Uring().close()
        except OSError as error:
            pytest.skip(f"io_uring is refused here: {error}")
    return request.param


@pytest.fixture
def bed(io):
    bed = Bed(io=io)
    yield bed
    bed.close()


@pytest.fixture
def phones():
    """`phones()` makes one more."""
    made = []

    def make(**options):
        made.append(Phone(**options))
        return made[-1]

    yield make
    for phone in made:
        phone.close()


@pytest.fixture
def rooms(bed):
    """`rooms(rows)` mixes them."""
    made = []

    def make(rows, rate_hz=16000, phase=0):
        made.append(Room(bed.instance.banks[rate_hz], rows, phase))
        return made[-1]

    yield make
    for room in made:
        room.close()
