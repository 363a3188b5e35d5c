"""A phone's SIP transport: UDP, TCP or TLS on one address, with a tamper in each direction.

Owns the socket or listener and its connections.

Rules
1. Stream messages are cut by Content-Length; CRLF keep-alives between them are dropped.
2. A reply goes back over the connection (or to the address) its request came from.
3. `send` never raises: a refused or closed connection is lost bytes, which the transaction's timers notice.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable

from tests.flows.tools.tamper import Tamper, untouched

Address = tuple[str, int]
Reply = Callable[[bytes], None]
OnMessage = Callable[[bytes, Address, Reply], None]


class Wire:
    def __init__(
        self,
        transport: str,
        host: str,
        on_message: OnMessage,
        *,
        server_tls: ssl.SSLContext | None = None,
        client_tls: ssl.SSLContext | None = None,
    ) -> None:
        self.transport, self.host = transport, host
        self.port = 0
        self.outgoing: Tamper = untouched
        self.incoming: Tamper = untouched
        self._on_message = on_message
        self._server_tls, self._client_tls = server_tls, client_tls
        self._udp: asyncio.DatagramTransport | None = None
        self._listener: asyncio.Server | None = None
        self._connections: dict[Address, asyncio.Future[asyncio.StreamWriter]] = {}
        self._accepted: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def reliable(self) -> bool:
        return self.transport != "udp"

    async def open(self, port: int = 0) -> None:
        if self.transport == "udp":
            loop = asyncio.get_running_loop()
            self._udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(self), local_addr=(self.host, port))
            self.port = self._udp.get_extra_info("sockname")[1]
        else:
            self._listener = await asyncio.start_server(self._accept, self.host, port, ssl=self._server_tls)
            self.port = self._listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._udp is not None:
            self._udp.close()
        if self._listener is not None:
            self._listener.close()
        for writer in [
            *self._accepted,
            *(f.result() for f in self._connections.values() if f.done() and not f.exception()),
        ]:
            writer.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def send(self, data: bytes, to: Address) -> None:
        self._tampered(data, lambda piece: self._send_now(piece, to))

    def drop_connections(self) -> None:
        """Close every connection, as a NAT or a restarting peer does."""
        for future in self._connections.values():
            if future.done() and not future.exception():
                future.result().close()
        self._connections.clear()
        for writer in self._accepted:
            writer.close()
        self._accepted.clear()

    def _tampered(self, data: bytes, send: Reply) -> None:
        for delay_s, piece in self.outgoing(data):
            if delay_s:
                asyncio.get_running_loop().call_later(delay_s, send, piece)
            else:
                send(piece)

    def _send_now(self, data: bytes, to: Address) -> None:
        if self._udp is not None:
            if not self._udp.is_closing():
                self._udp.sendto(data, to)
            return
        task = asyncio.ensure_future(self._send_stream(data, to))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_stream(self, data: bytes, to: Address) -> None:
        future = self._connections.get(to)
        if future is None or (future.done() and (future.exception() or future.result().is_closing())):
            future = self._connections[to] = asyncio.get_running_loop().create_future()
            try:
                reader, writer = await asyncio.open_connection(
                    *to, ssl=self._client_tls, server_hostname="localhost" if self._client_tls else None
                )
            except OSError as error:
                future.set_exception(error)
                future.exception()  # seen: the sender's timers deal with it
                return
            future.set_result(writer)
            task = asyncio.ensure_future(self._read(reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            (await asyncio.shield(future)).write(data)
        except OSError:
            return

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._accepted.append(writer)
        await self._read(reader, writer)

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        source = writer.get_extra_info("peername")[:2]

        def reply(data: bytes) -> None:
            self._tampered(data, lambda piece: None if writer.is_closing() else writer.write(piece))

        try:
            while True:
                head = await reader.readuntil(b"\r\n")
                if head == b"\r\n":
                    continue
                head += await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"\r\n(?:content-length|l)\s*:\s*(\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(length[1])) if length else b""
                self.received(head + body, source, reply)
        except (asyncio.IncompleteReadError, OSError, asyncio.LimitOverrunError):
            writer.close()

    def received(self, data: bytes, source: Address, reply: Reply) -> None:
        for delay_s, piece in self.incoming(data):
            if delay_s:
                asyncio.get_running_loop().call_later(delay_s, self._on_message, piece, source, reply)
            else:
                self._on_message(piece, source, reply)


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        source = addr[:2]
        self._wire.received(data, source, lambda answer: self._wire.send(answer, source))
