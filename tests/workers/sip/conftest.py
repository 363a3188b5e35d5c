"""The real sip process under a fake control, and a raw SIP peer that does exactly what a test scripts."""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import ssl
import subprocess
from types import SimpleNamespace

import msgspec
import pytest

from shm import messages as wire
from shm.channel import Channel, ChannelClosed, channel_pair
from shm.stats import Stats
from workers.sip.message import MessageError, Request, Response, StreamFramer, new_branch, new_tag, parse

EVENT_S = 15.0  # a loaded machine is slow; a test that passes never waits for it


def sdp(host="127.0.0.1", port=40000, *, direction="", codecs="0 8 101", version=1, extra="", protocol="RTP/AVP"):
    address = "IP6" if ":" in host else "IP4"
    lines = ["v=0", f"o=peer 7 {version} IN {address} {host}", "s=-", f"c=IN {address} {host}", "t=0 0"]
    lines += [f"m=audio {port} {protocol} {codecs}", "a=rtpmap:101 telephone-event/8000", "a=ptime:20"]
    if direction:
        lines.append(f"a={direction}")
    return "\r\n".join(lines) + "\r\n" + extra


class Peer:
    """One SIP end over UDP, or over one stream connection. `drop` (a predicate on messages) loses what arrives."""

    def __init__(self, host="127.0.0.1"):
        self.host = host
        self.transport = "UDP"
        self.inbox = asyncio.Queue()
        self.drop = lambda message: False
        self.seen = []
        self.remote = None
        self._framer = StreamFramer()
        self._udp = None
        self._writer = None

    async def open_udp(self, port=0):
        loop = asyncio.get_running_loop()
        peer = self

        class Protocol(asyncio.DatagramProtocol):
            def datagram_received(self, data, address):
                peer.remote = address[:2]
                peer._arrived(data)

        self._udp, _ = await loop.create_datagram_endpoint(Protocol, local_addr=(self.host, port))
        self.port = self._udp.get_extra_info("sockname")[1]
        return self

    async def open_stream(self, port, tls=None):
        reader, writer = await asyncio.open_connection(self.host, port, ssl=tls)
        self.transport = "TLS" if tls else "TCP"
        self._attach(reader, writer)
        return self

    def _attach(self, reader, writer):
        self._writer = writer
        self.port = writer.get_extra_info("sockname")[1]
        self._reading = asyncio.create_task(self._read(reader))

    async def _read(self, reader):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                for frame in self._framer.feed(data):
                    if frame is None:
                        self.inbox.put_nowait(None)
                    else:
                        self._arrived(frame)

    def _arrived(self, data):
        try:
            message = parse(data)
        except MessageError:  # an answer to a hostile request copies what it had
            return
        self.seen.append(message)
        if not self.drop(message):
            self.inbox.put_nowait(message)

    def send_raw(self, data, to=None):
        if self._writer is not None:
            self._writer.write(data)
        else:
            self._udp.sendto(data, to or self.remote)

    def send(self, message, to=None):
        self.send_raw(message.encode(), to)

    def close(self):
        if self._udp is not None:
            self._udp.close()
        if self._writer is not None:
            self._writer.close()
            self._reading.cancel()

    async def get(self, want, within=EVENT_S):
        """The next message that is `want`: a status, a method or (status, method); others are skipped."""
        async with asyncio.timeout(within):
            while True:
                message = await self.inbox.get()
                if message is None:
                    continue
                if isinstance(message, Response):
                    if want in (message.status, (message.status, message.cseq[1])):
                        return message
                elif want == message.method:
                    return message

    async def get_any(self, within=EVENT_S):
        async with asyncio.timeout(within):
            return await self.inbox.get()

    # ---- as caller

    def request(self, method, uri, *, call_id=None, cseq=1, from_tag="", to_tag="", branch="", body="", headers=()):
        request = Request(method, uri)
        host = f"[{self.host}]" if ":" in self.host else self.host
        transport = "" if self.transport == "UDP" else f";transport={self.transport.lower()}"
        request.headers = [
            ("via", f"SIP/2.0/{self.transport} {host}:{self.port};branch={branch or new_branch()};rport"),
            ("max-forwards", "70"),
            ("from", f"<sip:alice@{host}>;tag={from_tag or new_tag()}"),
            ("to", f"<{uri}>" + (f";tag={to_tag}" if to_tag else "")),
            ("call-id", call_id or secrets.token_hex(8)),
            ("cseq", f"{cseq} {method}"),
        ]
        if method in ("INVITE", "UPDATE"):
            request.add("contact", f"<sip:alice@{host}:{self.port}{transport}>")
        for name, value in headers:
            request.set(name, value)
        if body:
            request.set("content-type", "application/sdp")
            request.body = body.encode()
        return request

    def within(self, invite, response, method, *, cseq=None, body="", headers=(), branch=""):
        """A request in the dialog that `response` to our `invite` made."""
        contact = response.get("contact")
        uri = contact[contact.find("<") + 1 : contact.find(">")] if contact else invite.uri
        request = self.request(
            method,
            uri,
            call_id=invite.call_id,
            cseq=cseq or (invite.cseq[0] if method == "ACK" else invite.cseq[0] + 1),
            from_tag=invite.from_tag,
            branch=branch,
            body=body,
            headers=headers,
        )
        request.set("to", response.get("to"))
        return request

    # ---- as called

    def reply(self, request, status, *, tag="", body="", headers=()):
        response = Response(status, "Reason")
        for name, value in request.headers:
            if name in ("via", "from", "call-id", "cseq", "record-route"):
                response.headers.append((name, value))
            elif name == "to":
                response.headers.append((name, value + (f";tag={tag}" if tag and ";tag=" not in value else "")))
        if status > 100 and request.method in ("INVITE", "UPDATE"):
            host = f"[{self.host}]" if ":" in self.host else self.host
            transport = "" if self.transport == "UDP" else f";transport={self.transport.lower()}"
            response.headers.append(("contact", f"<sip:bob@{host}:{self.port}{transport}>"))
        for name, value in headers:
            response.add(name, value)
        if body:
            response.add("content-type", "application/sdp")
            response.body = body.encode()
        self.send(response)
        return response

    def request_back(self, request, method, *, tag, cseq=1, body="", headers=()):
        """A request in the dialog that `request` (an INVITE to us, answered with `tag`) made."""
        contact = request.get("contact")
        back = self.request(
            method,
            contact[contact.find("<") + 1 : contact.find(">")],
            call_id=request.call_id,
            cseq=cseq,
            from_tag=tag,
            body=body,
            headers=headers,
        )
        back.set("from", request.get("to") + f";tag={tag}")
        back.set("to", request.get("from"))
        return back


