"""The challenger against the worked examples of RFC 7616 §3.9.1."""

from __future__ import annotations

import pytest

from tests.flows.tools.digest import Challenge
from tests.flows.tools.sip import Message

RESPONSES = {
    "MD5": "8ca523f5e9506fed4657c9700eebdbec",
    "SHA-256": "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
}


@pytest.mark.parametrize("algorithm", list(RESPONSES))
def test_right_and_wrong_answers(algorithm: str) -> None:
    challenge = Challenge(
        "Mufasa",
        "Circle of Life",
        status=401,
        algorithm=algorithm,
        realm="http-auth@example.org",
        opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS",
        nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v",
    )
    given = (
        f'Digest username="Mufasa", realm="{challenge.realm}", uri="/dir/index.html", algorithm={algorithm}, '
        f'nonce="{challenge.nonce}", nc=00000001, cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", qop=auth, '
        f'response="{RESPONSES[algorithm]}", opaque="{challenge.opaque}"'
    )
    request = Message(method="GET", uri="/dir/index.html", headers=[("Authorization", given)])
    assert challenge.accepts(request)
    wrong = Message(method="PUT", uri="/dir/index.html", headers=[("Authorization", given)])
    assert not challenge.accepts(wrong)
    assert not challenge.accepts(Message(method="GET", uri="/dir/index.html"))
    assert (challenge.verified, challenge.refused) == (1, 1)
