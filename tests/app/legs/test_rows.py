import pytest

from app.legs.rows import REST_TICKS, Rows
from shm.bank import HEARS_NOTHING, Bank
from shm.errors import ResourceError


@pytest.fixture
def clocked():
    """(rows of a bank of 128, the bank, a settable tick)"""
    now = [1000]
    bank = Bank(8000, 128, "test")
    return Rows({8000: bank}, lambda: now[0]), bank, now


def test_a_row_rests_before_it_is_used_again_and_is_then_clean(clocked):
    rows, bank, now = clocked
    first = rows.take(8000)
    bank.rx_tick[first.index] = 77
    bank.leg["packets_received"][first.index] = 5
    rows.give_back(first)
    assert rows.take(8000).index != first.index
    now[0] += REST_TICKS
    again = rows.take(8000)
    assert again.index == first.index
    assert again.generation == first.generation + 1 == bank.leg["generation"][first.index]
    assert not bank.rx_tick[first.index].any()
    assert (bank.tx_from[first.index] == HEARS_NOTHING).all()
    assert bank.leg["packets_received"][first.index] == 0


def test_all_rows_can_be_used_and_no_more(clocked):
    rows, _bank, now = clocked
    taken = [rows.take(8000) for _ in range(128)]
    assert len({row.index for row in taken}) == 128
    with pytest.raises(ResourceError):
        rows.take(8000)
    rows.give_back(taken[7])
    with pytest.raises(ResourceError):
        rows.take(8000)
    now[0] += REST_TICKS
    assert rows.take(8000).index == taken[7].index


def test_memory_is_asked_for_by_the_block(clocked):
    rows, bank, _now = clocked
    backed = []
    bank.back_block = backed.append
    for _ in range(65):
        rows.take(8000)
    assert backed == [0, 1]


def test_without_memory_nothing_is_taken(clocked):
    rows, bank, _now = clocked

    def refuse(block):
        raise ResourceError("full")

    back_block, bank.back_block = bank.back_block, refuse
    with pytest.raises(ResourceError):
        rows.take(8000)
    bank.back_block = back_block
    assert rows.take(8000).index == 0


def test_a_new_control_process_gives_out_none_that_is_in_use(clocked):
    rows, bank, now = clocked
    used = [rows.take(8000) for _ in range(70)]
    successor = Rows({8000: bank}, lambda: now[0])
    successor.resume(used[::2])
    kept = {row.index for row in used[::2]}
    now[0] += REST_TICKS
    fresh = [successor.take(8000) for _ in range(128 - len(kept))]
    assert not kept & {row.index for row in fresh}
    with pytest.raises(ResourceError):
        successor.take(8000)