class Control:
    """What control is to sip: the other end of its channel, and its parent."""

    def __init__(self, **settings):
        self.settings = settings
        self.sockets = []
        self.pid = 0
        self.events = []
        self.last_dialogs = {}
        self._command_id = secrets.randbelow(10**9)
        self._changed = asyncio.Event()
        self._replies = {}

    def bind(self, hosts=("127.0.0.1",), tcp=False, tls=False):
        self.port = self._free_port(hosts[0])
        for host in hosts[1:]:
            sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((host, self.port))
            self.sockets.append(("UDP", sock))
        if not tcp:
            self.sockets.pop(0)[1].close()
        if tls:
            sock = socket.create_server((hosts[0], 0))
            self.tls_port = sock.getsockname()[1]
            self.sockets.append(("TLS", sock))
            self.settings["tls_port"] = self.tls_port
        for _transport, sock in self.sockets:
            sock.setblocking(False)
        self.settings.setdefault("bind_ip", hosts[0])
        self.settings.setdefault("trusted_networks", ("127.0.0.0/8", "::1/128"))
        self.settings["port"] = self.port
        return self

    def _free_port(self, host):
        """A port that is free for TCP and UDP: both are bound."""
        while True:
            tcp = socket.create_server((host, 0))
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                udp.bind(tcp.getsockname())
            except OSError:
                tcp.close()
                udp.close()
            else:
                self.sockets += [("TCP", tcp), ("UDP", udp)]
                return tcp.getsockname()[1]

    def start(self, *, listens=True):
        """Fork a sip process on our sockets, as the zygote does."""
        ours, theirs = channel_pair()
        lifeline_read, self._lifeline_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.stats = Stats(1, f"test-{secrets.token_hex(4)}")
        start = msgspec.msgpack.encode(wire.SipStart(stats_row=0, **self.settings))
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                ours.close()
                os.close(self._lifeline_write)
                from workers.sip.main import run

                instance = SimpleNamespace(stats=self.stats, lifeline_fd=lifeline_read, sip_sockets=self.sockets)
                instance.master_is_gone = lambda: True
                run(instance, Channel(theirs, wire.ToSip), start)
                status = 0
            except BaseException:  # noqa: BLE001  the outermost frame of a process
                import traceback

                traceback.print_exc()
            finally:
                os._exit(status)
        theirs.close()
        os.close(lifeline_read)
        self.channel = Channel(ours, wire.FromSip)
        asyncio.get_running_loop().add_reader(self.channel.fileno(), self._read)
        if listens:
            self.channel.send(wire.Listen(command_id=-1))
        return self

    def _read(self):
        try:
            messages = self.channel.receive()
        except ChannelClosed:
            asyncio.get_running_loop().remove_reader(self.channel.fileno())
            return
        for message in messages:
            if isinstance(message, wire.Done | wire.Failed):
                self._replies[message.command_id] = message
            else:
                if isinstance(message, wire.DialogSaved):
                    self.last_dialogs[message.dialog.leg_id] = message.dialog
                self.events.append(message)
        self._changed.set()

    async def _until(self, found, within):
        try:
            async with asyncio.timeout(within):
                while (value := found()) is None:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"not seen; events: {self.events}") from None
        return value

    async def do(self, kind, within=EVENT_S, **fields):
        """Send a command; its Done or Failed."""
        self._command_id += 1
        command = kind(command_id=self._command_id, **fields)
        self.channel.send(command)
        return await self.reply_to(command, within)

    async def reply_to(self, command, within=EVENT_S):
        return await self._until(lambda: self._replies.pop(command.command_id, None), within)

    async def event(self, kind, within=EVENT_S, **fields):
        """The next event of that kind with these fields; it is taken out of the list."""

        def found():
            for event in self.events:
                if isinstance(event, kind) and all(getattr(event, name) == value for name, value in fields.items()):
                    self.events.remove(event)
                    return event
            return None

        return await self._until(found, within)

    def none(self, kind):
        assert not [event for event in self.events if isinstance(event, kind)], self.events

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.pid = 0
        self._disconnect()

    def _disconnect(self):
        with contextlib.suppress(OSError, ValueError):
            asyncio.get_running_loop().remove_reader(self.channel.fileno())
        self.channel.close()
        with contextlib.suppress(OSError):
            os.close(self._lifeline_write)

    async def gone(self, within):
        """The process has ended by itself within so many seconds; its exit status."""
        async with asyncio.timeout(within):
            while True:
                pid, status = os.waitpid(self.pid, os.WNOHANG)  # noqa: ASYNC222  does not wait
                if pid:
                    self.pid = 0
                    return os.waitstatus_to_exitcode(status)
                await asyncio.sleep(0.01)

    def close(self):
        if self.pid:
            self.kill()
        else:
            self._disconnect()
        for _transport, sock in self.sockets:
            sock.close()

    @property
    def uri(self):
        return f"sip:room@127.0.0.1:{self.port}"

    @property
    def address(self):
        return ("127.0.0.1", self.port)


