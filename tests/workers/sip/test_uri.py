"""Tests of workers/sip/uri.py."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.sip.uri import NameAddr, Uri, parse_host_port, parse_params, split_list


@pytest.mark.parametrize(
    ("text", "user", "host", "port"),
    [
        ("sip:alice@example.com", "alice", "example.com", None),
        ("sip:example.com", "", "example.com", None),
        ("SIPS:alice:secret@[2001:db8::1]:5061;transport=tcp?Subject=x%20y", "alice", "2001:db8::1", 5061),
        ("sip:user;par=u%40example.net@example.com", "user;par=u%40example.net", "example.com", None),
        ("sip:+1-202-555?x@127.0.0.1:5060;lr;maddr=1.2.3.4", "+1-202-555?x", "127.0.0.1", 5060),
        ("tel:+4930123;phone-context=de", "+4930123;phone-context=de", "", None),
    ],
)
def test_parts_are_read_and_written_back(text, user, host, port):
    uri = Uri.parse(text)
    assert (uri.user, uri.host, uri.port) == (user, host, port)
    assert str(uri) == text.replace("SIPS:", "sips:")
    assert Uri.parse(str(uri)) == uri


@pytest.mark.parametrize(
    "text",
    [
        *("", "alice", "sip:", "sip:@example.com", "sip:a@", "sip:a@b@c", "sip:a@example.com:0", "sip:a@h:99999"),
        *(
            "sip:a@h:65536",
            "sip:a@h:-1",
            "sip:a@h:",
            "sip:a@[::1",
            "sip:a b@h",
            "sip:a@h\r\nVia: x",
            "sip:a@h>",
            "<sip:a@h>",
        ),
        *("sip:a@h:٥٠٦٠", "sip:a@ho st", "sip:a@h" + ";p" * 66),
    ],
)
def test_nonsense_is_refused(text):
    with pytest.raises(ValueError, match=r".+"):
        Uri.parse(text)


def test_escapes_are_resolved_for_people_only():
    uri = Uri.parse("sip:%75ser%FF@h")
    assert (uri.user, uri.user_text, str(uri)) == ("%75ser%FF", "user\ufffd", "sip:%75ser%FF@h")


@pytest.mark.parametrize(
    ("text", "transport"),
    [
        ("sip:h", ""),
        ("sip:h;transport=TCP", "tcp"),
        ("sips:h", "tls"),
        ("sips:h;transport=tcp", "tls"),
        ("sip:h;transport", ""),
    ],
)
def test_transport(text, transport):
    assert Uri.parse(text).transport == transport


@pytest.mark.parametrize(
    ("text", "display", "uri", "params"),
    [
        ('"A \\"B\\", C" <sip:a@h;x=1>;tag=t;q="0;5"', 'A "B", C', "sip:a@h;x=1", {"tag": "t", "q": "0;5"}),
        ("Bell, Alexander <sip:a@h>", "Bell, Alexander", "sip:a@h", {}),
        ("caller<sip:a@h> ; TAG = t", "caller", "sip:a@h", {"tag": "t"}),
        ("sip:a@h;tag=t", "", "sip:a@h", {"tag": "t"}),
        ("< sip:a@h >", "", "sip:a@h", {}),
    ],
)
def test_addresses(text, display, uri, params):
    address = NameAddr.parse(text)
    assert (address.display, str(address.uri), address.params) == (display, uri, params)
    assert NameAddr.parse(str(address)) == address


@pytest.mark.parametrize(
    "text", ['"open <sip:a@h>', "<sip:a@h", "sip:a@h>", "<sip:a@h> x", "*", "", "<>", '"a"', "<sip:a@h><sip:b@h>"]
)
def test_bad_addresses_are_refused(text):
    with pytest.raises(ValueError, match=r".+"):
        NameAddr.parse(text)


def test_lists_and_parameters():
    assert split_list('"a,b" <sip:x,y@h>;p="1,2", <sip:z@h>,') == ['"a,b" <sip:x,y@h>;p="1,2"', "<sip:z@h>", ""]
    assert parse_params(';A=1; b ;c="x;\\"y" ;a=2;;') == {"a": "1", "b": None, "c": 'x;"y'}
    assert parse_host_port("[::1]:5060") == ("::1", 5060)


@given(st.text())
def test_any_text_is_parsed_or_a_value_error(text):
    for parse in (
        Uri.parse,
        NameAddr.parse,
        parse_params,
        parse_host_port,
        split_list,
        lambda t: Uri.parse("sip:" + t),
    ):
        with contextlib.suppress(ValueError):
            parse(text)
