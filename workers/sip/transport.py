"""Flows: where SIP messages come from and go to, over UDP, TCP and TLS.

Runs in: sip.
Owns: the inherited listening sockets, every connection, their caps and time-outs.

Rules
1. `Flow.send` never raises and never waits: False means that it is known not to have left.
2. UDP sockets are read by ourselves through an epoll descriptor of our own: with IP_RECVERR an ICMP unreachable names its
   destination, and libuv would stop watching a socket that has one pending.
3. Connections: at most MAX_CONNECTIONS, beyond it new ones are closed. One that has not sent a whole message within
   GREETING_S is closed, later one that is silent for IDLE_S. At most 64 KiB are held of what came in (`StreamFramer`) and
   WRITE_LIMIT_BYTES of what shall go out; a peer that lets more pile up is cut off.
4. An outgoing connection is shared by all that go to the same transport, address and name.
5. Over UDP a request goes out as it is, whatever its size: fragments reach more phones than a TCP port they do not have.

Not here: what the bytes say -> `message.py`; names -> `resolver.py`.
"""

import asyncio
import contextlib
import select
import socket
import ssl
from collections.abc import Callable
from typing import cast

from workers.sip.message import MAX_MESSAGE_BYTES, MessageError, StreamFramer

MAX_CONNECTIONS = 4096
GREETING_S = 30.0
IDLE_S = 3600.0
SWEEP_S = 10.0
CONNECT_S = 8.0
WRITE_LIMIT_BYTES = 1024 * 1024
DATAGRAMS_PER_WAKE = 64

_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_IP_RECVERR = 11
_IPV6_RECVERR = 25
_SOCKET_BUFFER_BYTES = 4 * 1024 * 1024

Address = tuple[str, int]


class Flow:
    """One way to one peer. `remote` is its address as (host, port)."""

    __slots__ = ()
    transport: str
    is_reliable: bool
    remote: Address

    @property
    def is_open(self) -> bool:
        raise NotImplementedError

    def send(self, data: bytes) -> bool:
        raise NotImplementedError


