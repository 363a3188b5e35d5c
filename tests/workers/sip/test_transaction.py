"""The transaction machines with time in the test's hand (RFC 3261 section 17, RFC 6026)."""

import pytest

from workers.sip.message import Request, Response, respond
from workers.sip.timers import NEVER, Alarm, Timers
from workers.sip.transaction import (
    ENDED,
    TIMED_OUT,
    Deliver,
    InviteClient,
    InviteServer,
    PlainClient,
    PlainServer,
    Repeated2xx,
    Send,
    client_key,
    server_key,
)


def request(method="INVITE", via="SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKa", extra=()):
    message = Request(method, "sip:b@example.org")
    message.headers = [
        ("via", via),
        ("from", "<sip:a@x>;tag=1"),
        ("to", "<sip:b@y>"),
        ("call-id", "c"),
        ("cseq", f"7 {method}"),
    ]
    message.headers += extra
    return message


def answer(status, method="INVITE"):
    return respond(request(method), status, to_tag="t")


def run(machine, until):
    """Tick at every deadline up to `until`: [(time, action)]."""
    happened = []
    while machine.deadline <= until:
        now = machine.deadline
        actions = machine.tick(now)
        assert actions
        assert machine.deadline > now
        happened += [(now, action) for action in actions]
    return happened


def times(happened, kind=Send):
    return [when for when, action in happened if isinstance(action, kind)]


