"""scripts/bench from end to end against a stand-in server whose delay and faults are known."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

FAKE = shlex.join([sys.executable, str(Path(__file__).with_name("fake_server.py"))])
FAULTS = {0: "echo", 1: "crossed", 2: "lossy", 3: "dropout", 4: "dead"}
BLOCKS_PER_BURST = 5


def run_bench(
    root, *options: str, server: str = FAKE, faults: dict[int, str] | None = None, short: tuple[int, ...] = ()
):
    return subprocess.run(
        [sys.executable, root / "scripts/bench", "--server-command", server, "--rtp-port-min", "22000", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "FAKE_FAULTS": json.dumps(faults or {}), "FAKE_SHORT": json.dumps(short)},
    )


@pytest.fixture(scope="module")
def spoilt(root, loadgen, tmp_path_factory):
    """One run over six rooms of three; each room but the last has its own fault."""
    written = tmp_path_factory.mktemp("bench") / "bench.json"
    ended = run_bench(root, "--legs", "18", "--seconds", "4", "--json", str(written), faults=FAULTS)
    assert ended.returncode == 0, ended.stderr
    return ended, json.loads(written.read_text())


@pytest.fixture(scope="module")
def legs(spoilt):
    return {(leg["room"], leg["index"]): leg for leg in spoilt[1]["generator"]["legs"]}


def test_the_relays_delay_comes_out_as_mouth_to_ear(spoilt):
    figures = spoilt[1]["figures"]
    assert 30 <= figures["mouth_to_ear_ms"]["p50"] < 34
    assert figures["gap_ms"]["p50"] == pytest.approx(20, abs=1)


def test_in_a_sound_room_both_listeners_hear_all_of_each_burst(legs):
    for index in (1, 2):
        leg = legs[5, index]
        assert 7 <= leg["bursts_expected"] <= 9
        assert leg["bursts_heard"] == leg["bursts_expected"]
        assert leg["blocks_heard"] == leg["bursts_heard"] * BLOCKS_PER_BURST
        assert [leg[name] for name in ("lost", "talkers_missed", "self_heard", "foreign_heard", "stray")] == [0] * 5
    assert legs[5, 0]["is_talker"]
    assert legs[5, 0]["bursts_expected"] == 0


def test_hearing_oneself_is_told_from_hearing_others(legs):
    assert legs[0, 0]["self_heard"] >= 7
    assert sum(leg["self_heard"] for leg in legs.values()) == legs[0, 0]["self_heard"]


def test_the_talker_of_another_room_is_told_by_its_tone(legs):
    assert legs[1, 1]["foreign_heard"] >= 7
    assert legs[1, 1]["bursts_heard"] == 0
    assert sum(leg["foreign_heard"] for leg in legs.values()) == legs[1, 1]["foreign_heard"]


def test_missing_packets_are_counted_by_their_sequence(legs):
    leg = legs[2, 1]
    assert leg["lost"] == pytest.approx((leg["lost"] + leg["received"]) / 10, abs=1)
    assert leg["gap_max_ms"] >= 35
    assert sum(other["lost"] for other in legs.values()) == leg["lost"]


def test_a_hole_in_a_burst_lowers_the_share_of_audio_heard_and_nothing_else(legs):
    leg = legs[3, 1]
    assert leg["bursts_heard"] == leg["bursts_expected"]
    assert leg["blocks_heard"] == leg["bursts_heard"] * (BLOCKS_PER_BURST - 1)
    assert leg["lost"] == 0


def test_a_leg_that_gets_nothing_is_missed(spoilt, legs):
    assert legs[4, 1]["received"] == 0
    assert legs[4, 1]["talkers_missed"] == 1
    figures = spoilt[1]["figures"]
    assert figures["packets_by_time_share"] < 0.96
    assert figures["listeners"] - figures["listeners_hear_the_others"] == 2  # this one and the crossed one


def test_the_table_has_all_figures_and_nothing_is_left_behind(spoilt):
    ended, written = spoilt
    figures = written["figures"]
    assert figures["legs_up"] == 18
    assert figures["cpu_us_per_leg_second"] > 0
    assert figures["calls_per_second"] > 0
    assert figures["setup_ms"]["p50"] <= figures["setup_ms"]["p99"]
    assert figures["ending"] == {
        "exit_code": 0,
        "seconds": figures["ending"]["seconds"],
        "processes_left": [],
        "segments_left": [],
    }
    assert figures["server_metrics"] == {"roomtone_packets_late_total": 0}
    first, *rows, last = ended.stdout.splitlines()
    assert json.loads(last) == written["figures"]
    assert first == "18 legs, rooms of 3, dedicated, 16000 Hz, PCMU, 4 s"
    assert len({row.index("  ") for row in rows if not row.startswith("  ")}) >= 1
    assert any(row.split() == ["legs", "up", "18", "of", "18"] for row in rows)


def test_playback_and_recording_are_measured_on_the_same_calls_one_after_the_other(root, loadgen, tmp_path):
    written = tmp_path / "bench.json"
    options = ("--legs", "4", "--room-size", "2", "--seconds", "0.5", "--play", "--multi-channel")
    ended = run_bench(root, *options, "--json", str(written), short=(1,))
    assert ended.returncode == 0, ended.stderr
    stages = [line.split("bench: ")[1].split(" 0 of")[0] for line in ended.stderr.splitlines() if " 0 of " in line]
    bare = "without it again"
    assert stages == [
        "measuring",
        *(stage for name in ("playback", "multi-channel recording") for stage in (f"with {name}", bare)),
    ]
    services = json.loads(written.read_text())["figures"]["services"]
    assert list(services) == ["playback", "multi-channel recording"]
    for cost in services.values():
        assert (cost["rooms"], cost["rooms_whole"]) == (2, 1)
        assert cost["cpu_us_per_leg_second"] == pytest.approx(
            cost["bare_us_per_leg_second"] + cost["added_us_per_leg_second"]
        )
    assert "multi-channel recording in every room adds" in ended.stdout
    assert not list((root / "build").glob("recordings-*"))


def test_a_server_that_does_not_start_is_named_with_its_last_words(root, loadgen):
    ended = run_bench(root, "--legs", "3", server="sh -c 'echo port taken; exit 3'")
    assert ended.returncode == 1
    assert "the server ended with status 3:\nport taken" in ended.stderr
    assert ended.stdout == ""


def test_help_names_every_option(root):
    ended = run_bench(root, "--help")
    assert ended.returncode == 0
    for option in (
        "--legs",
        "--room-size",
        "--placement",
        "--seconds",
        "--rate",
        "--codec",
        "--json",
        "--keep-log",
        "--play",
        "--record",
    ):
        assert option in ended.stdout


@pytest.mark.parametrize("wrong", [["--legs", "0"], ["--seconds", "-1"], ["--placement", "cloud"]])
def test_wrong_options_are_refused(root, wrong):
    assert run_bench(root, *wrong).returncode == 2


def test_ctrl_c_ends_server_and_generator(root, loadgen):
    bench = subprocess.Popen(
        [root / "scripts/bench", "--legs", "6", "--seconds", "30", "--rtp-port-min", "22000", "--server-command", FAKE],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "FAKE_FAULTS": "{}"},
    )
    said = next(line for line in bench.stderr if "measuring" in line)
    assert "of 30 s" in said
    children = (Path("/proc") / str(bench.pid) / "task" / str(bench.pid) / "children").read_text().split()
    assert len(children) == 2
    bench.send_signal(signal.SIGINT)
    assert bench.wait(10) == 130
    assert bench.stderr.read() == "bench: ending \n"
    assert not [pid for pid in children if (Path("/proc") / pid).exists()]
