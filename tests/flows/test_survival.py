"""`kill -9` of every process but the master while calls are up: design.md §2, issue point 8.

Sixty calls in rooms of three, each phone with a tone of its own place in the room; silence is measured in what the
phones received. Own servers: these tests kill.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.flows.tools.events import Vsi
from tests.flows.tools.house import CALLS, TONES, House, answering_again, until_gone, user_of
from tests.flows.tools.phone import Phone
from tests.flows.tools.sip import parse_sdp

pytestmark = pytest.mark.flow


async def test_a_killed_room_is_mixed_again_within_100_ms(house: Callable) -> None:
    made = await house()
    at_s = await made.kill("roomtone: room room-3")
    await made.everyone_hears_the_others()
    assert made.gap_ms(at_s, among=lambda i: made.room_of(i) == "room-3") <= 100
    assert made.gap_ms(at_s, among=lambda i: made.room_of(i) != "room-3") <= 40
    await made.still_works()
    await made.stop()


async def test_a_room_that_dies_three_times_ends_alone(house: Callable) -> None:
    made = await house(calls=6)
    for death in (1, 2, 3):
        made.server.slay("roomtone: room room-0")
        if death < 3:
            await made.everyone_hears_the_others()
    for i in range(3):
        gone = await made.vsi.wait("leg.disconnected", leg_id=made.legs[i])
        assert gone["cdr"]["reason"] == "mixer_panic"
        assert await made.calls[i].ended() == "bye"
    await made.vsi.wait("room.deleted", room_id="room-0")
    await made.everyone_hears_the_others()
    await made.stop()


async def test_a_hung_room_is_replaced(house: Callable) -> None:
    """design.md §2: a stats row that stands still for 1 s gets its process killed and restarted."""
    made = await house(calls=3)
    made.server.only("roomtone: room room-0").suspend()
    await asyncio.sleep(1.0)
    await made.everyone_hears_the_others(within_s=5)
    await made.still_works()
    await made.stop()


async def test_a_killed_control_knows_everything_again(house: Callable) -> None:
    made = await house()
    await made.rest.room("empty", app_id="kept", sample_rate=8000)
    await made.rest.post(f"/legs/{made.legs[0]}/mute")
    rooms, legs = await made.rest.everything()
    at_s = await made.kill("roomtone: control", meanwhile=made.calls[-1].hang_up())
    await answering_again(made.rest)
    assert made.gap_ms(at_s, among=lambda i: i not in (0, 1, 2, CALLS - 1, CALLS - 2, CALLS - 3)) <= 40
    async with Vsi(made.server.base) as vsi:
        rooms_after, legs_after = await until_gone(made, made.legs[-1])
        assert without(rooms, made.legs[-1]) == rooms_after
        assert [leg for leg in legs if leg["id"] != made.legs[-1]] == legs_after
        assert (await made.rest.get("/rooms/empty"))["app_id"] == "kept"
        assert len(vsi.all("leg.disconnected", leg_id=made.legs[-1])) <= 1
        made.vsi = vsi
        made.legs, made.calls = made.legs[:-1], made.calls[:-1]
        await made.rest.delete(f"/legs/{made.legs[0]}/mute")
        made.legs, made.calls = made.legs[:-2], made.calls[:-2]  # the last room lost one of its voices
        await made.everyone_hears_the_others()
        await made.still_works()
        await made.rest.delete(f"/legs/{made.legs[1]}", expect=202)
        assert await made.calls[1].ended() == "bye"
    await made.stop()


def without(rooms: list[dict], leg_id: str) -> list[dict]:
    return [r | {"participants": [p for p in r["participants"] if p["id"] != leg_id]} for r in rooms]


async def test_killed_sip_keeps_confirmed_calls_and_their_dialogs(house: Callable) -> None:
    made = await house()
    ringing = await ringing_call(made)
    at_s = await made.kill("roomtone: sip")
    gone = await made.vsi.wait("leg.disconnected", leg_id=ringing)
    assert gone["cdr"]["reason"] in ("server_error", "invite_failed")
    assert made.gap_ms(at_s) <= 40
    held, by_us, by_them, moved = 0, 3, 6, 9
    await made.rest.post(f"/legs/{made.legs[held]}/hold", expect=202)
    await made.vsi.wait("leg.hold", leg_id=made.legs[held])
    invite = made.calls[held].received.matching(lambda m: m.method == "INVITE")[-1]
    assert invite.cseq[0] > 100
    assert parse_sdp(invite.body).direction == "sendonly"
    await made.rest.delete(f"/legs/{made.legs[held]}/hold", expect=202)
    await made.vsi.wait("leg.unhold", leg_id=made.legs[held])
    assert (await made.calls[moved].reinvite(direction="sendonly")).status == 200
    await made.vsi.wait("leg.hold", leg_id=made.legs[moved])
    assert (await made.calls[moved].reinvite()).status == 200
    await made.everyone_hears_the_others()
    await made.still_works()
    await made.rest.delete(f"/legs/{made.legs[by_us]}", expect=202)
    assert await made.calls[by_us].ended() == "bye"
    assert (await made.calls[by_them].hang_up()).status == 200
    gone = await made.vsi.wait("leg.disconnected", leg_id=made.legs[by_them])
    assert gone["cdr"]["reason"] == "remote_bye"
    await made.stop()


async def test_what_phones_ask_while_sip_is_away_is_answered_when_it_is_back(house: Callable) -> None:
    """The second death within ten seconds is followed by a pause, so their requests wait for a process that first knows nothing."""
    made = await house(calls=6)
    for _ in range(2):
        before = made.server.only("roomtone: sip")
        before.kill()
        answers = await asyncio.gather(*(call.reinvite() for call in made.calls))
        assert [answer.status for answer in answers] == [200] * 6
    await made.everyone_hears_the_others()
    await made.stop()


@pytest.mark.parametrize("other", ["sip", "zygote"])
async def test_control_and_another_die_together_and_calls_go_on(other: str, house: Callable) -> None:
    """With the zygote all channels are gone: every worker leaves and is made anew."""
    made = await house(calls=6)
    for victim in [made.server.only(f"roomtone: {name}") for name in (other, "control")]:
        victim.kill()
    await answering_again(made.rest)
    await made.everyone_hears_the_others()
    assert (await made.calls[0].hang_up()).status == 200
    await made.rest.delete(f"/legs/{made.legs[1]}", expect=202)
    assert await made.calls[1].ended() == "bye"
    async with Vsi(made.server.base) as vsi:
        made.vsi, made.legs, made.calls = vsi, made.legs[2:], made.calls[2:]
        assert (await made.calls[0].reinvite(direction="sendonly")).status == 200
        await made.vsi.wait("leg.hold", leg_id=made.legs[0])
    await made.stop()


async def ringing_call(made: House) -> str:
    phone = await Phone("ringing").__aenter__()
    made.exchange.spawn(close_later(phone))
    leg_id = await made.rest.dial(phone.uri)
    (await phone.called()).ring()
    return leg_id


async def close_later(phone: Phone) -> None:
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        await phone.__aexit__()


@pytest.mark.parametrize("rtp_io", ["uring", "epoll"])
async def test_killed_rtp_goes_on_with_ports_ssrc_and_sequence(rtp_io: str, house: Callable) -> None:
    made = await house(RTP_IO=rtp_io, RTP_WORKERS="2")
    before = [(c.media.remote, c.media.packets[-1].ssrc) for c in made.calls]
    at_s = await made.kill("roomtone: rtp 0")
    await made.everyone_hears_the_others()
    after = [(c.media.remote, c.media.packets[-1].ssrc) for c in made.calls]
    assert after == before
    for call in made.calls:
        heard = call.media.recorded(since_s=at_s - 0.5)
        assert heard.lost <= 15, "the sequence numbers jumped"
    gap_ms = made.gap_ms(at_s)
    assert gap_ms <= 300, f"audio was away for {gap_ms:.0f} ms"
    await made.still_works()
    await made.stop()


async def test_a_killed_zygote_is_replaced_and_calls_notice_nothing(house: Callable) -> None:
    made = await house()
    at_s = await made.kill("roomtone: zygote")
    assert made.gap_ms(at_s) <= 40
    await made.still_works()
    before = len(made.exchange.calls)
    await made.rest.dial(made.exchange.uri, room_id="born later")
    await made.rest.dial(made.exchange.uri.replace("exchange", "0"), room_id="born later")
    listener = await made.exchange.calls.first(
        lambda c: user_of(c) == "exchange", after=before, named="call into the new room"
    )
    await listener.media.settled({TONES[0]})
    await made.kill("roomtone: room born later")
    await listener.media.settled({TONES[0]})
    held = descriptors(made.server.only("roomtone: zygote"))
    workers = len(made.server.titled("roomtone: ")) - 3  # but master, control and itself
    assert sum("pidfd" in target for target in held) == workers, "it keeps its predecessor's"
    assert not [target for target in held if "gunicorn" in target], "it keeps what is the master's"
    await made.stop()


def descriptors(process: psutil.Process) -> list[str]:
    """What each of them is, as the kernel names it."""
    return [str(entry.readlink()) for entry in Path(f"/proc/{process.pid}/fd").iterdir()]


async def test_every_process_in_turn(house: Callable) -> None:
    made = await house(calls=12, RTP_WORKERS="1")
    for title in ("roomtone: zygote", "roomtone: sip", "roomtone: rtp 0", "roomtone: room room-1", "roomtone: control"):
        made.server.slay(title)
        await answering_again(made.rest)
        await made.everyone_hears_the_others()
    async with Vsi(made.server.base) as vsi:
        made.vsi = vsi
        await made.still_works()
    await made.stop()


async def test_shared_rooms_survive_their_worker(house: Callable) -> None:
    made = await house(ROOM_PLACEMENT="shared", ROOM_SHARED_WORKERS="1")
    at_s = await made.kill("roomtone: room")
    await made.everyone_hears_the_others()
    assert made.gap_ms(at_s) <= 100
    await made.still_works()
    await made.stop()
