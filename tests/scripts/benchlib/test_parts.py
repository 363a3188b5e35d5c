"""The bench's parts that need no server: figures from /metrics and /proc, and the build of the generator."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest
from benchlib import calls, generator, metrics, processes, report
from benchlib.server import BenchError

BEFORE = """\
# TYPE roomtone_packets_lost_total counter
roomtone_packets_lost_total{process="rtp"} 5
# TYPE roomtone_tick_late_seconds histogram
roomtone_tick_late_seconds_bucket{process="rtp",le="0.001"} 100
roomtone_tick_late_seconds_bucket{process="rtp",le="0.01"} 100
roomtone_tick_late_seconds_bucket{process="rtp",le="+Inf"} 100
roomtone_tick_late_seconds_count{process="rtp"} 100
roomtone_tick_late_seconds_sum{process="rtp"} 0.1
# TYPE roomtone_rooms gauge
roomtone_rooms 1
# TYPE voiceblender_active_legs gauge
voiceblender_active_legs 3
"""
AFTER = (
    BEFORE.replace('{process="rtp"} 5', '{process="rtp"} 7')
    .replace('le="0.001"} 100', 'le="0.001"} 150')
    .replace('le="0.01"} 100', 'le="0.01"} 199')
    .replace('le="+Inf"} 100', 'le="+Inf"} 200')
    .replace("rooms 1", "rooms 4")
)


def test_metrics_are_given_as_growth_values_and_bounds():
    assert metrics.growth(BEFORE, AFTER) == {
        "roomtone_packets_lost_total{process=rtp}": 2,
        "roomtone_rooms": 4,
        "roomtone_tick_late_seconds{process=rtp}": "count 100, p50 <= 0.001, p99 <= 0.01",
    }


def test_metrics_may_be_absent():
    assert metrics.growth("", "") == {}


def test_percentiles_are_values_that_occurred():
    values = [float(n) for n in range(100, 0, -1)]
    assert (report.percentile(values, 0.5), report.percentile(values, 0.99), report.percentile(values, 1)) == (
        50,
        99,
        100,
    )
    assert report.percentile([], 0.5) is None


async def test_what_does_not_come_is_an_error_and_no_endless_wait(monkeypatch, tmp_path):
    monkeypatch.setattr(calls, "TOLD_WITHIN_S", 0.1)
    caller = calls.Caller(None, None, "")
    caller.told["recording.started"] = [{}]
    with pytest.raises(BenchError, match="1 of 2 events recording"):
        await caller.heard("recording.started", 2)
    caller.told["playback.error"] = [{"error": "404"}]
    with pytest.raises(BenchError, match="a playback failed: 404"):
        await caller.heard("playback.started", 2)
    monkeypatch.setattr(calls, "SET_UP_WITHIN_S", -1)
    assert "not tried" in (await caller.call_all([("sip:a", "room")], "PCMU", 1, print)).failures[0]
    dumb = generator.Generator(tmp_path, {})
    dumb.process = await asyncio.create_subprocess_exec("sleep", "9", stdin=-1, stdout=-1, stderr=-1)
    with pytest.raises(BenchError, match="did not say READY"):
        await dumb.line("READY", 0.1)
    monkeypatch.setattr(generator, "SAYS_WITHIN_S", 0.1)
    await dumb.stop()
    assert dumb.process.returncode == -signal.SIGKILL


# A parent whose child is named like a room worker, computes for 0.2 s of CPU and outlives it.
PARENT = """
import os, sys, time
child = '''
import time
while time.process_time() < 0.2: pass
print("done", flush=True)
time.sleep(30)
'''
if os.fork() == 0:
    os.execv(sys.executable, ["roomtone: room 7", "-c", child])
sys.stdin.readline()
"""


def test_the_tree_counts_children_by_kind_and_keeps_orphans():
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    tree = processes.ProcessTree(parent.pid)
    assert parent.stdout.readline() == "done\n"
    used = tree.cpu_ns_by_kind({}, tree.cpu_ns())
    assert set(used) == {"master", "room"}
    assert used["room"] == pytest.approx(0.22e9, rel=0.3)
    memory = tree.memory()
    assert memory["room"].processes == 1
    assert 1000 < memory["room"].pss_kib < 100_000
    parent.stdin.close()
    parent.wait()
    (orphan,) = tree.living()
    assert tree.kinds[orphan] == "room"
    os.kill(orphan, signal.SIGKILL)
    parent.stdout.close()


def test_a_process_whose_parent_died_unseen_is_found_by_its_session():
    detaching = PARENT.replace("if os.fork() == 0:", "if os.fork() == 0 and (os.fork() == 0 or os._exit(0)):")
    command = [sys.executable, "-c", detaching]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert parent.stdout.readline() == "done\n"
    tree = processes.ProcessTree(parent.pid)
    tree.find()
    (detached,) = [pid for pid, kind in tree.kinds.items() if kind == "room"]
    assert int(processes.stat_fields(detached)[1]) != parent.pid
    os.kill(detached, signal.SIGKILL)
    parent.communicate()


def test_without_a_compiler_the_packages_are_named(tmp_path, monkeypatch):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/loadgen.c").write_text("int main(void) { return 0; }")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match="apt-get install gcc libc6-dev"):
        generator.build(tmp_path)


def test_the_generator_is_built_again_only_when_its_source_is_younger(tmp_path, loadgen):
    (tmp_path / "scripts").mkdir()
    source = tmp_path / "scripts/loadgen.c"
    source.write_text("int main(void) { return 0; }")
    binary = generator.build(tmp_path)
    built_ns = binary.stat().st_mtime_ns
    assert generator.build(tmp_path).stat().st_mtime_ns == built_ns
    source.write_text("int main(void) { return nothing; }")
    later_s = built_ns / 1e9 + 10
    os.utime(source, (later_s, later_s))
    with pytest.raises(BenchError, match="nothing"):
        generator.build(tmp_path)
