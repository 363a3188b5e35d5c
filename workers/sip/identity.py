"""What we call ourselves on the wire: Via, Contact, From, Server, Allow.

Runs in: sip.
Owns: which of our addresses goes where (contract/config.md section 5: SIP_BIND_IP, SIP_EXTERNAL_IP, SIP_DOMAIN, SIP_HOST).

Rules
1. Requests name SIP_DOMAIN where it is set; Contact prefers the address that can be reached from outside.
2. The address family follows the flow a message takes.
"""

import functools
import ipaddress

from shm.messages import SipStart
from workers.sip.message import Message, Via, new_branch
from workers.sip.transport import Flow
from workers.sip.uri import Uri, format_host_port, quoted

ALLOW = "INVITE, ACK, CANCEL, BYE, UPDATE, REFER, NOTIFY, OPTIONS, REGISTER"  # contract/legs.md section 8.5
EXTENSIONS = frozenset(("timer",))  # what a Require may ask of us


class Identity:
    def __init__(self, start: SipStart) -> None:
        self._start = start
        self.product = start.product
        self.trusts = functools.lru_cache(maxsize=1024)(self._trusts)  # asked for every INVITE
        self._trusted = [ipaddress.ip_network(network, strict=False) for network in start.trusted_networks]

    def via(self, flow: Flow) -> str:
        """A Via with a new branch; rport asks for the answer at our source port (RFC 3581)."""
        host = self._start.domain or self.local_host(flow.remote[0])
        via = Via(flow.transport, host, self._port(flow), {"branch": new_branch(), "rport": None})
        return str(via)

    def contact(self, flow: Flow) -> str:
        remote = flow.remote[0]
        host = self._start.domain or self._public_host(remote)
        where = format_host_port(host, self._port(flow))
        transport = "" if flow.transport == "UDP" else f";transport={flow.transport.lower()}"
        return f"<sip:{where}{transport}>"

    def local_host(self, remote_host: str) -> str:
        """Our own address of the family of that one."""
        is_ipv6 = ":" in remote_host
        return (self._start.bind_ipv6 if is_ipv6 else self._start.bind_ip) or self._start.bind_ip

    def _public_host(self, remote_host: str) -> str:
        is_ipv6 = ":" in remote_host
        return self.local_host(remote_host) if is_ipv6 else self._start.external_ip or self._start.bind_ip

    def _port(self, flow: Flow) -> int:
        start = self._start
        return (start.tls_port or 5061) if flow.transport == "TLS" else start.port

    def caller(self, from_uri: str, target: Uri) -> tuple[str, str]:
        """From value without tag and P-Asserted-Identity ("" = none) of a call (contract/legs.md section 4)."""
        host = self._start.domain or self._public_host(target.host)
        if not from_uri:
            return f"{quoted(self.product)} <{Uri('sip', _user(self.product), host)}>", ""
        if from_uri.lower().startswith(("sip:", "sips:")):
            given = Uri.parse(from_uri)
            identity = Uri("sip", given.user, given.host.lower())
        else:
            identity = Uri("sip", _user(from_uri), host)
        return f"<{identity}>", str(identity)

    def _trusts(self, host: str) -> bool:
        """Whether the source is in SIP_TRUSTED_IPS."""
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        address = mapped or address
        return any(address in network for network in self._trusted if network.version == address.version)

    def sign_request(self, request: Message) -> None:
        """INVITE: who we are and what we can (unless the leg's own headers say so)."""
        if not request.get("user-agent"):
            request.add("user-agent", self.product)
        if not request.get("allow"):
            request.add("allow", ALLOW)


def _user(text: str) -> str:
    """A user part: what RFC 3261 section 25.1 does not allow there is escaped."""
    allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.!~*'()&=+$,;?/%"
    return "".join(
        char if char in allowed else "".join(f"%{byte:02X}" for byte in char.encode("utf-8")) for char in text
    )
