"""Digits: received once each, sent by the book, relayed to the others of the room (media.md §7.4)."""

from __future__ import annotations

import asyncio
import struct
from itertools import groupby, pairwise

import pytest

from tests.flows.conftest import Phones
from tests.flows.tools.events import Vsi
from tests.flows.tools.rest import Rest
from tests.flows.tools.rtp import Packet

pytestmark = pytest.mark.flow


async def digits_of(vsi: Vsi, leg_id: str, count: int) -> list[tuple[str, int]]:
    await vsi.events.first(lambda _: len(vsi.all("dtmf.received", leg_id=leg_id)) >= count, named=f"{count} digits")
    return [(e["digit"], e["seq"]) for e in vsi.all("dtmf.received", leg_id=leg_id)]


async def test_each_digit_is_reported_once(rest: Rest, phones: Phones, vsi: Vsi) -> None:
    leg_id, call = await phones.dialled(rest)
    await call.media.dtmf("159*0#D", tone_ms=60)
    expected = [(digit, i + 1) for i, digit in enumerate("159*0#D")]
    assert await digits_of(vsi, leg_id, 7) == expected
    await call.media.listen(0.2)
    assert len(vsi.all("dtmf.received", leg_id=leg_id)) == 7


async def test_a_digit_whose_ends_are_lost_counts_when_the_next_begins(rest: Rest, phones: Phones, vsi: Vsi) -> None:
    leg_id, call = await phones.dialled(rest)
    await call.media.dtmf("1", ends=0)
    await call.media.dtmf("2")
    assert await digits_of(vsi, leg_id, 2) == [("1", 1), ("2", 2)]


async def test_digits_are_sent_by_the_book(rest: Rest, phones: Phones) -> None:
    leg_id, call = await phones.dialled(rest)
    await call.media.listen(0.1)
    assert (await rest.post(f"/legs/{leg_id}/dtmf", {"digits": "5b#"}))["status"] == "sent"
    await wait_for_digits(call.media, "5B#")
    number = call.media.event_payload_type
    events = [p for p in call.media.packets if p.payload_type == number]
    last_end_s = 0.0
    for _, run in groupby(events, key=lambda p: p.timestamp):
        packets = list(run)
        ends = [p for p in packets if is_end(p)]
        assert (len(packets), len(ends)) == (7, 3)
        assert [p.marker for p in packets] == [True, *[False] * 6]
        durations = [struct.unpack_from("!H", p.payload, 2)[0] for p in packets]
        assert durations[:4] == [160, 320, 480, 640]
        assert len(set(durations[4:])) == 1
        assert all(p.payload[1] & 0x3F == 10 for p in packets)
        assert packets[0].arrived_s - last_end_s >= 0.055, "digits run into each other"
        last_end_s = packets[-1].arrived_s
    numbers = [p.sequence for p in call.media.packets]
    assert all((b - a) & 0xFFFF == 1 for a, b in pairwise(numbers))


def is_end(packet: Packet) -> bool:
    return bool(packet.payload[1] & 0x80)


async def wait_for_digits(media, digits: str) -> None:
    for _ in range(50):
        if media.digits == digits:
            return
        await media.listen(0.06)
    raise AssertionError(f"received {media.digits!r} instead of {digits!r}")


async def test_digits_reach_the_others_who_accept_them(rest: Rest, phones: Phones, vsi: Vsi) -> None:
    (sender_id, sender), (_, willing), (unwilling_id, unwilling), (_, elsewhere) = await asyncio.gather(
        phones.dialled(rest, name="sender", fields={"room_id": "dtmf"}),
        phones.dialled(rest, name="willing", fields={"room_id": "dtmf"}),
        phones.dialled(rest, name="unwilling", fields={"room_id": "dtmf", "accept_dtmf": False}),
        phones.dialled(rest, name="elsewhere", fields={"room_id": "other"}),
    )
    await rest.post(f"/legs/{sender_id}/dtmf/reject")
    await sender.media.dtmf("42")
    await wait_for_digits(willing.media, "42")
    assert (unwilling.media.digits, elsewhere.media.digits, sender.media.digits) == ("", "", "")
    assert [e["leg_id"] for e in vsi.all("dtmf.received")] == [sender_id] * 2
    assert (await rest.post(f"/legs/{unwilling_id}/dtmf/accept"))["status"] == "dtmf_accepting"
    assert (await rest.leg(unwilling_id))["accept_dtmf"] is True
    await sender.media.dtmf("7")
    await asyncio.gather(wait_for_digits(willing.media, "427"), wait_for_digits(unwilling.media, "7"))
    assert (await rest.post(f"/legs/{unwilling_id}/dtmf/reject"))["status"] == "dtmf_rejecting"
    assert (await rest.leg(unwilling_id))["accept_dtmf"] is False


async def test_info_is_not_dtmf(rest: Rest, phones: Phones, vsi: Vsi) -> None:
    leg_id, call = await phones.dialled(rest)
    answer = await call.send(
        "INFO", headers=[("Content-Type", "application/dtmf-relay")], body="Signal=5\r\nDuration=160\r\n"
    )
    assert answer.status == 405
    assert "INVITE" in answer.get("Allow")
    await call.media.listen(0.1)
    assert not vsi.all("dtmf.received", leg_id=leg_id)


async def test_what_cannot_be_sent(rest: Rest, phones: Phones) -> None:
    leg_id, call = await phones.dialled(rest)
    await rest.post("/legs/unknown/dtmf", {"digits": "1"}, expect=404)
    for body in ({}, {"digits": ""}, {"digits": "1E"}, {"digits": "1 2"}, {"digits": 5}):
        await rest.post(f"/legs/{leg_id}/dtmf", body, expect=400)
    phone = await phones.new("ringing")
    ringing = await rest.dial(phone.uri)
    (await phone.called()).ring()
    await rest.post(f"/legs/{ringing}/dtmf", {"digits": "1"}, expect=409)
    await call.media.listen(0.1)
    assert call.media.digits == ""
