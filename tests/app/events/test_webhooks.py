"""Webhook delivery to real HTTP receivers."""

import asyncio
import hashlib
import hmac
import json
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from app.events.webhooks import PARALLEL, QUEUE_LIMIT, Destination, Webhooks
from app.ledger import Ledger
from app.metrics import Metrics

QUICK = (0.0, 0.02, 0.04)


@dataclass
class Sink:
    """A receiver; `answers` are statuses given one after the other, the last for ever."""

    port: int = 0
    answers: list[int] = field(default_factory=lambda: [200])
    location: str = ""
    requests: list[tuple[str, dict, bytes]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    hold: asyncio.Event | None = None
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}/hook"

    async def handle(self, request):
        body = await request.read()
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        async with self.changed:
            self.requests.append((request.path, dict(request.headers), body))
            self.changed.notify_all()
        if self.hold:
            await self.hold.wait()
        self.at_once -= 1
        status = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return web.Response(status=status, headers={"Location": self.location} if self.location else {})

    async def received(self, count):
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: len(self.requests) >= count)
        return self.requests

    def numbers(self):
        return [json.loads(body)["n"] for _path, _headers, body in self.requests]


@pytest.fixture
async def sink():
    async for one in _sink():
        yield one


@pytest.fixture
async def other_sink():
    async for one in _sink():
        yield one


async def _sink():
    sink = Sink()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", sink.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    sink.port = site._server.sockets[0].getsockname()[1]
    yield sink
    await runner.cleanup()


@pytest.fixture
async def hooks():
    hooks, _metrics = await make()
    yield hooks
    await hooks.stop(0)


async def make(ledger=None, **options):
    metrics = Metrics()
    hooks = Webhooks(ledger or Ledger(":memory:"), metrics, **{"pauses_s": QUICK} | options)
    await hooks.start()
    return hooks, metrics


def send(hooks, url, n, subject="l", secret="", **options):
    event_id = f"event-{subject}-{n}"
    hooks.enqueue(Destination(url, secret, **options), subject, event_id, b'{"n":%d}' % n)


async def idle(hooks):
    async with asyncio.timeout(10):
        while hooks._tasks:
            await asyncio.wait(set(hooks._tasks))


def outcomes(metrics):
    return {
        sample.labels["outcome"]: sample.value
        for sample in metrics.webhook_deliveries.collect()[0].samples
        if sample.value
    }


async def test_signature_is_over_the_raw_bytes(hooks, sink):
    body = '{"text":"ä\\u2028 \U0001f600"}'.encode()
    hooks.enqueue(Destination(sink.url, "geheim ä"), "l", "e-1", body)
    [(path, headers, received)] = await sink.received(1)
    assert (path, received) == ("/hook", body)
    digest = hmac.new("geheim ä".encode(), body, hashlib.sha256).hexdigest()
    assert headers["X-Signature-256"] == f"sha256={digest}"
    assert (headers["Content-Type"], headers["X-Event-Id"]) == ("application/json", "e-1")


async def test_no_secret_no_signature(hooks, sink):
    send(hooks, sink.url, 1)
    [(_path, headers, _body)] = await sink.received(1)
    assert "X-Signature-256" not in headers


@pytest.mark.parametrize("status", [500, 404, 301, 302, 303])
async def test_three_attempts_with_identical_bytes(sink, status):
    hooks, metrics = await make()
    sink.answers, sink.location = [status], "/elsewhere"
    send(hooks, sink.url, 1, secret="s")
    await idle(hooks)
    assert len(sink.requests) == 3
    assert len({(path, body, headers["X-Signature-256"]) for path, headers, body in sink.requests}) == 1
    assert outcomes(metrics) == {"exhausted": 1}
    await hooks.stop(0)


async def test_success_after_failures(sink):
    hooks, metrics = await make()
    sink.answers = [500, 204]
    send(hooks, sink.url, 1)
    await idle(hooks)
    assert len(sink.requests) == 2
    assert outcomes(metrics) == {"success": 1}
    await hooks.stop(0)


async def test_pauses_are_those_of_the_contract():
    from app.events import webhooks

    assert webhooks.PAUSES_S == (0, 2, 4)
    assert webhooks.ATTEMPT_TIMEOUT_S == 10


async def test_redirects_that_keep_the_method_are_followed(hooks, sink, other_sink):
    sink.answers, sink.location = [307], f"http://127.0.0.1:{other_sink.port}/moved"
    send(hooks, sink.url, 1)
    [(path, headers, body)] = await other_sink.received(1)
    assert (path, body, headers["X-Event-Id"]) == ("/moved", b'{"n":1}', "event-l-1")


async def test_endless_redirects_end(sink):
    hooks, metrics = await make(pauses_s=(0.0,))
    sink.answers, sink.location = [308], sink.url
    send(hooks, sink.url, 1)
    await idle(hooks)
    assert outcomes(metrics) == {"exhausted": 1}
    await hooks.stop(0)


async def test_one_leg_in_order_even_through_failures(hooks, sink):
    sink.answers = [500, 200, 500, 500, 200]
    for n in range(20):
        send(hooks, sink.url, n)
    await idle(hooks)
    assert list(dict.fromkeys(sink.numbers())) == list(range(20))
    assert sink.most_at_once == 1


