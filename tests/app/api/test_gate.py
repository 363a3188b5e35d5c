from ipaddress import ip_network

import pytest
from falcon import testing

from app.api.gate import Gate, canonical_path
from app.config import parse_networks
from tests.app.api.fake import make_api


def admits(networks, client, forwarded=None, *, trusts_proxy=True):
    gate = Gate(parse_networks(networks), trusts_proxy=trusts_proxy)
    headers = [] if forwarded is None else [(b"x-forwarded-for", forwarded)]
    return gate.admits({"client": client, "headers": headers})


@pytest.mark.parametrize(
    ("networks", "client", "admitted"),
    [
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "::ffff:10.1.2.3", True),
        ("::ffff:10.0.0.0/104", "10.1.2.3", True),
        ("::ffff:10.0.0.7", "10.0.0.7", True),
        ("192.0.2.1, 2001:db8::/32", "2001:db8::5", True),
        ("fe80::/10", "fe80::1%eth0", True),
        ("0.0.0.0/0", "2001:db8::5", False),
    ],
)
def test_addresses(networks, client, admitted):
    assert admits(networks, (client, 1234)) is admitted


@pytest.mark.parametrize(
    ("forwarded", "admitted"),
    [
        (None, True),
        (b"10.0.0.1", True),
        (b" 10.0.0.1 , 8.8.8.8", True),
        (b"8.8.8.8, 10.0.0.1", False),
        (b"unknown", False),
        (b"", False),
        (b"10.0.0.1:80", False),
    ],
)
def test_forwarded_address_counts_where_the_proxy_is_trusted(forwarded, admitted):
    assert admits("10.0.0.0/8", ("10.9.9.9", 1), forwarded) is admitted
    assert admits("10.0.0.0/8", ("10.9.9.9", 1), forwarded, trusts_proxy=False)


def test_a_socket_without_peer_is_on_no_list():
    assert not admits("0.0.0.0/0", None)


@pytest.mark.parametrize("path", ["/v1/rooms", "/metrics", "/nowhere"])
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_refused_before_anything_else(method, path):
    app, _fake = make_api(allowed="192.0.2.0/24")
    reply = testing.TestClient(app).simulate_request(method, path)
    assert (reply.status_code, reply.text) == (403, '{"instance_id":"test","error":"forbidden"}\n')


def test_admitted_by_the_list():
    app, _fake = make_api(allowed="127.0.0.0/8")
    assert testing.TestClient(app).simulate_get("/v1/rooms", remote_addr="127.0.0.9").status_code == 200


def test_paths_of_absolute_requests():
    assert canonical_path(b"http://host:80/v1/rooms") == "/v1/rooms"


def test_networks_are_what_config_makes():
    assert parse_networks("::ffff:10.0.0.0/104") == (ip_network("10.0.0.0/8"),)