LOCAL = wire.LocalMedia(host="127.0.0.1", port=20000, codecs=("PCMU", "PCMA", "G722"))


@pytest.fixture
async def control():
    control = Control().bind(tcp=True).start()
    yield control
    errors = [event for event in control.events if isinstance(event, wire.LogLine) and event.level == "error"]
    control.close()
    assert not errors


@pytest.fixture
async def peer(control):
    peer = await Peer().open_udp()
    peer.remote = control.address
    yield peer
    peer.close()


class Scene:
    """Calls brought up to a state in one line."""

    def __init__(self, control, peer):
        self.control = control
        self.peer = peer
        self.local = LOCAL
        self.sdp = sdp

    async def ringing_in(self, **fields):
        fields.setdefault("body", sdp())
        invite = self.peer.request("INVITE", self.control.uri, **fields)
        self.peer.send(invite)
        received = await self.control.event(wire.CallReceived)
        return invite, received.leg_id

    async def answered_in(self, **fields):
        """(invite, 200, leg_id) of a confirmed inbound call."""
        invite, leg_id = await self.ringing_in(**fields)
        assert isinstance(await self.control.do(wire.Answer, leg_id=leg_id, media=LOCAL), wire.Done)
        ok = await self.peer.get((200, "INVITE"))
        self.peer.send(self.peer.within(invite, ok, "ACK"))
        await self.control.event(wire.CallConfirmed, leg_id=leg_id)
        return invite, ok, leg_id

    async def dial(self, leg_id="leg", **fields):
        fields.setdefault("target", f"sip:bob@127.0.0.1:{self.peer.port}")
        done = await self.control.do(wire.Dial, leg_id=leg_id, media=LOCAL, **fields)
        assert isinstance(done, wire.Done), done
        return await self.peer.get("INVITE")

    async def answered_out(self, tag="bobs", leg_id="leg", headers=(), **fields):
        """(invite, 200) of a confirmed outbound call."""
        invite = await self.dial(leg_id, **fields)
        ok = self.peer.reply(invite, 200, tag=tag, body=sdp(), headers=headers)
        await self.peer.get("ACK")
        await self.control.event(wire.CallAnswered, leg_id=leg_id)
        return invite, ok


@pytest.fixture
def scene(control, peer):
    return Scene(control, peer)


@pytest.fixture
def make():
    """The classes and constants of this file, for tests that set up more themselves."""
    return SimpleNamespace(Peer=Peer, Control=Control, Scene=Scene, sdp=sdp, LOCAL=LOCAL, ssl=ssl)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """(certificate, key) files: self-signed, for 127.0.0.1, localhost and *.example.test."""
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    names = "subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:*.example.test"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"]
    command += ["-addext", names, "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return str(cert), str(key)
