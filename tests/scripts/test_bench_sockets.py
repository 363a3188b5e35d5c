"""scripts/bench --sockets against the real server, small."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.flow


def test_all_clients_hear_each_other_and_nothing_is_left(root, tmp_path):
    written = tmp_path / "figures.json"
    options = ["--sockets", "6", "--seconds", "1", "--rtp-port-min", "24000", "--json", str(written)]
    ended = subprocess.run(
        [sys.executable, root / "scripts/bench", *options], capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(written.read_text())["figures"]
    assert (figures["sockets"], figures["hear_the_others"]) == (6, 6)
    assert figures["cpu_percent_per_socket_by_kind"]["stream"] > 0
    assert figures["ending"]["exit_code"] == 0
    assert figures["ending"]["processes_left"] == figures["ending"]["segments_left"] == []
    assert "hear the others, not themselves  6 of 6" in ended.stdout


def test_a_server_that_serves_none_is_told(root):
    options = ["--sockets", "6", "--seconds", "1", "--server-command", "false"]
    ended = subprocess.run(
        [sys.executable, root / "scripts/bench", *options], capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 1
    assert "the server ended with status 1" in ended.stderr
