"""Socket addresses as the kernel writes them: 28 bytes, so that whole batches compare as columns.

Runs in: rtp.
Owns: the layout of sockaddr_in and sockaddr_in6 (padded with zeros to the longer one), and where we never send to.

      0       2       4               8                                                24            28
      +-------+-------+---------------+------------------------------------------------+-------------+
      | family|  port |  IPv4, or flow|  IPv6 address                                  |  scope      |
      +-------+-------+---------------+------------------------------------------------+-------------+
        native  network order

Rules
1. Hosts are numeric: names are resolved by sip.
2. connect() goes through libc: Python has no way to say AF_UNSPEC, which alone undoes a connect.
"""

import ctypes
import ipaddress
import os
import socket
import struct

SOCKADDR_BYTES = 28
_V4_BYTES = 16
_libc = ctypes.CDLL(None, use_errno=True)

PythonAddress = tuple[str, int] | tuple[str, int, int, int]


def pack(host: str, port: int) -> bytes:
    """Numeric host and port → 28 bytes. Raises ValueError for anything else."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.version == 4:
        return struct.pack("=H2s4s20x", socket.AF_INET, port.to_bytes(2, "big"), address.packed)
    scope = socket.if_nametoindex(host.partition("%")[2]) if "%" in host else 0
    return struct.pack("=H2sI16sI", socket.AF_INET6, port.to_bytes(2, "big"), 0, address.packed, scope)


def unpack(raw: bytes) -> PythonAddress:
    """28 bytes → what Python's sendto takes."""
    port = int.from_bytes(raw[2:4], "big")
    if is_v4(raw):
        return socket.inet_ntop(socket.AF_INET, raw[4:8]), port
    return socket.inet_ntop(socket.AF_INET6, raw[8:24]), port, 0, int.from_bytes(raw[24:28], "little")


def is_v4(raw: bytes) -> bool:
    return raw[0] == socket.AF_INET


def same_host(raw: bytes, other: bytes) -> bool:
    """Whether both name one host, whatever the ports."""
    return raw[:2] == other[:2] and raw[4:] == other[4:]


def length(raw: bytes) -> int:
    """Bytes that the kernel wants for this family."""
    return _V4_BYTES if is_v4(raw) else SOCKADDR_BYTES


def destination(host: str, port: int, own: bytes) -> bytes | None:
    """Where to send media to, or None: nowhere (port 0, no or bad host), everybody (multicast, broadcast), or back to ourselves.

    `own` is the packed address that the leg's socket is bound to; a wildcard one is met on any loopback address.
    """
    if not 0 < port < 65536:
        return None
    try:
        raw = pack(host, port)
        address = ipaddress.ip_address(host.partition("%")[0])
    except (ValueError, OSError):
        return None
    if address.is_unspecified or address.is_multicast or host == "255.255.255.255" or raw[:2] != own[:2]:
        return None
    if raw[2:4] == own[2:4]:
        bound = ipaddress.ip_address(own[4:8] if is_v4(own) else own[8:24])
        if bound == address or (bound.is_unspecified and address.is_loopback):
            return None
    return raw


def connect(sock: socket.socket, raw: bytes) -> None:
    """Let the kernel drop whoever is not `raw`. Raises OSError."""
    if _libc.connect(sock.fileno(), raw, length(raw)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def disconnect(sock: socket.socket) -> None:
    """Hear everybody again. The port stays, for it was bound explicitly."""
    _libc.connect(sock.fileno(), bytes(_V4_BYTES), _V4_BYTES)  # AF_UNSPEC = 0


def bind(host: str, port: int) -> socket.socket:
    """A UDP socket on exactly this address. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _EXPEDITED_FORWARDING)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _EXPEDITED_FORWARDING)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


_EXPEDITED_FORWARDING = 46 << 2  # RFC 4594: telephony
