"""Hostile bytes at the HTTP port: odd heads, half requests, connections that are kept or reset, and WebSocket frames that no
client sends. Each time the server goes on serving, and nothing of it is an error of ours: the `server` fixture reads the log.
"""

from __future__ import annotations

import asyncio
import base64
import os
import random
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

import psutil
import pytest

from tests.flows.conftest import Phones
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server

pytestmark = pytest.mark.flow

HEAD = b"GET /v1/rooms HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /v1/rooms HTTP/1.1\r\nHost: x\r\n"
ODDITIES = {
    "noise": (random.Random(5).randbytes(3000), 400),
    "nulls": (bytes(20_000), 414),
    "no method": (b"FOO BAR BAZ\r\n\r\n", 400),
    "a version of its own": (b"GET / HTTP/9.9\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "a huge header": (HEAD + b"X: " + b"a" * 200_000 + b"\r\n\r\n", 431),
    "a thousand headers": (HEAD + b"".join(b"X%d: 1\r\n" % i for i in range(1000)) + b"\r\n", 431),
    "a long path": (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "two lengths": (POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n{} ", 400),
    "a length and chunks": (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a negative length": (POST + b"Content-Length: -5\r\n\r\n", 400),
    "no chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\nZZZ\r\n", 400),
    "a null in a header": (HEAD + b"X: a\0b\r\n\r\n", 400),
    "a path that is no UTF-8": (b"GET /v1/rooms/%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "deep JSON": (POST + b"Content-Length: 200000\r\n\r\n" + b"[" * 200_000, 400),
}
MEMORY_MIB = 60.0  # what control may have grown by when it is over
IDLE = 500


@asynccontextmanager
async def connection(server: Server, first: bytes) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
    try:
        writer.write(first)
        yield reader, writer
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("name", ODDITIES)
async def test_what_is_no_request_is_told_so(name: str, server: Server, rest: Rest) -> None:
    data, status = ODDITIES[name]
    async with connection(server, data) as (reader, _):
        line = await asyncio.wait_for(reader.readline(), 5)
    assert int(line.split()[1]) == status, line
    await rest.get("/rooms")


async def test_idle_and_half_connections_cost_little_and_stop_nobody(server: Server, rest: Rest) -> None:
    control = server.only("roomtone: control")
    before_mib = control.memory_info().rss / 2**20
    async with AsyncExitStack() as stack:
        ends = [await stack.enter_async_context(connection(server, b"")) for _ in range(IDLE)]
        for _, writer in ends[: IDLE // 2]:
            writer.write(HEAD)
        for number in range(20):  # a header at a time
            for _, writer in ends[: IDLE // 2]:
                writer.write(b"X-%d: %b\r\n" % (number, b"a" * 500))
            await rest.get("/rooms")
        assert control.memory_info().rss / 2**20 < before_mib + MEMORY_MIB
    await until_descriptors(control, IDLE // 2)
    await rest.get("/rooms")


async def until_descriptors(process: psutil.Process, fewer_than: int) -> None:
    async with asyncio.timeout(5):
        while process.num_fds() >= fewer_than:  # noqa: ASYNC110 - of a foreign process
            await asyncio.sleep(0.05)


# --- WebSockets -------------------------------------------------------------------------------------------------


def frame(opcode: int, payload: bytes, *, fin: bool = True, mask: bool = True, rsv: int = 0, length: int = -1) -> bytes:
    """One client frame (RFC 6455 section 5.2); `length` may lie. The mask is zero."""
    size = len(payload) if length < 0 else length
    head = bytes([(0x80 if fin else 0) | rsv | opcode])
    bit = 0x80 if mask else 0
    if size < 126:
        head += bytes([bit | size])
    else:
        head += (
            bytes([bit | 126]) + struct.pack(">H", size)
            if size < 65536
            else bytes([bit | 127]) + struct.pack(">Q", size)
        )
    return head + (bytes(4) if mask else b"") + payload


def endless(piece: bytes) -> list[bytes]:
    return [frame(1, piece, fin=False), *[frame(0, piece, fin=False)] * 400]


WRONG = {
    "not masked": [frame(1, b"{}", mask=False)],
    "reserved bit": [frame(1, b"{}", rsv=0x40)],
    "reserved opcode": [frame(5, b"x")],
    "a length of 2^62": [frame(1, b"x" * 100, length=2**62)],
    "a ping of 200 bytes": [frame(9, bytes(200))],
    "a ping in pieces": [frame(9, b"x", fin=False)],
    "a continuation of nothing": [frame(0, b"x")],
    "a message without end": endless(b"x" * 60_000),
    "a close of one byte": [frame(8, b"\0")],
}
ENDPOINTS = ("/v1/vsi", "/v1/rooms/hostile/ws")


@asynccontextmanager
async def upgraded(server: Server, path: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    key = base64.b64encode(os.urandom(16)).decode()
    head = (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    )
    async with connection(server, head.encode()) as (reader, writer):
        assert b" 101 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        yield reader, writer


async def pour(writer: asyncio.StreamWriter, frames: Iterable[bytes]) -> None:
    try:
        for data in frames:
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        return  # cut off, as it should be


async def close_code(reader: asyncio.StreamReader) -> int:
    """Of the first close frame among what a server sends; its frames are not masked."""
    while True:
        opcode, size = await reader.readexactly(2)
        if size == 126:
            (size,) = struct.unpack(">H", await reader.readexactly(2))
        payload = await reader.readexactly(size)
        if opcode & 15 == 8:
            return int(struct.unpack(">H", payload[:2])[0])


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_frame_ends_the_connection_with_a_code(path: str, name: str, server: Server, rest: Rest) -> None:
    await rest.room("hostile")
    async with upgraded(server, path) as (reader, writer):
        pouring = asyncio.create_task(pour(writer, WRONG[name]))
        assert await asyncio.wait_for(close_code(reader), 5) in (1002, 1009)
        pouring.cancel()
    await rest.get("/rooms")


@pytest.mark.parametrize("path", ENDPOINTS)
async def test_connections_that_are_reset_are_nobodys_error(
    path: str, server: Server, rest: Rest, phones: Phones
) -> None:
    """In the middle of what they say and are told: the peer's fault, and no line in the log."""
    await rest.room("hostile")
    for _ in range(20):
        async with upgraded(server, path) as (_, writer):
            await pour(writer, [frame(9, b"ping")] * 200)
            endpoint = writer.transport.get_extra_info("socket")
            endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await rest.delete("/rooms/hostile")  # its clients are gone or go with it
    await rest.get("/rooms")
