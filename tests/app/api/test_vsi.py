"""The event WebSocket over a real gunicorn and a real client."""

import asyncio
import contextlib
import http.client
import json
import re
import select
import socket

import pytest
from websockets.asyncio.client import connect

UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


@pytest.fixture(scope="module")
def port(start_server):
    return start_server()


@pytest.fixture(scope="module")
def hasty_port(start_server):
    return start_server(PING_EVERY_S="0.4", IDLE_LIMIT_S="1.5", STALL_LIMIT_S="0.3")


@contextlib.asynccontextmanager
async def vsi(port, query=""):
    async with connect(
        f"ws://127.0.0.1:{port}/v1/vsi{query}", ping_interval=None, max_size=None, proxy=None
    ) as socket_:
        assert await receive(socket_) == {"type": "connected"}
        yield socket_


async def receive(websocket):
    return json.loads(await asyncio.wait_for(websocket.recv(), 10))


async def ask(websocket, command, payload=None, **more):
    await websocket.send(json.dumps({"type": command, "payload": payload, **more}))
    while True:
        frame = await receive(websocket)
        if "data" in frame:
            return frame


def get(port, path, headers=None):
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    client.request("GET", path, headers=headers or {})
    reply = client.getresponse()
    return reply.status, reply.read().decode(), reply


async def test_commands_answer_like_rest_without_instance(port):
    async with vsi(port) as websocket:
        reply = await ask(websocket, "create_room", {"id": "c1", "sample_rate": 8000.0}, request_id="vsi-1")
        assert reply == {
            "type": "create_room.result",
            "request_id": "vsi-1",
            "data": {"id": "c1", "sample_rate": 8000},
        }
        assert (await ask(websocket, "get_room", {"id": "c1"}))["data"] == {"id": "c1", "sample_rate": 8000}
        assert {"id": "c1", "sample_rate": 8000} in (await ask(websocket, "list_rooms"))["data"]
        reply = await ask(websocket, "add_leg_to_room", {"room_id": "c1", "leg_id": "l", "mute": False})
        assert reply["data"] == {"status": "added", "muted": "False", "room_id": "c1", "leg_id": "l"}


@pytest.mark.parametrize(
    ("command", "payload", "code", "message"),
    [
        ("dance", None, 400, "unknown command: dance"),
        ("", None, 400, "unknown command: "),
        ("get_room", None, 400, "invalid payload: id is required"),
        ("get_room", {"id": 3}, 400, "invalid payload: id is required"),
        ("get_room", [], 400, "invalid payload: expected an object"),
        ("create_room", {"sample_rate": "8000"}, 400, "invalid payload: sample_rate: expected int, got str"),
        ("add_leg_to_room", {"room_id": "r"}, 400, "invalid payload: leg_id is required"),
        ("get_room", {"id": "none"}, 404, "room not found"),
        ("get_room", {"id": "boom"}, 500, "internal error"),
        ("room_play_start", {"id": "r"}, 501, "not implemented"),
    ],
)
async def test_failures(port, command, payload, code, message):
    async with vsi(port) as websocket:
        reply = await ask(websocket, command, payload, request_id="7")
        assert reply == {"type": "error", "request_id": "7", "data": {"code": code, "message": message}}


@pytest.mark.parametrize(
    "frame", ["{", "[]", "null", '"text"', '{"type":3}', '{"type":"list_rooms","request_id":3}', "", '{"type":null}']
)
async def test_malformed_frames_leave_the_connection_open(port, frame):
    async with vsi(port) as websocket:
        await websocket.send(frame)
        assert await receive(websocket) == {"type": "error", "data": {"message": "invalid JSON"}}
        assert (await ask(websocket, "list_rooms"))["type"] == "list_rooms.result"