class UdpSocket:
    """One bound socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.is_ipv6 = sock.family == socket.AF_INET6
        sock.setblocking(False)
        for forced, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            try:
                sock.setsockopt(socket.SOL_SOCKET, forced, _SOCKET_BUFFER_BYTES)
            except PermissionError:
                sock.setsockopt(socket.SOL_SOCKET, plain, _SOCKET_BUFFER_BYTES)
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1) if not self.is_ipv6 else sock.setsockopt(
            socket.IPPROTO_IPV6, _IPV6_RECVERR, 1
        )
        self.unreachable: Callable[[Address], None] = lambda _address: None

    def send(self, data: bytes, remote: Address) -> bool:
        for _attempt in range(3):
            try:
                self.sock.sendto(data, remote)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError:
                # Either this destination cannot be or an earlier one's ICMP error was waiting: only then try again.
                if not self.drain_errors():
                    return False
            else:
                return True
        return False

    def drain_errors(self) -> bool:
        """Report every ICMP error that waits; True when there was one."""
        found = False
        while True:
            try:
                _data, _ancillary, _flags, address = self.sock.recvmsg(0, 0, socket.MSG_ERRQUEUE)
            except OSError:
                return found
            found = True
            if address:
                self.unreachable((address[0], address[1]))


class UdpFlow(Flow):
    __slots__ = ("_socket", "remote")
    transport = "UDP"
    is_reliable = False

    def __init__(self, udp_socket: UdpSocket, remote: Address) -> None:
        self._socket = udp_socket
        self.remote = remote

    @property
    def is_open(self) -> bool:
        return True

    def towards(self, remote: Address) -> "UdpFlow":
        return UdpFlow(self._socket, remote)

    def send(self, data: bytes) -> bool:
        return self._socket.send(data, self.remote)


class StreamFlow(Flow, asyncio.Protocol):
    """One TCP or TLS connection of either direction."""

    def __init__(self, transports: "Transports", transport: str) -> None:
        self._transports = transports
        self.transport = transport
        self.is_reliable = True
        self.remote = ("", 0)
        self._stream: asyncio.Transport | None = None
        self._framer = StreamFramer()
        self.heard_at = transports.loop.time()
        self.has_spoken = False

    @property
    def is_open(self) -> bool:
        return self._stream is not None and not self._stream.is_closing()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._stream = cast("asyncio.Transport", transport)  # uvloop's own class does not derive from it
        peer = transport.get_extra_info("peername")
        if not peer or not self._transports.admit(self):
            self._stream.abort()
            return
        self.remote = (peer[0], peer[1])
        sock = transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._transports.loop.time()
        try:
            frames = self._framer.feed(data)
        except MessageError:
            self._transports.refused += 1
            self.abort()
            return
        for frame in frames:
            self.has_spoken = True
            if frame is None:
                self.send(b"\r\n")
            else:
                self._transports.received(frame, self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  the protocol of asyncio
        self._stream = None
        self._transports.forget(self)

    def send(self, data: bytes) -> bool:
        stream = self._stream
        if stream is None or stream.is_closing():
            return False
        if stream.get_write_buffer_size() + len(data) > WRITE_LIMIT_BYTES:
            self.abort()
            return False
        stream.write(data)
        return True

    def abort(self) -> None:
        if self._stream is not None:
            self._stream.abort()


class Transports:
    """All sockets of the process. `received(data, flow)` gets every whole message, `lost(transport, address)` what went away."""

    def __init__(
        self,
        received: Callable[[bytes, Flow], None],
        lost: Callable[[str, Address], None],
        *,
        client_tls: ssl.SSLContext | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.received = received
        self.refused = 0  # connections and streams turned away
        self._lost = lost
        self._client_tls = client_tls
        self._epoll = select.epoll()
        self._udp: dict[int, UdpSocket] = {}
        self._servers: list[asyncio.Server] = []
        self._connections: set[StreamFlow] = set()
        self._shared: dict[tuple[str, Address, str], StreamFlow] = {}
        self._connecting: dict[tuple[str, Address, str], asyncio.Task[StreamFlow]] = {}
        self._buffer = bytearray(MAX_MESSAGE_BYTES + 1)
        self._sweeper = self.loop.call_later(SWEEP_S, self._sweep)

    async def listen(self, sockets: list[tuple[str, socket.socket]], server_tls: ssl.SSLContext | None) -> None:
        """Take bound sockets: ("UDP" | "TCP" | "TLS", socket). Sending is possible, nothing is read before `serve`."""
        for transport, sock in sockets:
            if transport == "UDP":
                udp = UdpSocket(sock)
                udp.unreachable = lambda address: self._lost("UDP", address)
                self._udp[sock.fileno()] = udp
                self._epoll.register(sock, select.EPOLLIN)
            else:
                tls = server_tls if transport == "TLS" else None
                server = await self.loop.create_server(
                    lambda transport=transport: StreamFlow(self, transport), sock=sock, ssl=tls, start_serving=False
                )
                self._servers.append(server)

    async def serve(self) -> None:
        """Read what waits and what comes."""
        self.loop.add_reader(self._epoll.fileno(), self._readable)
        for server in self._servers:
            await server.start_serving()

    def udp_flow(self, remote: Address) -> UdpFlow | None:
        """None when there is no socket of that family."""
        wants_ipv6 = ":" in remote[0]
        for udp in self._udp.values():
            if udp.is_ipv6 == wants_ipv6:
                return UdpFlow(udp, remote)
        return None

    def shared(self, transport: str, remote: Address, name: str) -> StreamFlow | None:
        """The open outgoing connection to that place, if there is one."""
        flow = self._shared.get((transport, remote, name))
        return flow if flow is not None and flow.is_open else None

    async def connect(self, transport: str, remote: Address, name: str) -> StreamFlow:
        """A new or shared connection; `name` is what a TLS certificate must name. Raises OSError, TimeoutError."""
        flow = self.shared(transport, remote, name)
        if flow is not None:
            return flow
        key = (transport, remote, name)
        task = self._connecting.get(key)
        if task is None:
            task = self._connecting[key] = self.loop.create_task(self._connect(key))
            task.add_done_callback(lambda _task: self._connecting.pop(key, None))
        # Shielded: others wait for the same connection when one of them gives up.
        return await asyncio.shield(task)

    async def _connect(self, key: tuple[str, Address, str]) -> StreamFlow:
        transport, (host, port), name = key
        tls = self._client_tls if transport == "TLS" else None
        if transport == "TLS" and tls is None:
            raise OSError("no TLS configured")
        async with asyncio.timeout(CONNECT_S):
            _transport, flow = await self.loop.create_connection(
                lambda: StreamFlow(self, transport), host, port, ssl=tls, server_hostname=name if tls else None
            )
        if not flow.is_open:
            raise ConnectionError("closed at once")
        flow.has_spoken = True  # we did: no greeting is due
        self._shared[key] = flow
        return flow

    def admit(self, flow: StreamFlow) -> bool:
        if len(self._connections) >= MAX_CONNECTIONS:
            self.refused += 1
            return False
        self._connections.add(flow)
        return True

    def forget(self, flow: StreamFlow) -> None:
        self._connections.discard(flow)
        for key in [key for key, shared in self._shared.items() if shared is flow]:
            del self._shared[key]
        if flow.remote[1]:
            self._lost(flow.transport, flow.remote)

    def close(self) -> None:
        self._sweeper.cancel()
        for server in self._servers:
            server.close()
        for flow in list(self._connections):
            # close, not abort: a BYE just written still goes out
            if flow._stream is not None:  # noqa: SLF001  same module
                flow._stream.close()  # noqa: SLF001
        self.loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _readable(self) -> None:
        view = memoryview(self._buffer)
        for descriptor, events in self._epoll.poll(0):
            udp = self._udp[descriptor]
            if events & select.EPOLLERR:
                udp.drain_errors()
            for _count in range(DATAGRAMS_PER_WAKE):
                try:
                    size, address = udp.sock.recvfrom_into(self._buffer)
                except (BlockingIOError, InterruptedError):
                    break
                except OSError:
                    continue  # an ICMP error of some earlier datagram; reading it has cleared it
                if size > 4:  # less is a keep-alive
                    self.received(bytes(view[:size]), UdpFlow(udp, (address[0], address[1])))

    def _sweep(self) -> None:
        now = self.loop.time()
        for flow in list(self._connections):
            silent_s = now - flow.heard_at
            if silent_s > (IDLE_S if flow.has_spoken else GREETING_S):
                flow.abort()
        self._sweeper = self.loop.call_later(SWEEP_S, self._sweep)


def server_context(cert: str, key: str) -> ssl.SSLContext | None:
    """For our TLS listener; None without a certificate. Raises OSError, ssl.SSLError."""
    if not cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key or None)
    return context


def client_context(ca_file: str, *, insecure: bool) -> ssl.SSLContext:
    """For connections we open. The peer's name must be in a SAN; the Common Name never counts."""
    context = ssl.create_default_context(cafile=ca_file or None)
    context.hostname_checks_common_name = False
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        with contextlib.suppress(AttributeError):
            context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # private CAs rarely have every extension
    return context
