"""Tests of scripts/: what they need on the path, and the generator built once."""

import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def loadgen(root):
    """The path of the built generator."""
    from benchlib.generator import build

    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("no C compiler (apt-get install gcc libc6-dev): the load generator cannot be built")
    return build(root)
