"""Digest challenge and its verification, as a carrier's proxy or registrar does it (RFC 7616, RFC 3261 §22)."""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field

from tests.flows.tools.sip import Message

HASHES = {"MD5": hashlib.md5, "SHA-256": hashlib.sha256}


@dataclass
class Challenge:
    """Challenges the first INVITE of a call; `verified` counts right answers, `refused` wrong ones."""

    username: str
    password: str
    status: int = 407
    algorithm: str = "MD5"
    qop: str | None = "auth"
    realm: str = "carrier.example"
    opaque: str = "o1"
    nonce: str = field(default_factory=lambda: secrets.token_hex(8))
    verified: int = 0
    refused: int = 0

    @property
    def header(self) -> tuple[str, str]:
        value = f'Digest realm="{self.realm}", nonce="{self.nonce}", opaque="{self.opaque}", algorithm={self.algorithm}'
        if self.qop:
            value += f', qop="{self.qop}"'
        return ("WWW-Authenticate" if self.status == 401 else "Proxy-Authenticate", value)

    def accepts(self, request: Message) -> bool:
        """False without credentials (to be challenged) and with wrong ones."""
        given = request.get("Authorization" if self.status == 401 else "Proxy-Authorization")
        if not given:
            return False
        fields = {k: q or p for k, q, p in re.findall(r'(\w+)\s*=\s*(?:"([^"]*)"|([^\s,]+))', given)}

        def digest(*parts: str) -> str:
            return HASHES[self.algorithm](":".join(parts).encode()).hexdigest()

        secret = digest(self.username, self.realm, self.password)
        action = digest(request.method, fields.get("uri", ""))
        between = (fields.get("nc", ""), fields.get("cnonce", ""), fields.get("qop", "")) if self.qop else ()
        right = (
            fields.get("username") == self.username
            and fields.get("nonce") == self.nonce
            and fields.get("opaque") == self.opaque
            and fields.get("uri") == request.uri
            and fields.get("response") == digest(secret, self.nonce, *between, action)
        )
        self.verified += right
        self.refused += not right
        return right
