"""Which rtp process serves the next leg."""

from app.legs.paths import FULL_BATCH, process_for


def test_one_process_is_filled_before_the_next_and_then_all_alike():
    load = [0, 0, 0]
    for _ in range(4 * FULL_BATCH):
        load[process_for(load)] += 1
        assert sorted(load, reverse=True) == load
        assert load[1] == 0 or load[0] >= FULL_BATCH
    assert load == [4 * FULL_BATCH // 3] * 3


def test_a_gap_in_an_early_process_is_filled_first():
    assert process_for([FULL_BATCH - 1, 5, 0]) == 0
    assert process_for([FULL_BATCH, 5, 0]) == 1
    assert process_for([FULL_BATCH + 2, FULL_BATCH + 1]) == 1
