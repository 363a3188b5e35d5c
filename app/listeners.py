"""Listening sockets, bound by the master before any fork: a taken port ends the start with one line.

Runs in: the master.
Owns: which SIP sockets exist (design.md section 2); a restarted sip process goes on with the same ones.
"""

import errno
import socket

from app.config import Config, ConfigError

UDP_BUFFER_BYTES = 4 * 1024 * 1024
BACKLOG = 1024

SipSockets = list[tuple[str, socket.socket]]


def bind_sip(config: Config) -> SipSockets:
    """("UDP" | "TCP" | "TLS", socket) for IPv4 and, if configured, IPv6. Raises ConfigError naming the port."""
    hosts = [config.sip_listen_ip]
    if config.sip_listen_ipv6:
        hosts.append(config.sip_listen_ipv6)
    wanted = [("UDP", config.sip_port)]
    if config.sip_tcp_enabled:
        wanted.append(("TCP", config.sip_port))
    if config.sip_tls_port:
        wanted.append(("TLS", config.sip_tls_port))
    return [(transport, _bind(transport, host, port)) for host in hosts for transport, port in wanted]


def check_http(host: str, port: int) -> None:
    """gunicorn would try a taken port for five seconds; say it at once instead."""
    _bind("TCP", host, port).close()


def _bind(transport: str, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_DGRAM if transport == "UDP" else socket.SOCK_STREAM)
    listener.setblocking(False)
    try:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if transport == "UDP":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UDP_BUFFER_BYTES)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UDP_BUFFER_BYTES)
            listener.bind((host, port))
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        taken = error.errno == errno.EADDRINUSE
        what = "is taken by another program" if taken else f"cannot be used: {error.strerror}"
        raise ConfigError(f"{transport} {host or '*'}:{port} {what}") from error
    return listener
