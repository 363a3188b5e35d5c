"""Digest authentication as a caller: from a challenge to the credentials header.

Runs in: sip.
Owns: RFC 7616 and RFC 8760 (MD5, SHA-256, SHA-512-256, each with -sess; qop auth and auth-int; RFC 2069 without qop).

Rules
1. Nothing raises, whatever the challenge holds: an unusable one is passed over.
2. Of several usable challenges the strongest is answered (RFC 8760 section 2.4); of equals the first.
3. Quoted values of the challenge are hashed and given back exactly as they stood there, backslashes included.

Not here: retrying, once per challenge, and once more for a stale nonce -> `calls.py`; challenging others (not built).
"""

import hashlib
import re
import secrets
from collections.abc import Callable

from shm.messages import Credentials
from workers.sip.uri import quoted

# Weakest first.
_STRENGTH = ("md5", "sha-256", "sha-512-256")
_HASHES = {"md5": "md5", "sha-256": "sha256", "sha-512-256": "sha512_256"}
# An unclosed quote runs to the end: time stays linear in the input.
_PARAM = re.compile(r'([A-Za-z0-9_-]++)[ \t]*+=[ \t]*+(?:"([^"\\]*+(?:\\.[^"\\]*+)*+)"?+|([^\s,"]++))', re.DOTALL)

Challenge = dict[str, str]


def authorization(
    challenge_headers: list[str],
    *,
    method: str,
    uri: str,
    credentials: Credentials,
    nonce_count: int = 1,
    body: bytes = b"",
) -> str | None:
    """Value for Authorization (after 401) or Proxy-Authorization (after 407); None when no challenge can be answered.

    `uri` is the Request-URI, `body` counts for auth-int only. Each call makes a new cnonce, so an answer to a -sess
    challenge must not be repeated with a higher `nonce_count`.
    """
    challenges = [challenge for text in challenge_headers if (challenge := _parse(text))]
    if not challenges:
        return None
    best = max(challenges, key=lambda challenge: _STRENGTH.index(_algorithm(challenge)))
    return _answer(best, method, uri, credentials, nonce_count=nonce_count, body=body, cnonce=secrets.token_hex(16))


def _parse(text: str) -> Challenge | None:
    """The parameters of a Digest challenge that we can answer."""
    scheme, _, rest = text.strip().partition(" ")
    if scheme.lower() != "digest":
        return None
    challenge: Challenge = {}
    for name, quoted_value, plain in _PARAM.findall(rest):
        challenge.setdefault(name.lower(), quoted_value or plain)
    usable = (
        "realm" in challenge
        and bool(challenge.get("nonce"))
        and _algorithm(challenge) in _STRENGTH
        and _HASHES[_algorithm(challenge)] in hashlib.algorithms_available
        and _qop(challenge) is not None
    )
    return challenge if usable else None


def _algorithm(challenge: Challenge) -> str:
    return challenge.get("algorithm", "md5").lower().removesuffix("-sess")


def _qop(challenge: Challenge) -> str | None:
    """auth before auth-int (some peers rewrite bodies), "" where none is offered, None where we know none of them."""
    offered = [word.strip().lower() for word in challenge.get("qop", "").split(",") if word.strip()]
    if not offered:
        return ""
    return next((qop for qop in ("auth", "auth-int") if qop in offered), None)


def _answer(
    challenge: Challenge,
    method: str,
    uri: str,
    credentials: Credentials,
    *,
    nonce_count: int,
    body: bytes,
    cnonce: str,
) -> str:
    digest = _digest_with(_HASHES[_algorithm(challenge)])
    realm, nonce, qop = challenge["realm"], challenge["nonce"], _qop(challenge)
    is_session = challenge.get("algorithm", "").lower().endswith("-sess")
    count = f"{nonce_count:08x}"
    secret = digest(f"{credentials.username}:{realm}:{credentials.password}")
    if is_session:
        secret = digest(f"{secret}:{nonce}:{cnonce}")
    request = f"{method}:{uri}"
    if qop == "auth-int":
        request += f":{digest(body)}"
    between = f"{nonce}:{count}:{cnonce}:{qop}" if qop else nonce
    response = digest(f"{secret}:{between}:{digest(request)}")
    parts = [
        f"username={quoted(credentials.username)}",
        f'realm="{realm}"',
        f'nonce="{nonce}"',
        f'uri="{uri}"',
        f'response="{response}"',
    ]
    if "algorithm" in challenge:
        parts.append(f"algorithm={challenge['algorithm']}")
    if qop:
        parts += [f"qop={qop}", f"nc={count}"]
    if qop or is_session:
        parts.append(f'cnonce="{cnonce}"')
    if "opaque" in challenge:
        parts.append(f'opaque="{challenge["opaque"]}"')
    return "Digest " + ", ".join(parts)


def _digest_with(name: str) -> Callable[[str | bytes], str]:
    def digest(data: str | bytes) -> str:
        raw = data.encode("utf-8", "surrogateescape") if isinstance(data, str) else data
        return hashlib.new(name, raw, usedforsecurity=False).hexdigest()

    return digest
