import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from app.ledger import Ledger


class Fact(msgspec.Struct):
    text: str
    body: bytes = b""


def test_facts_come_back_in_the_order_they_were_first_put(tmp_path):
    ledger = Ledger(str(tmp_path / "facts"))
    for key in ("b", "a", "c", "d"):
        ledger.put("room", key, Fact(key))
    ledger.put("leg", "a", Fact("another kind"))
    ledger.put("room", "b", Fact("changed", b"\x00\xff"))
    ledger.drop("room", "c")
    ledger.drop("room", "unknown")
    ledger.close()
    again = Ledger(str(tmp_path / "facts"))
    assert list(again.load("room", Fact).items()) == [
        ("b", Fact("changed", b"\x00\xff")),
        ("a", Fact("a")),
        ("d", Fact("d")),
    ]
    again.clear()
    assert again.load("leg", Fact) == {}


def test_a_fact_survives_kill_9(tmp_path):
    path = str(tmp_path / "facts")
    program = (
        "import sys, time, msgspec\n"
        "from app.ledger import Ledger\n"
        "class Fact(msgspec.Struct):\n    text: str\n    body: bytes = b''\n"
        f"ledger = Ledger({path!r})\n"
        "[ledger.put('room', str(i), Fact(str(i))) for i in range(500)]\n"
        "print('put', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=Path.cwd())
    assert process.stdout.readline() == b"put\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(Ledger(path).load("room", Fact)) == 500


def test_a_failed_write_does_not_raise(tmp_path, caplog):
    ledger = Ledger(str(tmp_path / "facts"))
    ledger._database.execute("PRAGMA query_only = ON")
    ledger.put("room", "a", Fact("a"))
    assert ledger.load("room", Fact) == {}


@pytest.mark.parametrize("size_bytes", [300])
def test_a_put_takes_microseconds(tmp_path, size_bytes):
    ledger = Ledger(str(tmp_path / "facts"))
    fact = Fact("x", b"x" * size_bytes)
    taken = []
    for index in range(2000):
        start = time.perf_counter_ns()
        ledger.put("event", str(index), fact)
        taken.append(time.perf_counter_ns() - start)
    assert sorted(taken)[1000] < 500_000  # the aim is 50 µs, measured 20; this only catches a lost pragma


def test_nobody_else_reads_what_callers_confided(tmp_path):
    path = tmp_path / "facts"
    path.touch(0o644)
    ledger = Ledger(str(path))
    ledger.put("room", "r", Fact("secret"))
    assert {stat.S_IMODE(one.stat().st_mode) for one in tmp_path.iterdir()} == {0o600}
    assert len(list(tmp_path.iterdir())) > 1
    ledger.close()
