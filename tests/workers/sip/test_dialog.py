"""Dialog state and session timers (RFC 3261 section 12, RFC 4028)."""

import pytest

from shm import messages as wire
from workers.sip.dialog import Dialog, SessionTimer, parse_session_expires, without_tag
from workers.sip.message import MessageError, Request, respond


def invite(contact="<sip:a@10.0.0.1:5070>", routes=(), extra=()):
    message = Request("INVITE", "sip:b@example.org")
    message.headers = [
        ("via", "SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKa"),
        ("from", '"A" <sip:a@x>;tag=f'),
        ("to", "<sip:b@y>"),
        ("call-id", "c"),
        ("cseq", "7 INVITE"),
        *(("record-route", route) for route in routes),
        *extra,
    ]
    if contact:
        message.add("contact", contact)
    return message


def test_called():
    dialog = Dialog.called(invite(routes=["<sip:p1;lr>", "<sip:p2;lr>"]), "t")
    assert dialog.key == ("c", "t", "f")
    assert dialog.next_hop() == "sip:p1;lr"
    bye = dialog.request("BYE")
    assert bye.uri == "sip:a@10.0.0.1:5070"
    assert bye.all("route") == ["<sip:p1;lr>", "<sip:p2;lr>"]
    assert (bye.get("from"), bye.get("to")) == ("<sip:b@y>;tag=t", '"A" <sip:a@x>;tag=f')
    assert bye.cseq == (1, "BYE")
    assert dialog.request("BYE").cseq == (2, "BYE")


def test_calling_reverses_the_route_and_takes_the_contact():
    request = invite()
    response = respond(request, 200, to_tag="t")
    response.headers += [
        ("record-route", "<sip:p1;lr>"),
        ("record-route", "<sip:p2;lr>"),
        ("contact", "<sip:b@10.0.0.9>"),
    ]
    dialog = Dialog.calling(request, response)
    assert dialog.key == ("c", "f", "t")
    assert dialog.route_set == ("<sip:p2;lr>", "<sip:p1;lr>")
    ack = dialog.acknowledge(7)
    assert (ack.uri, ack.cseq) == ("sip:b@10.0.0.9", (7, "ACK"))
    assert dialog.request("BYE").cseq[0] == 8


def test_a_strict_router_gets_itself_as_request_uri():
    dialog = Dialog.called(invite(routes=["<sip:strict>", "<sip:p2;lr>"]), "t")
    bye = dialog.request("BYE")
    assert bye.uri == "sip:strict"
    assert bye.all("route") == ["<sip:p2;lr>", "<sip:a@10.0.0.1:5070>"]


@pytest.mark.parametrize("contact", ["", "*", "nonsense", "<tel:123>", "<sip:a@host:99999>"])
def test_no_usable_contact(contact):
    with pytest.raises(MessageError) as refusal:
        Dialog.called(invite(contact), "t")
    assert refusal.value.status == 400


def test_requests_must_come_in_order():
    dialog = Dialog.called(invite(), "t")
    message = invite()
    for number, accepted in ((7, False), (8, True), (8, False), (20, True), (19, False)):
        message.set("cseq", f"{number} INVITE")
        assert dialog.accepts(message) is accepted


def test_the_target_follows():
    dialog = Dialog.called(invite(), "t")
    dialog.refresh_target(invite("<sip:a@10.0.0.2>"))
    assert dialog.remote_target == "sip:a@10.0.0.2"
    dialog.refresh_target(invite("<garbage"))
    assert dialog.remote_target == "sip:a@10.0.0.2"


@pytest.mark.parametrize("is_caller", [True, False])
def test_delay_after_glare(is_caller):
    dialog = Dialog("c", "l", "r")
    dialog.is_caller = is_caller
    delays = [dialog.retry_delay_s() for _ in range(300)]
    low, high = (2.1, 4.0) if is_caller else (0.0, 2.0)
    assert low <= min(delays) < max(delays) <= high


def test_restored_goes_on_a_hundred_later():
    dialog = Dialog.called(invite(routes=["<sip:p1;lr>"]), "t")
    dialog.request("BYE")
    saved = wire.Dialog(leg_id="x", **dialog.fields())
    again = Dialog.restored(saved)
    assert again.local_cseq == 101
    assert (again.key, again.route_set, again.remote_cseq) == (dialog.key, dialog.route_set, 7)


def test_what_is_saved_is_utf8():
    message = invite()
    message.set("from", "\udcff <sip:a@x>;tag=f")
    assert Dialog.called(message, "t").fields()["remote_uri"].encode() == b"\xef\xbf\xbd <sip:a@x>"


def test_without_tag():
    assert without_tag("<sip:a@x>;tag=1") == "<sip:a@x>"
    assert without_tag('"a;tag=b" <sip:a@x;y=z>;q="1;2";TAG=1') == '"a;tag=b" <sip:a@x;y=z>;q="1;2"'
    assert without_tag("sip:a@x;tag=1") == "sip:a@x"


def test_session_expires():
    assert parse_session_expires("1800;refresher=UAS") == (1800, "uas")
    assert parse_session_expires(" 90 ") == (90, "")
    assert parse_session_expires("-5;refresher=me") == (0, "")
    assert parse_session_expires("") == (0, "")


def asked(value, supported="timer"):
    timer = SessionTimer()
    headers = [("session-expires", value)] if value else []
    if supported:
        headers.append(("supported", supported))
    return timer, dict(timer.asked(invite(extra=headers), 1000.0))


def test_the_peer_asks():
    timer, headers = asked("1800")
    assert headers == {"session-expires": "1800;refresher=uac", "supported": "timer", "require": "timer"}
    assert (timer.refresh_at, timer.expires_at) == (float("inf"), 2832.0)
    timer, headers = asked("1800;refresher=uas")
    assert headers == {"session-expires": "1800;refresher=uas", "supported": "timer"}
    assert timer.refresh_at == 1900.0
    timer, headers = asked("")
    assert (headers, timer.expires_at) == ({}, float("inf"))
    timer, headers = asked("30", supported="")
    assert headers == {"session-expires": "90;refresher=uac"}


def test_too_small():
    timer = SessionTimer()
    assert timer.too_small(invite(extra=[("session-expires", "89"), ("supported", "timer")]))
    assert not timer.too_small(invite(extra=[("session-expires", "90"), ("supported", "timer")]))
    assert not timer.too_small(invite(extra=[("session-expires", "60")]))


@pytest.mark.parametrize(
    ("answer", "asked_s", "interval_s", "is_ours"),
    [
        ("", 0, 0, True),
        ("", 600, 600, True),
        ("600;refresher=uas", 600, 600, False),
        ("300", 0, 300, True),
        ("1", 0, 90, True),
        ("1", 4, 4, True),
    ],
)
def test_the_peer_answers(answer, asked_s, interval_s, is_ours):
    timer = SessionTimer()
    response = respond(invite(), 200, to_tag="t")
    if answer:
        response.add("session-expires", answer)
    timer.answered(response, asked_s, 50.0)
    assert (timer.interval_s, timer.is_ours) == (interval_s, is_ours)
