import pytest

from app.legs.quality import mean_opinion_score, quality_report


@pytest.mark.parametrize(
    ("jitter_ms", "loss", "score"),
    # by hand from media.md 7.6, e.g. jitter 0, loss 0: R = 92.95, MOS = 4.40
    [(0, 0, 4.40), (20, 2, 4.25), (75, 0, 4.03), (5, 40, 1.0), (0, 100, 1.0)],
)
def test_score(jitter_ms, loss, score):
    assert mean_opinion_score(jitter_ms, loss) == pytest.approx(score, abs=0.06)


def test_no_report_without_packets():
    assert quality_report(0, 0, 0.0, 8000) is None


def test_report():
    assert quality_report(980, 20, 80.0, 8000) == {
        "mos_score": mean_opinion_score(10.0, 2.0),
        "rtp_packets_received": 980,
        "rtp_packets_lost": 20,
        "rtp_jitter_ms": 10.0,
    }
