"""Tests of workers/sip/auth.py: the vectors of the RFCs, the choice among challenges, hostile challenges."""

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shm.messages import Credentials
from workers.sip import auth

MUFASA = Credentials(username="Mufasa", password="Circle of Life")  # RFC 7616 section 3.9.1
RFC_7616 = (
    'Digest realm="http-auth@example.org", qop="auth, auth-int", algorithm={}, '
    'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)
SIP = {"method": "INVITE", "uri": "sip:bob@h", "credentials": Credentials(username='a"b', password="p:w")}


def fields(header):
    assert header.startswith("Digest ")
    return {k: q or p for k, q, p in re.findall(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|([^,\s]+))', header)}


def md5(text):
    return hashlib.md5(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_vectors_of_rfc_7616(monkeypatch, algorithm, response):
    monkeypatch.setattr(auth.secrets, "token_hex", lambda _: "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ")
    header = auth.authorization([RFC_7616.format(algorithm)], method="GET", uri="/dir/index.html", credentials=MUFASA)
    sent = fields(header)
    assert sent["response"] == response
    assert (sent["qop"], sent["nc"], sent["algorithm"]) == ("auth", "00000001", algorithm)
    assert sent["opaque"] == "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"


def test_without_qop_as_in_rfc_2069():
    sent = fields(auth.authorization(['Digest realm="r", nonce="n"'], **SIP))
    assert sent["response"] == md5(f"{md5('a' + chr(34) + 'b:r:p:w')}:n:{md5('INVITE:sip:bob@h')}")
    assert not {"qop", "nc", "cnonce", "algorithm", "opaque"} & set(sent)
    assert sent["username"] == 'a\\"b'


def test_session_key_and_body_digest():
    challenge = 'Digest realm="r", nonce="n", algorithm=MD5-sess, qop="auth-int"'
    sent = fields(auth.authorization([challenge], body=b"v=0", nonce_count=2, **SIP))
    secret = md5(f"{md5('a' + chr(34) + 'b:r:p:w')}:n:{sent['cnonce']}")
    request = md5(f"INVITE:sip:bob@h:{md5('v=0')}")
    assert sent["response"] == md5(f"{secret}:n:00000002:{sent['cnonce']}:auth-int:{request}")
    assert (sent["qop"], sent["nc"], sent["algorithm"]) == ("auth-int", "00000002", "MD5-sess")


def test_the_strongest_usable_challenge_is_answered():
    weak, strong = 'Digest realm="a", nonce="1"', 'Digest realm="b", nonce="2", algorithm=SHA-256, qop="auth"'
    unknown = 'Digest realm="c", nonce="3", algorithm=SHA3-512'
    assert fields(auth.authorization([weak, unknown, strong], **SIP))["realm"] == "b"
    assert fields(auth.authorization(["Bearer x", unknown, weak], **SIP))["realm"] == "a"


@pytest.mark.parametrize(
    "challenge",
    [
        *("", "Basic realm=x", "Digest", 'Digest realm="r"', 'Digest nonce="n"', 'Digest realm="r", nonce=""'),
        *('Digest realm="r", nonce="n", qop="token"', 'Digest realm="r", nonce="n", algorithm=AKAv1-MD5'),
    ],
)
def test_unusable_challenges(challenge):
    assert auth.authorization([challenge], **SIP) is None


def test_every_call_has_its_own_cnonce():
    challenge = ['Digest realm="r", nonce="n", qop=auth']
    assert auth.authorization(challenge, **SIP) != auth.authorization(challenge, **SIP)


def test_quoted_values_go_back_as_they_came():
    sent = fields(auth.authorization(['Digest realm="a \\"quoted\\" realm, with comma", nonce="x"'], **SIP))
    assert sent["realm"] == 'a \\"quoted\\" realm, with comma'


@given(st.text() | st.from_regex(r'Digest ((realm|nonce|qop|algorithm)=("[^"]*"|\w*),? *)*.*'))
def test_nothing_raises(text):
    auth.authorization([text], **SIP)
