from app.metrics import Metrics
from shm.stats import Stats, lateness_bin


def lines(metrics):
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in _samples(metrics)}


def _samples(metrics):
    return [line for line in metrics.render().decode().splitlines() if not line.startswith("#")]


def test_names_of_the_contract():
    metrics = Metrics()
    metrics.watch(legs=lambda: [("sip_inbound", "ringing"), ("sip_inbound", "connected")], rooms=lambda: 3)
    metrics.leg_reached("sip_inbound", "ringing")
    metrics.leg_ended("sip_inbound", "remote_bye", answered_s=20, total_s=70)
    metrics.leg_ended("sip_inbound", "busy", answered_s=0, total_s=1)
    found = lines(metrics)
    assert found["voiceblender_active_legs"] == 2
    assert found["voiceblender_active_rooms"] == 3
    assert found['voiceblender_legs_total{state="ringing",type="sip_inbound"}'] == 1
    assert found['voiceblender_legs_total{state="disconnected",type="sip_inbound"}'] == 2
    assert found['voiceblender_disconnect_reasons_total{reason="busy",type="sip_inbound"}'] == 1
    assert found['voiceblender_call_duration_seconds_bucket{le="30.0",type="sip_inbound"}'] == 1
    assert found['voiceblender_call_duration_seconds_count{type="sip_inbound"}'] == 1
    assert found['voiceblender_call_total_duration_seconds_bucket{le="60.0",type="sip_inbound"}'] == 1
    assert found['voiceblender_call_total_duration_seconds_count{type="sip_inbound"}'] == 2
    for outcome in ("success", "exhausted", "marshal_error", "request_error"):
        assert found[f'voiceblender_webhook_deliveries_total{{outcome="{outcome}"}}'] == 0
    for name in ("webhook_enqueued", "webhook_dropped", "vsi_events_dropped"):
        assert found[f"voiceblender_{name}_total"] == 0
    assert found['roomtone_legs{state="connected",type="sip_inbound"}'] == 1
    assert not any(name.endswith("_created") for name in found)


def test_numbers_of_the_processes_are_summed_by_kind():
    stats = Stats(8, "test")
    for index in (1, 2, 5):
        stats.row(index)["packets_lost"] += index
        stats.row(index)["lateness"][lateness_bin(300_000)] += 1
        stats.row(index)["lateness"][lateness_bin(10**9)] += 1
        stats.row(index)["lateness_sum_ns"] += 500_000_000
    metrics = Metrics()
    metrics.watch(legs=list, rooms=int, stats=stats, stats_rows=lambda: [("rtp", 1), ("rtp", 2), ("room", 5)])
    found = lines(metrics)
    assert found['roomtone_packets_lost_total{process="rtp"}'] == 3
    assert found['roomtone_packets_lost_total{process="room"}'] == 5
    name = 'roomtone_tick_lateness_seconds_bucket{le="%s",process="rtp"}'
    assert [found[name % edge] for edge in ("0.00025", "0.0005", "0.05", "+Inf")] == [0, 2, 2, 4]
    assert found['roomtone_tick_lateness_seconds_sum{process="rtp"}'] == 1
