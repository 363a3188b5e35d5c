"""Counter rows: views, not copies; the histogram's edges."""

from shm.stats import LATENESS_EDGES_MS, Stats, lateness_bin


def test_a_row_is_a_view_of_the_table():
    stats = Stats(4, "test")
    row = stats.row(2)
    row["ticks"] += 3
    row["lateness"][lateness_bin(1)] += 1
    assert stats.table["ticks"].tolist() == [0, 0, 3, 0]
    assert stats.table["lateness"][2, 0] == 1


def test_bins_hold_what_is_at_most_their_edge():
    for index, edge_ms in enumerate(LATENESS_EDGES_MS):
        assert lateness_bin(int(edge_ms * 1e6)) == index
        assert lateness_bin(int(edge_ms * 1e6) + 1) == index + 1
    assert lateness_bin(-5) == 0