async def test_empty_or_null_request_id_is_none_and_binary_frames_are_ignored(port):
    async with vsi(port) as websocket:
        await websocket.send(b'{"type":"list_rooms"}')
        assert "request_id" not in await ask(websocket, "list_rooms", request_id="")
        assert "request_id" not in await ask(websocket, "list_rooms", request_id=None)


async def test_every_client_gets_every_event_and_filters_search(port):
    async with vsi(port) as everything, vsi(port, "?app_id=b%2Bc$") as some, vsi(port, "?app_id=") as empty:
        for app_id in ("x", "", "abbc"):
            await ask(empty, "create_room", {"id": f"room of {app_id}", "app_id": app_id})
        for websocket, app_ids in ((everything, ["x", None, "abbc"]), (some, ["abbc"])):
            assert [(await receive(websocket)).get("app_id") for _ in app_ids] == app_ids


async def test_events_overtake_a_slow_command_and_commands_keep_their_order(port):
    async with vsi(port) as websocket:
        await websocket.send('{"type":"delete_room","payload":{"id":"slow"},"request_id":"1"}')
        await websocket.send('{"type":"list_rooms","request_id":"2"}')
        async with vsi(port) as other:
            await ask(other, "create_room", {"id": "meanwhile"})
            assert (await receive(websocket))["room_id"] == "meanwhile"
            await ask(other, "remove_leg_from_room", {"room_id": "slow", "leg_id": "x"})
        assert [(await receive(websocket))["request_id"] for _ in range(2)] == ["1", "2"]


async def test_stop_closes_after_what_was_asked_before(port):
    async with vsi(port) as websocket:
        await websocket.send('{"type":"create_room","payload":{"id":"last"}}')
        await websocket.send('{"type":"stop"}')
        frames = [json.loads(frame)["type"] async for frame in websocket]
        assert "create_room.result" in frames
        assert websocket.close_code == 1000


async def test_commands_outlive_their_connection(port):
    async with vsi(port) as websocket:
        for index in range(20):
            await websocket.send(f'{{"type":"create_room","payload":{{"id":"orphan {index}"}}}}')
    async with vsi(port) as websocket:
        for _ in range(1000):  # each a round trip
            rooms = (await ask(websocket, "list_rooms"))["data"]
            if sum(room["id"].startswith("orphan") for room in rooms) == 20:
                return
    pytest.fail("commands were lost")


async def test_overflow_drops_the_newest_and_says_so(port):
    async with vsi(port) as websocket:
        async with vsi(port) as other:
            await ask(other, "delete_room", {"id": "flood"})  # 2,000 events without a pause, 256 fit
            await ask(other, "create_room", {"id": "after the flood"})
        frames = []
        while not frames or frames[-1].get("room_id") != "after the flood":
            frames.append(await receive(websocket))
        [notice] = [frame for frame in frames if frame["type"] == "events_dropped"]
        assert notice["count"] + len(frames) - 2 == 2000
        assert notice["timestamp"].endswith("Z")


async def test_pings_count_and_websocket_level_frames_keep_alive(hasty_port):
    async with vsi(hasty_port) as websocket:
        for number in range(1, 7):
            assert await receive(websocket) == {"type": "ping", "event_id": number, "seq": number}
            await (await websocket.ping())  # answered, and the only sign of life we give
        loop = asyncio.get_running_loop()
        silent_since = loop.time()
        async for _frame in websocket:
            pass
        assert 1.3 < loop.time() - silent_since < 4


async def test_pong_is_a_sign_of_life_and_no_command(hasty_port):
    async with vsi(hasty_port) as websocket:
        for _ in range(6):
            assert (await receive(websocket))["type"] == "ping"
            await websocket.send('{"type":"pong"}')


