"""One WebSocket connection of the server side, read and written once a tick, never by an event of its own.

Runs in: stream.
Owns: the socket, bytes received but not complete, bytes sent but not taken.

Rules
1. The protocol is `websockets`' sans-I/O one: the handshake, control frames, fragments, errors and the closing. Only whole,
   masked, unfragmented text frames are taken here, as most of ten thousand a second are such and cost a tenth this way.
2. At most READ_BYTES are read at a call, and a message has at most MESSAGE_BYTES (else 1009): a flood is held back by TCP.
3. What the peer does not take stays outside: `is_behind` when more than LAG_BYTES wait to be sent. Nothing is queued here but the
   rest of a frame that was taken in part, and control frames up to PENDING_BYTES; beyond, the connection is broken off.

Not here: what is said in the frames, time limits → `sockets.py`.
"""

import fcntl
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.speedups import apply_mask

from shm.errors import CallerError

READ_BYTES = 64 * 1024
MESSAGE_BYTES = 1024 * 1024
PENDING_BYTES = 64 * 1024
_MASKED_TEXT = 0x81
_MASK_BIT = 0x80
_UNSENT = {socket.AF_INET: 0x894B, socket.AF_INET6: 0x894B}  # SIOCOUTQNSD: not what is in flight; else SIOCOUTQ: all
_SIOCOUTQ = 0x5411


class WebSocket:
    """Takes a connection whose upgrade request is `head`. Raises CallerError when that is none, and closes the connection."""

    def __init__(self, connection: socket.socket, head: bytes, *, lag_bytes: int) -> None:
        self._socket = connection
        self._socket.setblocking(False)
        if self._socket.family in _UNSENT:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unsent_request = _UNSENT.get(self._socket.family, _SIOCOUTQ)
        self._lag_bytes = lag_bytes
        self._protocol = ServerProtocol(max_size=MESSAGE_BYTES)
        self._rest = b""
        self._early = b""  # came along with the request and is not looked at yet
        self._pending = bytearray()
        self._message: list[bytes] | None = None  # of fragments; text only
        self._is_fragmented = False
        self._is_deaf = False  # the library has said its last word: what still comes is thrown away
        self.is_gone = False  # nothing can be sent or received any more
        self.is_closing = False  # a close frame was sent or received
        self.frames_received = 0  # of any kind
        self._shake_hands(head)

    def _shake_hands(self, head: bytes) -> None:
        end = head.find(b"\r\n\r\n") + 4
        self._protocol.receive_data(head[:end])
        self._early = head[end:]
        requests = [event for event in self._protocol.events_received() if isinstance(event, Request)]
        if not requests:
            self.abort()
            raise CallerError("not an HTTP request")
        response = self._protocol.accept(requests[0])
        self._protocol.send_response(response)
        self._send_protocol_data()
        if response.status_code != 101:
            self.abort()
            raise CallerError("not a WebSocket upgrade", 426)

    # ------------------------------------------------------------------------------------------ in

    def receive(self) -> list[bytes]:
        """Text messages that are complete; [] when nothing new is."""
        if self._pending:
            self._flush()
        if self._early:
            data, self._early = self._early, b""
            return list(self._messages(data))
        try:
            data = self._socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            self.abort()
            return []
        else:
            if not data:
                self.abort()
                return []
        return list(self._messages(self._rest + data if self._rest else data))

    def _messages(self, data: bytes) -> Iterator[bytes]:
        start = 0
        while len(data) - start >= 2 and not self._is_deaf:
            second = data[start + 1]
            size = second & 0x7F
            body = start + 2
            if size == 126:
                body += 2
                size = int.from_bytes(data[start + 2 : body], "big")
            elif size == 127:
                body += 8
                size = int.from_bytes(data[start + 2 : body], "big")
            body += 4 if second & _MASK_BIT else 0
            if len(data) < body:
                break
            end = body + size
            if size > MESSAGE_BYTES:
                end = body  # the library refuses it by its header
            elif len(data) < end:
                break
            self.frames_received += 1
            is_plain = data[start] == _MASKED_TEXT and second & _MASK_BIT and size <= MESSAGE_BYTES
            if is_plain and not self._is_fragmented and not self.is_closing:
                yield apply_mask(data[body:end], data[body - 4 : body])
            else:
                yield from self._by_library(data[start:end])
            start = end
        self._rest = b"" if self._is_deaf else data[start:]

    def _by_library(self, frame: bytes) -> Iterator[bytes]:
        protocol = self._protocol
        protocol.receive_data(frame)
        for event in protocol.events_received():
            if not isinstance(event, Frame):
                continue
            if event.opcode in {Opcode.TEXT, Opcode.BINARY}:
                self._message = [] if event.opcode is Opcode.TEXT else None
                self._is_fragmented = not event.fin
            if event.opcode in {Opcode.TEXT, Opcode.CONT}:
                if self._message is not None:
                    self._message.append(bytes(event.data))
                if event.fin:
                    self._is_fragmented = False
                    if self._message is not None:
                        yield b"".join(self._message)
                    self._message = None
        self._send_protocol_data()

    # ------------------------------------------------------------------------------------------ out

    def is_behind(self) -> bool:
        """The peer has not taken what it was sent before."""
        if self._pending and not self._flush():
            return True
        try:
            unsent = fcntl.ioctl(self._socket, self._unsent_request, b"\0\0\0\0")
        except OSError:
            return False
        return bool(struct.unpack("i", unsent)[0] > self._lag_bytes)

    def send_frame(self, frame: bytes) -> None:
        """A whole WebSocket frame, made elsewhere. Ask `is_behind` before."""
        if not self.is_closing:
            self._send(frame)

    def send_text(self, text: bytes) -> None:
        """A small message that must not be lost."""
        if not self.is_closing and not self.is_gone:
            self._protocol.send_text(text)
            self._send_protocol_data()

    def ping(self) -> None:
        """As the protocol does it; any client library answers."""
        if not self.is_closing and not self.is_gone:
            self._protocol.send_ping(b"")
            self._send_protocol_data()

    def close(self, code: int = CloseCode.NORMAL_CLOSURE) -> None:
        """Say goodbye; `receive` goes on until `is_gone` tells that the peer has, too."""
        if not self.is_closing and not self.is_gone:
            self._protocol.send_close(code)
            self._send_protocol_data()

    def abort(self) -> None:
        """Without another word. Idempotent."""
        self.is_gone = True
        self._socket.close()

    def _send_protocol_data(self) -> None:
        parts = self._protocol.data_to_send()
        self.is_closing = self._protocol.state is not State.OPEN
        self._is_deaf = self._is_deaf or b"" in parts  # the library's word for: end the sending side
        self._send(b"".join(parts))
        self._end_sending()

    def _end_sending(self) -> None:
        if self._is_deaf and not self._pending and not self.is_gone:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def _send(self, data: bytes) -> None:
        if self.is_gone or not data:
            return
        if self._pending:
            self._pending += data
            if len(self._pending) > PENDING_BYTES:
                self.abort()
            else:
                self._flush()
            return
        try:
            sent = self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self.abort()
            return
        if sent < len(data):
            self._pending += data[sent:]

    def _flush(self) -> bool:
        data = bytes(self._pending)
        self._pending.clear()
        self._send(data)
        self._end_sending()
        return not self._pending
