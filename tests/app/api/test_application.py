import asyncio
import json

import pytest
from falcon import testing

from app.api.operations import Operation, carry_out
from tests.app.api.fake import make_api


@pytest.fixture
def client():
    app, _fake = make_api()
    return testing.TestClient(app)


def ask(client, method, path, body=None, **options):
    reply = client.simulate_request(method, path, body=body, **options)
    return reply.status_code, reply.text


def test_object_replies_are_compact_and_begin_with_the_instance(client):
    assert ask(client, "POST", "/v1/rooms", '{"id":"r1"}') == (
        201,
        '{"instance_id":"test","id":"r1","sample_rate":0}\n',
    )


def test_arrays_are_bare(client):
    ask(client, "POST", "/v1/rooms", '{"id":"r1"}')
    assert ask(client, "GET", "/v1/rooms") == (200, '[{"id":"r1","sample_rate":0}]\n')


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/v1/rooms/", 404, "not found"),
        ("POST", "/v1/rooms/", 404, "not found"),
        ("GET", "/", 404, "not found"),
        ("GET", "//v1/rooms", 404, "not found"),
        ("GET", "/v1/rooms//legs", 404, "not found"),
        ("GET", "/v2/rooms", 404, "not found"),
        ("GET", "/V1/rooms", 404, "not found"),
        ("PUT", "/v1/rooms", 405, "method not allowed"),
        ("POST", "/v1/legs/moq", 405, "method not allowed"),
        ("BREW", "/v1/rooms", 405, "method not allowed"),
        ("BREW", "/v1/pots", 404, "not found"),
        ("GET", "/v1/rooms/%zz", 400, "malformed escape in path"),
        ("GET", "/v1/rooms/50%", 400, "malformed escape in path"),
        ("GET", "/v1/rooms/%ff", 400, "malformed escape in path"),
        ("GET", "/v1/rooms/none", 404, "room not found"),
        ("GET", "/v1/rooms/boom", 500, "internal error"),
        ("GET", "/v1/rooms/full", 503, "no rows left"),
        ("GET", "/v1/rooms/refused", 502, "the far end refused"),
        ("POST", "/v1/rooms/x/play", 501, "not implemented"),
        ("GET", "/v1/rooms/x/ws", 501, "not implemented"),
        ("GET", "/v1/legs/websocket", 501, "not implemented"),
        ("DELETE", "/v1/sip/registrations/sip%3Aa%40b", 501, "not implemented"),
    ],
)
def test_errors_have_exactly_two_keys(client, method, path, status, text):
    reply = client.simulate_request(method, path)
    assert (reply.status_code, reply.text) == (status, f'{{"instance_id":"test","error":"{text}"}}\n')
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["access-control-allow-origin"] == "*"
    assert ("retry-after" in reply.headers) == (status == 503)


def test_head_is_not_a_method_of_ours(client):
    assert client.simulate_head("/v1/rooms").status_code == 405
    assert client.simulate_head("/metrics").status_code == 405


@pytest.mark.parametrize("path", ["/v1/rooms", "/nowhere", "/v1/rooms/%zz"])
def test_options_is_answered_everywhere(client, path):
    reply = client.simulate_options(path)
    assert (reply.status_code, reply.content) == (204, b"")
    assert "PATCH" in reply.headers["access-control-allow-methods"]


@pytest.mark.parametrize("room_id", ["a/b", "a b", "50%", "ä?#", "a%2Fb", "+", "{x}", "..", "new\nline"])
def test_ids_are_addressed_percent_encoded(client, room_id):
    client.simulate_post("/v1/rooms", json={"id": room_id})
    encoded = "".join(f"%{byte:02x}" for byte in room_id.encode())
    assert client.simulate_get(f"/v1/rooms/{encoded}").json["id"] == room_id


def test_literals_may_be_escaped_and_ids_are_case_sensitive(client):
    client.simulate_post("/v1/rooms", json={"id": "Ab"})
    assert client.simulate_get("/v1/%72ooms/%41b").status_code == 200
    assert client.simulate_get("/v1/rooms/ab").status_code == 404


def test_body_is_read_whatever_its_content_type(client):
    assert ask(client, "POST", "/v1/rooms", '{"id":"r"}', headers={"Content-Type": "text/plain"})[0] == 201


def test_endpoints_without_body_ignore_what_is_sent(client):
    client.simulate_post("/v1/rooms", json={"id": "r"})
    assert ask(client, "DELETE", "/v1/rooms/r", "{not json")[0] == 200


def test_large_bodies_are_refused(client):
    body = json.dumps({"id": "x" * (1024 * 1024)})
    assert ask(client, "POST", "/v1/rooms", body) == (413, '{"instance_id":"test","error":"body too large"}\n')
    fits = json.dumps({"id": "x" * (1024 * 1024 - 10)})
    assert len(fits) == 1024 * 1024
    assert ask(client, "POST", "/v1/rooms", fits)[0] == 201


def test_tri_state_booleans(client):
    for body, muted in (('{"leg_id":"l"}', "UNSET"), ('{"leg_id":"l","mute":false}', "False")):
        assert json.loads(ask(client, "POST", "/v1/rooms/r/legs", body)[1])["muted"] == muted


def test_metrics_are_text(client):
    reply = client.simulate_get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "voiceblender_active_rooms 0.0" in reply.text


async def test_what_was_begun_is_finished_when_the_caller_hangs_up():
    finished, may_finish = asyncio.Event(), asyncio.Event()

    async def handler(_subject):
        await may_finish.wait()
        finished.set()

    call = asyncio.ensure_future(carry_out(Operation(method="POST", path="/", handler=handler), {}, None))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    may_finish.set()
    await asyncio.wait_for(finished.wait(), 5)
