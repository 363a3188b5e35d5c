"""From a SIP URI to the addresses to try, in order (RFC 3263 without NAPTR).

Runs in: sip.
Owns: transport selection, SRV order, the cache of names.

Rules
1. Nothing here blocks: DNS goes through dnspython's asyncio resolver; only /etc/hosts, a small local file, is read at once,
   and only when it has changed.
2. /etc/hosts outranks DNS for addresses. A numeric host, or one with a port, is never looked up as SRV.
3. The cache holds CACHE_ENTRIES answers, each for its TTL within 1..CACHE_MAX_S (failures: FAILURE_S); the oldest goes first.

Not here: which of the targets works -> `client_exchange.py`.
"""

import ipaddress
import secrets
import time
from pathlib import Path
from typing import NamedTuple

import dns.asyncresolver
import dns.exception
import dns.rdatatype
import dns.resolver

from shm.errors import PeerError
from workers.sip.uri import Uri

QUERY_S = 5.0
CACHE_ENTRIES = 1024
CACHE_MAX_S = 300.0
FAILURE_S = 5.0
MAX_TARGETS = 16

TRANSPORTS = {"": "UDP", "udp": "UDP", "tcp": "TCP", "tls": "TLS"}


class Target(NamedTuple):
    """One address to try. `name` is the host of the URI, which a TLS certificate has to name."""

    transport: str
    host: str
    port: int
    name: str


class Unresolvable(PeerError):
    """No address to send to."""


class Resolver:
    def __init__(
        self,
        *,
        has_ipv6: bool,
        nameservers: list[str] | None = None,
        port: int = 53,
        hosts_file: str = "/etc/hosts",
    ) -> None:
        """`nameservers` replaces /etc/resolv.conf."""
        self._types = (dns.rdatatype.A, dns.rdatatype.AAAA) if has_ipv6 else (dns.rdatatype.A,)
        self._nameservers = nameservers
        self._port = port
        self._dns: dns.asyncresolver.Resolver | None = None
        self._cache: dict[tuple[str, str], tuple[float, list[tuple[int, int, int, str]]]] = {}
        self._hosts_file = Path(hosts_file)
        self._hosts_stamp = (0, 0)
        self._hosts: dict[str, list[str]] = {}

    def at_once(self, uri: Uri) -> Target | None:
        """The target of a numeric URI; None when somebody must be asked. Raises Unresolvable."""
        host = _host(uri)
        if not _is_numeric(host):
            return None
        transport = _transport(uri)
        return Target(transport, host, uri.port or _default_port(transport), host)

    async def targets(self, uri: Uri) -> list[Target]:
        """At least one target, best first. Raises Unresolvable."""
        numeric = self.at_once(uri)
        if numeric is not None:
            return [numeric]
        host = _host(uri).rstrip(".").lower()
        transport = _transport(uri)
        found: list[Target] = []
        if uri.port is None:
            for service, service_transport in _services(uri, transport):
                for _priority, _weight, port, name in _by_weight(await self._query(f"{service}.{host}", "SRV")):
                    found += [Target(service_transport, ip, port, host) for ip in await self._addresses(name)]
                if found:
                    break
        if not found:
            port = uri.port or _default_port(transport)
            found = [Target(transport, ip, port, host) for ip in await self._addresses(host)]
        if not found:
            raise Unresolvable(f"no address for {host}")
        return found[:MAX_TARGETS]

    async def _addresses(self, name: str) -> list[str]:
        name = name.rstrip(".").lower()
        if _is_numeric(name):
            return [name]
        local = self._local_hosts().get(name)
        if local:
            return local
        found: list[str] = []
        for kind in self._types:
            found += [entry[3] for entry in await self._query(name, kind.name)]
        return found

    async def _query(self, name: str, kind: str) -> list[tuple[int, int, int, str]]:
        """(priority, weight, port, text) of each record; [] when there is none or nobody answers."""
        now = time.monotonic()
        cached = self._cache.pop((name, kind), None)
        if cached is not None and cached[0] > now:
            self._cache[name, kind] = cached  # back at the young end
            return cached[1]
        records: list[tuple[int, int, int, str]] = []
        lifetime_s = FAILURE_S
        try:
            answer = await self._resolver().resolve(name, kind, lifetime=QUERY_S)
        except (dns.exception.DNSException, OSError, ValueError):
            pass
        else:
            lifetime_s = max(1.0, min(CACHE_MAX_S, answer.rrset.ttl if answer.rrset else FAILURE_S))
            for record in answer:
                if kind == "SRV":
                    records.append((record.priority, record.weight, record.port, record.target.to_text()))
                else:
                    records.append((0, 0, 0, record.address))
        self._cache[name, kind] = (now + lifetime_s, records)
        while len(self._cache) > CACHE_ENTRIES:
            del self._cache[next(iter(self._cache))]
        return records

    def _resolver(self) -> dns.asyncresolver.Resolver:
        if self._dns is None:
            try:
                self._dns = dns.asyncresolver.Resolver(configure=self._nameservers is None)
            except dns.resolver.NoResolverConfiguration:
                self._dns = dns.asyncresolver.Resolver(configure=False)
            if self._nameservers is not None:
                self._dns.nameservers = list(self._nameservers)
                self._dns.port = self._port
        return self._dns

    def _local_hosts(self) -> dict[str, list[str]]:
        try:
            status = self._hosts_file.stat()
            stamp = (status.st_mtime_ns, status.st_size)
            if stamp == self._hosts_stamp:
                return self._hosts
            lines = self._hosts_file.read_text("utf-8", "replace").splitlines()
        except OSError:
            return {}
        self._hosts_stamp = stamp
        self._hosts = {}
        for line in lines:
            address, *names = line.partition("#")[0].split() or [""]
            if _is_numeric(address) and (":" not in address or len(self._types) > 1):
                for name in names:
                    self._hosts.setdefault(name.lower(), []).append(address)
        return self._hosts


def _host(uri: Uri) -> str:
    if uri.scheme not in ("sip", "sips") or not uri.host:
        raise Unresolvable(f"no host in {uri.scheme} URI")
    return uri.params.get("maddr") or uri.host


def _transport(uri: Uri) -> str:
    transport = TRANSPORTS.get(uri.transport)
    if transport is None:
        raise Unresolvable(f"transport {uri.transport} is not spoken here")
    return transport


def _default_port(transport: str) -> int:
    return 5061 if transport == "TLS" else 5060


def _services(uri: Uri, transport: str) -> list[tuple[str, str]]:
    """SRV names to ask for, RFC 3263 section 4.1; without a named transport UDP is asked first, then TCP."""
    if transport == "TLS":
        return [("_sips._tcp", "TLS")]
    if transport == "TCP":
        return [("_sip._tcp", "TCP")]
    return [("_sip._udp", "UDP")] if uri.transport else [("_sip._udp", "UDP"), ("_sip._tcp", "TCP")]


def _by_weight(records: list[tuple[int, int, int, str]]) -> list[tuple[int, int, int, str]]:
    """RFC 2782: by priority, within one priority drawn by weight."""
    left = sorted((record for record in records if record[3] != "." and record[2]), key=lambda r: (r[0], r[1]))
    ordered: list[tuple[int, int, int, str]] = []
    while left:
        group = [record for record in left if record[0] == left[0][0]]
        draw = secrets.randbelow(sum(record[1] for record in group) + 1)
        for record in group:
            draw -= record[1]
            if draw <= 0:
                ordered.append(record)
                left.remove(record)
                break
    return ordered


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
