"""scripts/soak, briefly and with a fixed seed: the script stays alive, and what it asks for still holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.flow

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "soak"


def test_a_short_soak_finds_nothing_wrong() -> None:
    command = [sys.executable, str(SCRIPT), "--calls", "9", "--seconds", "15", "--death-every", "2.5", "--seed", "11"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 faults" in done.stdout
    assert "killed" in done.stdout


def test_it_says_what_it_takes() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--calls", "1"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--death-every" in done.stderr