def test_a_client_that_does_not_read_is_dropped(start_server):
    port = start_server(STALL_LIMIT_S="0.3")
    with socket.create_connection(("127.0.0.1", port)) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        head = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
        deaf.sendall(f"GET /v1/vsi HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode())
        deaf.settimeout(10)
        assert deaf.recv(12) == b"HTTP/1.1 101"
        poll = select.poll()
        poll.register(deaf, 0)  # what was sent stays unread; only the end of the connection shows
        for _ in range(100):  # each fills the buffer of 256 events, 1 KB each
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            client.request("DELETE", "/v1/rooms/flood")
            assert client.getresponse().status == 200
            client.close()
            if poll.poll(20):
                return
        assert poll.poll(10_000)


async def test_a_command_right_behind_the_request_is_carried_out(port):
    text = b'{"type":"list_rooms","request_id":"early"}'
    lines = ["GET /v1/vsi HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in UPGRADE.items()), "", ""]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write("\r\n".join(lines).encode() + bytes([0x81, 0x80 | len(text)]) + bytes(4) + text)
    received = await asyncio.wait_for(reader.readuntil(b'"early"'), 10)
    assert received.startswith(b"HTTP/1.1 101 ")
    assert b"list_rooms.result" in received
    writer.close()


def test_no_handshake_is_a_plain_request(port):
    for wrong in ({"Sec-WebSocket-Version": "8"}, {"Sec-WebSocket-Key": "short"}):
        status, text, reply = get(port, "/v1/vsi", UPGRADE | wrong)
        assert (status, text) == (426, '{"instance_id":"test","error":"this is a WebSocket endpoint"}\n')
        assert reply.headers["Sec-WebSocket-Version"] == "13"


def test_refusals_before_the_upgrade(port):
    status, text, _ = get(port, "/v1/vsi?app_id=(", UPGRADE)
    assert status == 400
    assert text.startswith('{"instance_id":"test","error":"app_id is not a regular expression')
    assert get(port, "/v1/vsi?app_id=(")[0] == 400
    assert get(port, "/v1/vsi")[:2] == (426, '{"instance_id":"test","error":"this is a WebSocket endpoint"}\n')
    status, text, reply = get(port, "/v1/rooms/x/ws", UPGRADE)
    assert (status, text) == (501, '{"instance_id":"test","error":"not implemented"}\n')
    assert reply.headers["Access-Control-Allow-Origin"] == "*"
    assert get(port, "/v1/nowhere", UPGRADE)[:2] == (404, '{"instance_id":"test","error":"not found"}\n')


def test_address_list_holds_for_websockets_and_metrics(start_server):
    port = start_server(ALLOWED_IPS="192.0.2.0/24")
    for path in ("/v1/vsi", "/metrics", "/v1/rooms"):
        assert get(port, path, UPGRADE)[:2] == (403, '{"instance_id":"test","error":"forbidden"}\n')
    assert get(port, "/metrics")[:2] == (403, '{"instance_id":"test","error":"forbidden"}\n')


def test_half_a_body_is_not_an_empty_one(port):
    before = get(port, "/v1/rooms")[1]
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"POST /v1/rooms HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        while client.recv(4096):
            pass
    assert get(port, "/v1/rooms")[1] == before


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GARBAGE", 400),
        (b"GET /v1/rooms HTTP/1.1\r\nHost: x\r\nno colon", 400),
        (b"POST /v1/rooms HTTP/1.1\r\nHost: x\r\nContent-Length: many", 400),
        (b"GET /v1/rooms/" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: x", 414),
        (b"GET /v1/rooms HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 20_000, 431),
    ],
)
def test_what_is_hardly_http_gets_json_too(port, request_bytes, status):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(request_bytes + b"\r\n\r\n")
        head, _, body = b"".join(iter(lambda: client.recv(65536), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nContent-Type: application/json\r\n" in head
    assert b"\r\nAccess-Control-Allow-Origin: *\r\n" in head
    assert re.fullmatch(rb'{"instance_id":"test","error":"[^"]+"}\n', body)


def test_large_body_gets_its_413(port):
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    client.request("POST", "/v1/rooms", body=b" " * (4 * 1024 * 1024))
    assert client.getresponse().status == 413
