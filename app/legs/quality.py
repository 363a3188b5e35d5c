"""How good a call was, from the counters rtp keeps in `bank.leg` (contract media.md section 7.6).

Runs in: control. Pure.
"""

from typing import Any


def mean_opinion_score(jitter_ms: float, loss_percent: float) -> float:
    """E-model after media.md section 7.6, 1 to 5, 2 decimals."""
    latency_ms = 2 * jitter_ms + 10
    r = 93.2 - latency_ms / 40
    if latency_ms >= 160:
        r -= 10
    r = min(max(r - 2.5 * loss_percent, 0.0), 100.0)
    score = 1 + 0.035 * r + 7e-6 * r * (r - 60) * (100 - r)
    return round(min(max(score, 1.0), 5.0), 2)


def quality_report(packets_received: int, packets_lost: int, jitter: float, clock_hz: int) -> dict[str, Any] | None:
    """`quality` of `leg.disconnected`; `jitter` in RTP clock units. None when no RTP came."""
    if packets_received <= 0:
        return None
    lost = max(packets_lost, 0)
    jitter_ms = 1000 * jitter / clock_hz
    return {
        "mos_score": mean_opinion_score(jitter_ms, 100 * lost / (packets_received + lost)),
        "rtp_packets_received": packets_received,
        "rtp_packets_lost": lost,
        "rtp_jitter_ms": round(jitter_ms, 2),
    }
