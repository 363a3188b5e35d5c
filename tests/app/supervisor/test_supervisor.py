import pytest

from app.supervisor.supervisor import is_hung

S = 1_000_000_000


@pytest.mark.parametrize(
    ("attached_s", "beat_s", "now_s", "hung"),
    [
        (100, 200, 200.9, False),
        (100, 200, 201.1, True),
        (100, 0, 108, False),  # it still imports
        (100, 99.9, 108, False),  # the beat is its predecessor's
        (100, 99.9, 110.1, True),
        (100, 100, 101.1, True),
    ],
)
def test_a_process_hangs_a_second_after_its_last_beat_or_ten_after_its_start(attached_s, beat_s, now_s, hung):
    assert is_hung(attached_s * S, int(beat_s * S), int(now_s * S)) is hung
