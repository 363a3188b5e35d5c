import pytest

from app.api.body import shape_request
from app.legs.requests import CreateLeg, check_digits, check_new_leg
from shm.errors import CallerError

GOOD = {"type": "sip", "to": "sip:bob@192.0.2.1"}


def check(**fields):
    check_new_leg(shape_request(GOOD | fields, CreateLeg))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"type": "sip_outbound"},
        {"to": "", "uri": "sip:bob@example.org"},
        {"to": "SIPS:bob@example.org;transport=tls"},
        {"to": "sip:bob@[2001:db8::1]:5070"},
        {"to": "sip:192.0.2.1"},
        {"codecs": ["G722", "opus", "AMR-WB"]},
        {"headers": {"X-Any": "1", "Session-Expires": "90", "User-Agent": "me", "Supported": "timer"}},
        {"ring_timeout": 0, "max_duration": 4.0, "amd": None, "rtt": False, "streams": []},
        {"auth": {"username": "u", "password": "p"}},
        {"outbound_proxy": "sip:192.0.2.7;lr"},
    ],
)
def test_accepted(fields):
    check(**fields)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"type": ""}, 400),
        ({"type": "fax"}, 400),
        ({"to": ""}, 400),
        ({"to": "bob"}, 400),
        ({"to": "+4930123"}, 400),
        ({"to": "sip:bob@host:99999"}, 400),
        ({"to": "sip:bob@host:0"}, 400),
        ({"to": "sip:bob@ho st"}, 400),
        ({"to": "sip:bob@host\r\nX: y"}, 400),
        ({"codecs": ["PCMX"]}, 400),
        ({"codecs": "PCMU"}, 400),
        ({"outbound_proxy": "tel:1"}, 400),
        ({"room_id": "r" * 1025}, 400),
        ({"from": "a\r\nb"}, 400),
        ({"privacy": "id\r\nX: y"}, 400),
        ({"headers": {"X-A": "1\r\nVia: x"}}, 400),
        ({"headers": {"X A": "1"}}, 400),
        ({"headers": {"Call-ID": "1"}}, 400),
        ({"headers": {"v": "1"}}, 400),
        ({"headers": {"Content-Type": "x"}}, 400),
        ({"headers": {"X-A": 1}}, 400),
        ({"auth": {"password": "p"}}, 400),
        ({"ring_timeout": "3"}, 400),
        ({"ring_timeout": 1.5}, 400),
        ({"type": "websocket"}, 501),
        ({"type": "whatsapp"}, 501),
        ({"amd": {}}, 501),
        ({"rtt": True}, 501),
        ({"streams": [{}]}, 501),
    ],
)
def test_refused(fields, status):
    with pytest.raises(CallerError) as caught:
        check(**fields)
    assert caught.value.status == status


def test_digits():
    assert check_digits("12ab*#") == "12AB*#"
    for digits in ("", "1 2", "E", "1,2"):
        with pytest.raises(CallerError):
            check_digits(digits)
