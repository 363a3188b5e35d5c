"""Which addresses a URL given by an API caller may lead to (FETCH_ALLOW_PRIVATE, contract config.md section 8).

Runs in: control (webhooks), stream (fetches, Pipecat, object storage).
Owns: the judgement of addresses, and a resolver that hands out only addresses that passed it: the address that was checked is
the one connected to.

Rules
1. Link-local and cloud metadata addresses are always refused, private ones unless they are allowed.
2. A name that has led to a public address once never leads to a private one afterwards (DNS rebinding). The last
   NAMES_REMEMBERED names are remembered.
3. A request that has been led outside once (a `Journey`) does not come back in by a redirect.
4. Where a proxy is to be used, it resolves the name: only addresses written in the URL are judged here.
"""

import socket
import urllib.request
from collections import OrderedDict
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Protocol

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

NAMES_REMEMBERED = 1000
LOCAL_SUFFIXES = (".local", ".internal", ".localdomain", ".home.arpa", ".localhost")
_METADATA = frozenset(ip_address(text) for text in ("fd00:ec2::254", "100.100.100.200", "192.0.0.192"))


class Forbidden(OSError):
    """The URL leads where it must not."""


def plain_address(text: str) -> IPv4Address | IPv6Address | None:
    """The address that `text` is, IPv4 where it is mapped into IPv6; None for a name."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_local_host(host: str) -> bool:
    """Whether plain HTTP to there stays within one's own walls (config.md section 3, S3_ALLOW_INSECURE_ENDPOINT)."""
    address = plain_address(host)
    if address is None:
        return "." not in host or host.lower().endswith(LOCAL_SUFFIXES)
    return address.is_loopback or address.is_private or address.is_link_local


def proxy_for(url: URL) -> str | None:
    """What HTTP_PROXY, HTTPS_PROXY and NO_PROXY say about this URL."""
    proxy = urllib.request.getproxies().get(url.scheme)
    return None if proxy is None or urllib.request.proxy_bypass(f"{url.host}:{url.port}") else proxy


class Judge(Protocol):
    """Whoever has a say in where a connection may go."""

    def check(self, host: str, address: IPv4Address | IPv6Address) -> None:
        """Raises Forbidden. `host`: the name that led to the address, or the address as written."""
        ...


class Reach:
    """Judges single addresses and remembers names."""

    def __init__(self, *, private_allowed: bool) -> None:
        self._private_allowed = private_allowed
        self._public_names: OrderedDict[str, None] = OrderedDict()

    def check(self, host: str, address: IPv4Address | IPv6Address) -> None:
        if address.is_link_local or address in _METADATA:
            raise Forbidden(f"{host} leads to a link-local or metadata address")
        if address.is_global:
            self._public_names[host] = None
            self._public_names.move_to_end(host)
            if len(self._public_names) > NAMES_REMEMBERED:
                self._public_names.popitem(last=False)
        elif not self._private_allowed or host in self._public_names:
            raise Forbidden(f"{host} leads to a private address")


class Journey:
    """Judges one request with all its redirects."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self._has_been_outside = False

    def check(self, host: str, address: IPv4Address | IPv6Address) -> None:
        self._reach.check(host, address)
        if address.is_global:
            self._has_been_outside = True
        elif self._has_been_outside:
            raise Forbidden(f"{host} leads back to a private address")


class GuardedResolver(AbstractResolver):
    """aiohttp's resolver, with every answer checked; one bad address refuses the name."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        answers = await self._resolver.resolve(host, port, family)
        for answer in answers:
            address = plain_address(answer["host"])
            if address is None:
                raise Forbidden(f"{host} leads nowhere")
            self._judge.check(host, address)
        return answers

    async def close(self) -> None:
        await self._resolver.close()