async def test_legs_do_not_wait_for_each_other_and_places_are_limited(hooks, sink):
    sink.hold = asyncio.Event()
    for n in range(30):
        send(hooks, sink.url, n, subject=f"leg {n}")
    await sink.received(PARALLEL)
    sink.hold.set()
    await sink.received(30)
    assert sink.most_at_once == PARALLEL


async def test_a_lane_between_attempts_holds_no_place(sink, other_sink):
    hooks, _metrics = await make(pauses_s=(0.0, 30.0))
    sink.answers = [500]
    for n in range(PARALLEL):
        send(hooks, sink.url, n, subject=f"leg {n}")
    await sink.received(PARALLEL)
    send(hooks, other_sink.url, 1, subject="another")
    await other_sink.received(1)
    await hooks.stop(0)


async def test_a_full_queue_drops_the_newest(sink):
    hooks, metrics = await make()
    sink.hold = asyncio.Event()
    for n in range(QUEUE_LIMIT + 5):
        send(hooks, sink.url, n, subject=str(n))
    assert metrics.webhook_dropped._value.get() == 5
    assert metrics.webhook_enqueued._value.get() == QUEUE_LIMIT
    sink.hold.set()
    await idle(hooks)
    assert sorted(sink.numbers()) == list(range(QUEUE_LIMIT))
    send(hooks, sink.url, 5000)
    await sink.received(QUEUE_LIMIT + 1)
    await hooks.stop(0)


@pytest.mark.parametrize("url", ["", "not a url", "ftp://127.0.0.1/x", "http://", "http://[::1", "//host"])
async def test_unusable_urls_drop_their_events(url):
    hooks, metrics = await make()
    send(hooks, url, 1)
    await idle(hooks)
    assert outcomes(metrics) == {"request_error": 1}
    await hooks.stop(0)


async def test_nobody_listens(unused_tcp_port):
    hooks, metrics = await make()
    send(hooks, f"http://127.0.0.1:{unused_tcp_port}/", 1)
    await idle(hooks)
    assert outcomes(metrics) == {"exhausted": 1}
    await hooks.stop(0)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [("http://169.254.169.254/", True), ("http://[fe80::1]/", True), ("http://[::ffff:169.254.1.1]/", True)],
)
async def test_link_local_is_never_reached(url, allowed):
    hooks, metrics = await make(private_allowed=allowed)
    send(hooks, url, 1)
    await idle(hooks)
    assert outcomes(metrics) == {"exhausted": 1}
    await hooks.stop(0)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_private_addresses_only_where_allowed_but_for_the_operator(sink, host):
    hooks, metrics = await make(private_allowed=False, pauses_s=(0.0,))
    url = f"http://{host}:{sink.port}/hook"
    send(hooks, url, 1)
    await idle(hooks)
    assert (sink.requests, outcomes(metrics)) == ([], {"exhausted": 1})
    send(hooks, url, 2, by_operator=True)
    await sink.received(1)
    await hooks.stop(0)


async def test_proxies_of_the_environment(hooks, sink, monkeypatch):
    for name in ("no_proxy", "NO_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{sink.port}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{sink.port}")
    send(hooks, "http://hook.invalid/path", 1)
    [(path, headers, _body)] = await sink.received(1)
    assert headers["Host"] == "hook.invalid"
    assert path == "/path"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    send(hooks, sink.url, 2, subject="direct")
    assert (await sink.received(2))[1][0] == "/hook"


async def test_a_successor_goes_on_where_control_was_killed(tmp_path, sink):
    path = str(tmp_path / "ledger")
    ledger = Ledger(path)
    sink.hold = asyncio.Event()
    killed, _metrics = await make(ledger)
    killed.register_leg("l", sink.url, "s")
    killed.register_room("r", sink.url)
    for n in range(3):
        send(killed, sink.url, n, secret="s")
    await sink.received(1)
    await killed.stop(0)  # what a kill leaves: the first in flight, all three in the ledger
    ledger.close()
    interrupted = sink.requests[:]
    sink.requests.clear()
    sink.hold.set()

    hooks, metrics = await make(Ledger(path))
    assert hooks.destination("l", "") == Destination(sink.url, "s")
    assert hooks.destination("", "r") == Destination(sink.url)
    await idle(hooks)
    assert sink.numbers() == [0, 1, 2]
    assert sink.requests[0][2] == interrupted[0][2]
    assert sink.requests[0][1]["X-Signature-256"] == interrupted[0][1]["X-Signature-256"]
    assert outcomes(metrics) == {"success": 3}
    hooks.unregister_leg("l")
    await hooks.stop(0)

    hooks._ledger.close()
    nothing_left, _metrics = await make(Ledger(path))
    assert not nothing_left._tasks
    assert nothing_left.destination("l", "") is None
    await nothing_left.stop(0)


async def test_stop_delivers_what_it_can(sink):
    hooks, _metrics = await make()
    for n in range(50):
        send(hooks, sink.url, n)
    await hooks.stop(5)
    assert sink.numbers() == list(range(50))


async def test_stop_does_not_wait_longer_than_told(sink):
    hooks, _metrics = await make()
    sink.hold = asyncio.Event()
    send(hooks, sink.url, 1)
    await sink.received(1)
    async with asyncio.timeout(2):
        await hooks.stop(0.1)
    sink.hold.set()