def test_invite_client_over_udp_repeats_with_doubling_and_gives_up_after_64_t1():
    machine = InviteClient(request(), reliable=False)
    (sent,) = machine.start(0.0)
    assert sent.data.startswith(b"INVITE")
    happened = run(machine, 100.0)
    assert times(happened) == [0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert happened[-2:] == [(32.0, TIMED_OUT), (32.0, ENDED)]


def test_invite_client_over_tcp_never_repeats():
    machine = InviteClient(request(), reliable=True)
    machine.start(0.0)
    assert run(machine, 100.0) == [(32.0, TIMED_OUT), (32.0, ENDED)]


def test_a_provisional_response_stops_repeating_and_waiting():
    machine = InviteClient(request(), reliable=False)
    machine.start(0.0)
    assert machine.receive(answer(100), 0.1)[0].response.status == 100
    assert machine.deadline == NEVER
    machine.cancelled(10.0)
    assert run(machine, 100.0) == [(42.0, TIMED_OUT), (42.0, ENDED)]


def test_a_refusal_is_acknowledged_and_its_repetitions_too():
    machine = InviteClient(request(extra=[("route", "<sip:p;lr>")]), reliable=False)
    machine.start(0.0)
    ack, delivered = machine.receive(answer(486), 1.0)
    assert isinstance(delivered, Deliver)
    text = ack.data.decode()
    assert text.startswith("ACK sip:b@example.org SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.1;branch=z9hG4bKa\r\n")
    assert "\r\nRoute: <sip:p;lr>\r\n" in text
    assert "\r\nTo: <sip:b@y>;tag=t\r\n" in text
    assert "\r\nCSeq: 7 ACK\r\n" in text
    assert machine.receive(answer(486), 1.5) == [ack]
    assert machine.receive(answer(200), 1.6) == []
    assert run(machine, 100.0) == [(33.0, ENDED)]
    assert machine.receive(answer(486), 40.0) == []


def test_a_refusal_over_tcp_ends_at_once():
    machine = InviteClient(request(), reliable=True)
    machine.start(0.0)
    assert machine.receive(answer(486), 1.0)[-1] is ENDED


def test_every_2xx_is_delivered_for_64_t1():
    machine = InviteClient(request(), reliable=False)
    machine.start(0.0)
    assert [type(action) for action in machine.receive(answer(200), 1.0)] == [Deliver]
    assert [type(action) for action in machine.receive(answer(200), 2.0)] == [Deliver]
    assert machine.receive(answer(180), 2.0) == []
    assert machine.receive(answer(486), 2.0) == []
    assert run(machine, 100.0) == [(33.0, ENDED)]


def test_plain_client_repeats_up_to_t2():
    machine = PlainClient(request("BYE"), reliable=False)
    machine.start(0.0)
    happened = run(machine, 100.0)
    assert times(happened) == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert happened[-2:] == [(32.0, TIMED_OUT), (32.0, ENDED)]


def test_plain_client_proceeding_repeats_every_t2():
    machine = PlainClient(request("BYE"), reliable=False)
    machine.start(0.0)
    machine.receive(answer(100, "BYE"), 0.2)
    assert times(run(machine, 12.0)) == [0.5, 4.5, 8.5]


def test_plain_client_absorbs_repetitions_for_t4():
    machine = PlainClient(request("BYE"), reliable=False)
    machine.start(0.0)
    assert [type(action) for action in machine.receive(answer(200, "BYE"), 1.0)] == [Deliver]
    assert machine.receive(answer(200, "BYE"), 2.0) == []
    assert run(machine, 100.0) == [(6.0, ENDED)]


def test_plain_client_may_give_up_sooner():
    machine = PlainClient(request("BYE"), reliable=False)
    machine.start(0.0)
    machine.give_up_by(5.0)
    assert run(machine, 100.0)[-2:] == [(5.0, TIMED_OUT), (5.0, ENDED)]


def test_invite_server_repeats_the_refusal_until_its_ack():
    machine = InviteServer(reliable=False)
    machine.respond(100, b"100", 0.0)
    assert machine.receive_again() == [Send(b"100")]
    machine.respond(486, b"486", 1.0)
    assert times(run(machine, 10.0)) == [1.5, 2.5, 4.5, 8.5]
    assert machine.receive_again() == [Send(b"486")]
    assert machine.respond(200, b"200", 10.0) == []
    assert machine.acknowledge(10.0) == []
    assert machine.receive_again() == []
    assert run(machine, 100.0) == [(15.0, ENDED)]


def test_invite_server_without_ack_times_out():
    machine = InviteServer(reliable=True)
    machine.respond(486, b"486", 0.0)
    assert run(machine, 100.0) == [(32.0, TIMED_OUT), (32.0, ENDED)]


def test_invite_server_absorbs_repetitions_after_a_2xx():
    machine = InviteServer(reliable=False)
    machine.respond(200, b"200", 0.0)
    assert machine.receive_again() == []
    assert run(machine, 100.0) == [(32.0, ENDED)]


@pytest.mark.parametrize(("reliable", "expected"), [(False, [(32.0, ENDED)]), (True, [])])
def test_plain_server_repeats_its_last_bytes(reliable, expected):
    machine = PlainServer(reliable=reliable)
    assert machine.receive_again() == []
    actions = machine.respond(200, b"200", 0.0)
    assert actions[0] == Send(b"200")
    assert (actions[-1] is ENDED) == reliable
    if not reliable:
        assert machine.receive_again() == [Send(b"200")]
    assert run(machine, 100.0) == expected


def test_the_2xx_is_repeated_over_any_transport_until_its_ack():
    machine = Repeated2xx(b"200", 0.0)
    happened = run(machine, 100.0)
    assert times(happened) == [0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert happened[-2:] == [(32.0, TIMED_OUT), (32.0, ENDED)]
    machine = Repeated2xx(b"200", 0.0)
    machine.acknowledge()
    assert machine.deadline == NEVER


def test_keys():
    invite = request()
    assert server_key(invite) == server_key(request("ACK"))
    assert server_key(invite) != server_key(request("CANCEL"))
    assert server_key(invite) == server_key(request(via="SIP/2.0/UDP 10.0.0.1:5060;branch=z9hG4bKa;rport"))
    assert server_key(invite) != server_key(request(via="SIP/2.0/UDP 10.0.0.2;branch=z9hG4bKa"))
    old = request(via="SIP/2.0/UDP 10.0.0.1;branch=1")
    assert server_key(old) == server_key(request("ACK", via="SIP/2.0/UDP 10.0.0.1;branch=2"))
    response = Response(200, "OK")
    response.headers = list(invite.headers)
    assert client_key(response) == ("z9hG4bKa", "INVITE")


def test_timers_wake_in_order_and_forget_what_was_moved():
    timers = Timers()
    woken = []
    alarms = {name: Alarm(lambda name=name: woken.append(name)) for name in "abc"}
    for name, deadline in {"a": 3.0, "b": 1.0, "c": 2.0}.items():
        alarms[name].deadline = deadline
        timers.watch(alarms[name])
    assert timers.next_deadline == 1.0
    alarms["c"].deadline = NEVER  # disarmed
    alarms["b"].deadline = 5.0  # later
    alarms["a"].deadline = 0.5  # earlier
    timers.watch(alarms["a"])
    for now in (0.4, 0.5, 4.0, 5.0):
        for alarm in timers.due(now):
            alarm.expire(now)
        woken.append(now)
    assert woken == [0.4, "a", 0.5, 4.0, "b", 5.0]
    assert timers.next_deadline == NEVER
