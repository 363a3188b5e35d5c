import json
import os
import subprocess
import sys

from app.logs import QUEUE_LIMIT, Outlet


def lines_of(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=20)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_lines_are_json_with_level_and_time():
    lines = lines_of(
        "import logging, app.logs as logs\n"
        "logs.configure_logs('info')\n"
        "logs.log.debug('quiet')\n"
        "logs.log.info('started', port=5060, host='::1', odd=object)\n"
        "logging.getLogger('aiohttp').warning('careful %s', 1)\n"
        "logging.getLogger('aiohttp').info('quiet')\n"
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    logs.log.exception('broken')\n"
        "logs.write_line('warning', 'from a worker', {'worker': 'rtp 0'})\n"
    )
    assert [line["event"] for line in lines] == ["started", "careful 1", "broken", "from a worker"]
    assert [line["level"] for line in lines] == ["info", "warning", "error", "warning"]
    assert (lines[0]["port"], lines[1]["logger"], lines[3]["worker"]) == (5060, "aiohttp", "rtp 0")
    assert "ZeroDivisionError" in lines[2]["exception"]
    assert all(line["timestamp"].endswith("Z") for line in lines)


def test_gunicorn_accepts_the_logging_settings():
    lines = lines_of(
        "import logging, app.logs as logs\n"
        "from gunicorn.config import Config\n"
        "from gunicorn.glogging import Logger\n"
        "config = Config(); config.set('logconfig_dict', logs.GUNICORN_LOGGING)\n"
        "logger = Logger(config)\n"
        "logger.info('quiet'); logger.warning('seen'); logger.error('seen too')\n"
    )
    assert [line["event"] for line in lines] == ["seen", "seen too"]


def test_a_stuck_reader_never_blocks_and_drops_are_counted():
    reader, writer = os.pipe()
    outlet = Outlet(writer)
    for number in range(5000):
        outlet.write(json.dumps({"number": number, "pad": "x" * 100}).encode())
    assert outlet.dropped > 0
    received = b""
    os.set_blocking(reader, False)
    while True:
        try:
            received += os.read(reader, 1 << 20)
        except BlockingIOError:
            if not outlet._waiting:
                break
            outlet.flush()
    first = [json.loads(line)["number"] for line in received.splitlines()]
    assert first == list(range(len(first)))
    assert len(first) + outlet.dropped == 5000
    assert len(first) >= QUEUE_LIMIT
    dropped = outlet.dropped
    outlet.write(b'{"number":-1}')
    note, line = os.read(reader, 4096).splitlines()
    assert json.loads(note)["count"] == dropped
    assert line == b'{"number":-1}'


def test_long_lines_arrive_whole():
    reader, writer = os.pipe()
    outlet = Outlet(writer)
    outlet.write(b"x" * 200_000)
    received = b""
    os.set_blocking(reader, False)
    while len(received) < 200_001:
        try:
            received += os.read(reader, 1 << 20)
        except BlockingIOError:
            outlet.flush()
    assert received == b"x" * 200_000 + b"\n"


def test_a_gone_reader_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    Outlet(writer).write(b"{}")
