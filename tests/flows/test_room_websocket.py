"""Rooms by WebSocket: clients are in the mix with phones and with each other (contract rooms.md A20, media.md section 3)."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import aiohttp
import numpy as np
import pytest
import soundfile
from websockets.exceptions import InvalidStatus

from tests.flows.conftest import Phones
from tests.flows.tools.codecs import sine
from tests.flows.tools.events import Vsi
from tests.flows.tools.house import answering_again
from tests.flows.tools.nginx import in_front_of
from tests.flows.tools.recording import Recording
from tests.flows.tools.rest import Rest
from tests.flows.tools.room_client import RoomClient
from tests.flows.tools.server import Server
from tests.flows.tools.spectrum import HEARD_DB, level_db, tones
from tests.vendors.pipecat import Pipecat

pytestmark = pytest.mark.flow

UPGRADE = (
    "Host: here\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def clients_of(server: Server) -> float:
    return (await server.metrics())["roomtone_room_sockets"]


async def emptied(server: Server, *, of: float = 0, within_s: float = 10.0) -> None:
    """Wait until no more than `of` clients are left."""
    async with asyncio.timeout(within_s):
        while await clients_of(server) > of:  # noqa: ASYNC110 - a gauge announces nothing
            await asyncio.sleep(0.05)


def share_with(tone_hz: float, heard: Recording) -> float:
    """Of its frames, how many hold the tone."""
    frames = heard.audio.reshape(-1, heard.rate_hz // 50)
    return sum(level_db(frame, heard.rate_hz, tone_hz) > HEARD_DB for frame in frames) / len(frames)


# --- who hears whom ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate_hz", [8000, 16000, 48000])
async def test_a_client_and_a_phone_hear_each_other(
    rate_hz: int, server: Server, rest: Rest, vsi: Vsi, phones: Phones
) -> None:
    await rest.room("r", sample_rate=rate_hz)
    leg_id, phone = await phones.dialled(rest, tone_hz=440, fields={"room_id": "r"})
    before = len(vsi.events)
    async with RoomClient(server.base, "r", tone_hz=660) as client:
        assert re.fullmatch("ws-[0-9a-f]{8}", client.participant_id)
        assert client.connected == {
            "type": "connected",
            "participant_id": client.participant_id,
            "sample_rate": rate_hz,
            "format": "pcm_s16le",
        }
        await client.settled({440}, not_={660})
        await phone.media.settled({660}, not_={440})
        assert {frame.size for frame in client.heard} == {rate_hz // 50}
        assert [leg["id"] for leg in (await rest.get("/rooms/r"))["participants"]] == [leg_id]
    await phone.media.settled(not_={660})
    assert vsi.events[before:] == []


async def test_clients_alone_hear_each_other_and_keep_the_room_going(server: Server, rest: Rest, vsi: Vsi) -> None:
    room_id = "a room/with ☎ and %2F"
    await rest.room(room_id)
    path = RoomClient(server.base, room_id).path
    await rest.post(f"{path}/play", {"tone": "jp_dial"}, expect=409)
    async with (
        RoomClient(server.base, room_id, tone_hz=440) as alice,
        RoomClient(server.base, room_id, tone_hz=660) as bob,
    ):
        await alice.settled({660}, not_={440})
        await bob.settled({440}, not_={660})
        playback_id = (await rest.post(f"{path}/play", {"tone": "jp_dial"}))["playback_id"]
        await asyncio.gather(alice.settled({660, 400}), bob.settled({440, 400}))
        assert (await rest.get(path))["participants"] == []
        await bob.send(type="stop")
        await alice.settled({400}, not_={660})
        assert not vsi.all("playback.finished")
    assert (await vsi.wait("playback.finished", playback_id=playback_id))["reason"] == "stopped"
    assert {event.split(".")[0] for event in vsi.of(room_id=room_id)} == {"room", "playback"}


async def test_a_client_alone_keeps_an_agent_which_ends_with_it(server: Server, rest: Rest, vsi: Vsi) -> None:
    await rest.room("r")
    async with Pipecat() as bot, RoomClient(server.base, "r", tone_hz=660) as client:
        bot.interrupt_after_chunks = 10_000
        await rest.post("/rooms/r/agent/pipecat", {"websocket_url": bot.url.replace("http", "ws") + bot.path})
        await vsi.wait("agent.connected", room_id="r")
        await client.settled({bot.tone_hz}, not_={660})
        heard = np.frombuffer(bytes(bot.audio[-2 * 3200 :]), np.int16)
        assert tones(heard, 16000) == {660}
        await client.send(type="stop")
        await vsi.wait("agent.disconnected", room_id="r")
        await rest.delete("/rooms/r/agent", expect=404)


async def test_what_comes_in_one_burst_is_heard_at_its_pace(server: Server, rest: Rest) -> None:
    await rest.room("r")
    async with RoomClient(server.base, "r") as speaker, RoomClient(server.base, "r") as listener:
        await listener.listen(0.1)
        before = len(listener.heard)
        await speaker.say(sine(440, 16000, 3 * 16000, amplitude=4000))
        await listener.settled({440})
        await listener.settled(not_={440}, within_s=8)
        audio = listener.recorded(before).audio
        loud = [level_db(frame, 16000, 440) > HEARD_DB for frame in audio.reshape(-1, 320)]
        first, last = loud.index(True), len(loud) - loud[::-1].index(True)
        assert 140 <= sum(loud) <= 152  # a loaded machine may mix a tick late, and then without it
        assert last - first - sum(loud) <= 10, "it was torn"


# --- the protocol --------------------------------------------------------------------------------------------------


async def test_nonsense_is_ignored_and_pings_are_answered(server: Server, rest: Rest) -> None:
    await rest.room("r")
    async with RoomClient(server.base, "r") as speaker, RoomClient(server.base, "r", tone_hz=440) as listener:
        for nonsense in (
            "no json",
            "[1]",
            '{"type":"dance"}',
            '{"audio":"!"}',
            '{"audio":"AAAA"}',
            '{"audio":7}',
            b"\0" * 640,
        ):
            await speaker.socket.send(nonsense)
        await speaker.send(type="pong", event_id=1)
        await speaker.send(type="ping", event_id=17)
        await speaker.send(type="ping")
        await speaker.frames.first(lambda frame: frame == {"type": "pong"})
        assert list(speaker.frames) == [{"type": "pong", "event_id": 17}, {"type": "pong"}]
        await asyncio.wait_for(await speaker.socket.ping(), 5)
        tone = base64.b64encode(sine(660, 16000, 16000, amplitude=4000).tobytes()).decode()
        await speaker.send(type="audio", audio=tone.rstrip("="))
        await listener.settled({660})
        await speaker.settled({440}, not_={660})


@pytest.mark.parametrize("word", ["stop", "hangup"])
async def test_stop_is_answered_with_1000(word: str, server: Server, rest: Rest) -> None:
    await rest.room("r")
    async with RoomClient(server.base, "r") as client:
        await client.send(type=word)
        assert await client.closed() == 1000
    await emptied(server)


async def test_a_deleted_room_sends_its_clients_away(server: Server, rest: Rest) -> None:
    await rest.room("r")
    async with RoomClient(server.base, "r") as client, RoomClient(server.base, "r") as other:
        await rest.delete("/rooms/r")
        assert await client.closed() == await other.closed() == 1001
        assert await clients_of(server) == 0
        await rest.room("r")
        async with RoomClient(server.base, "r", tone_hz=440), RoomClient(server.base, "r") as listener:
            await listener.settled({440})


async def test_refusals(server: Server, rest: Rest) -> None:
    await rest.room("r")
    gone = await rest.get("/rooms/none/ws", expect=404)
    assert gone["error"] == "room not found"
    plain = await rest.get("/rooms/r/ws", expect=426)
    assert set(plain.json) == {"instance_id", "error"}
    assert (plain.headers["Upgrade"], plain.headers["Sec-WebSocket-Version"]) == ("websocket", "13")
    await rest.post("/rooms/r/ws", expect=405)
    async with aiohttp.ClientSession() as session:
        for room_id, headers, status in (
            ("none", {}, 404),
            ("none", {"Sec-WebSocket-Version": "8"}, 404),
            ("r", {"Sec-WebSocket-Version": "8"}, 426),
            ("r", {"Sec-WebSocket-Key": "short"}, 426),
        ):
            head = dict(line.split(": ") for line in UPGRADE.strip().split("\r\n")) | headers
            async with session.get(f"{server.base}/v1/rooms/{room_id}/ws", headers=head) as reply:
                assert (reply.status, reply.content_type) == (status, "application/json")
                assert set(await reply.json()) == {"instance_id", "error"}
                assert reply.headers["Access-Control-Allow-Origin"] == "*"
    assert await clients_of(server) == 0


async def test_what_is_sent_behind_the_request_is_not_lost(server: Server, rest: Rest) -> None:
    """In the same packet as the request, in one of its own, and cut in the middle of a frame."""
    await rest.room("r")
    text = json.dumps({"type": "ping", "event_id": 5}).encode()
    ping = bytes([0x81, 0x80 | len(text)]) + bytes(4) + text
    request = f"GET /v1/rooms/r/ws HTTP/1.1\r\n{UPGRADE}".encode()
    for first, second in ((request + ping, b""), (request, ping), (request + ping[:7], ping[7:])):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
        writer.write(first)
        await writer.drain()
        if second:
            await asyncio.sleep(0)
            writer.write(second)
        received = await asyncio.wait_for(reader.readuntil(b'{"type":"pong","event_id":5}'), 5)
        assert received.startswith(b"HTTP/1.1 101 ")
        assert received.index(b'"connected"') < received.index(b'"pong"')
        writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.http_port)
    writer.write(request + bytes(40_000))  # more than travels with a connection; nobody who waits for the 101 does this
    assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 400 ")
    writer.close()
    await emptied(server)


# --- bounds --------------------------------------------------------------------------------------------------------


async def test_who_does_not_read_harms_nobody_and_is_dropped(server: Server, rest: Rest, phones: Phones) -> None:
    await rest.room("r")
    _, phone = await phones.dialled(rest, tone_hz=440, fields={"room_id": "r"})
    address = urlsplit(server.base)
    loop = asyncio.get_running_loop()
    with socket.socket() as deaf:
        deaf.setblocking(False)
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(deaf, (address.hostname, address.port))
        await loop.sock_sendall(deaf, f"GET /v1/rooms/r/ws HTTP/1.1\r\n{UPGRADE}".encode())
        async with RoomClient(server.base, "r", tone_hz=660) as client:
            await client.settled({440})
            assert await clients_of(server) == 2
            before = len(client.heard)
            await emptied(server, of=1, within_s=20)
            assert len(client.heard) - before > 100
            assert share_with(440, client.recorded(before)) > 0.95
            await phone.media.settled({660})


async def test_behind_nginx(server: Server, rest: Rest) -> None:
    await rest.room("r")
    async with in_front_of(server) as (base, trust):
        async with (
            RoomClient(base, "r", tone_hz=440, ssl=trust) as behind,
            RoomClient(server.base, "r", tone_hz=660) as direct,
        ):
            await asyncio.gather(behind.settled({660}, not_={440}), direct.settled({440}, not_={660}))
            await rest.delete("/rooms/r")
            assert await behind.closed() == 1001
        with pytest.raises(InvalidStatus) as refused:
            async with RoomClient(base, "r", ssl=trust):
                pass
        assert refused.value.response.status_code == 404
        assert json.loads(refused.value.response.body)["error"] == "room not found"


async def test_the_playout_lead_is_waited_for_and_rows_run_out(own_server: Callable[..., Server]) -> None:
    server = own_server(WS_JITTER_BUFFER_MS="390", MAX_LEGS="2")  # the lead is rounded up to 400
    async with Rest(server.base) as rest:
        await rest.room("r")
        async with RoomClient(server.base, "r") as speaker, RoomClient(server.base, "r") as listener:
            await listener.listen(0.1)
            before = len(listener.heard)
            speaker.tone_hz = 440
            await listener.settled({440})
            audio = listener.recorded(before).audio.reshape(-1, 320)
            waited = [level_db(frame, 16000, 440) > HEARD_DB for frame in audio].index(True)
            assert 18 <= waited <= 50  # of 20 ms each; a loaded machine takes longer
            with pytest.raises(InvalidStatus) as refused:
                async with RoomClient(server.base, "r"):
                    pass
            assert refused.value.response.status_code == 503
            assert int(refused.value.response.headers["Retry-After"]) > 0
            assert await clients_of(server) == 2
    await asyncio.to_thread(server.stop)


# --- services and other lives --------------------------------------------------------------------------------------


async def test_clients_are_recorded_and_transcribed(
    own_server: Callable[..., Server], tmp_path, phones: Phones
) -> None:
    """What one room says by speech synthesis a client repeats in another, where it is taken down."""
    server = own_server(RECORDING_DIR=str(tmp_path))
    async with Rest(server.base) as rest, Vsi(server.base) as vsi:
        await rest.room("says")
        async with RoomClient(server.base, "says") as client:
            await rest.post("/rooms/says/tts", {"text": "good morning", "voice": "en-us", "provider": "local"})
            await vsi.wait("tts.finished", room_id="says", within_s=10)
            sentence = client.recorded().audio
        await rest.room("takes down")
        leg_id, _ = await phones.dialled(rest, tone_hz=440, fields={"room_id": "takes down"})
        async with RoomClient(server.base, "takes down") as client:
            await rest.post("/rooms/takes%20down/record", {"multi_channel": True})
            started = await rest.post("/rooms/takes%20down/stt", {"provider": "local"})
            assert set(started["leg_ids"]) == {leg_id, client.participant_id}
            await client.say(sentence)
            text = await vsi.wait("stt.text", leg_id=client.participant_id, within_s=20)
            assert text["room_id"] == "takes down"
            assert text["text"]
            async with RoomClient(server.base, "takes down", tone_hz=660) as late:
                await client.settled({440, 660})
                await client.listen(0.5)
        await rest.delete(f"/legs/{leg_id}", expect=202)
        finished = await vsi.wait("recording.finished", room_id="takes down")
        channels = finished["channels"]
        assert set(channels) == {leg_id, client.participant_id, late.participant_id}
        merged, rate_hz = soundfile.read(finished["multi_channel_file"], dtype="int16", always_2d=True)
        spoken = merged[:, channels[client.participant_id]["channel"]]
        assert np.abs(spoken.astype(int)).max() > 1000
        channel = channels[late.participant_id]
        heard = merged[channel["start_ms"] * 16 + 1600 : channel["end_ms"] * 16 - 1600, channel["channel"]]
        assert {round(tone, -1) for tone in tones(heard, rate_hz)} == {660}
        await rest.delete("/rooms/takes%20down/stt", expect=404)
    await asyncio.to_thread(server.stop)


async def test_clients_through_the_deaths_of_room_control_and_stream(
    own_server: Callable[..., Server], phones: Phones
) -> None:
    server = own_server()
    async with Rest(server.base) as rest:
        _, phone = await phones.dialled(rest, tone_hz=440, fields={"room_id": "r"})
        await rest.room("theirs")
        async with (
            RoomClient(server.base, "r", tone_hz=660) as client,
            RoomClient(server.base, "theirs", tone_hz=970) as alone,
            RoomClient(server.base, "theirs") as guest,
        ):
            await client.settled({440})
            await asyncio.to_thread(server.slay, "roomtone: room r")
            await client.settled({440}, not_={660})
            await phone.media.settled({660}, not_={440})
            playing = (await rest.post("/rooms/theirs/play", {"tone": "jp_dial"}))["playback_id"]
            await alone.settled({400})
            before = len(client.heard)
            await asyncio.to_thread(server.slay, "roomtone: control")
            await guest.send(type="stop")  # while nobody is there to hear of it
            assert await guest.closed() == 1000
            await answering_again(rest)
            await asyncio.gather(client.settled({440}, not_={660}), phone.media.settled({660}, not_={440}))
            await alone.settled({400})
            assert share_with(440, client.recorded(before)) > 0.95
            async with Vsi(server.base) as vsi:
                await emptied(server, of=2)
                async with RoomClient(server.base, "theirs") as again:
                    await again.settled({970, 400})
                assert not vsi.all("playback.finished")
                await alone.send(type="stop")
                ended = await vsi.wait("playback.finished", playback_id=playing)
                assert ended["reason"] == "stopped"
            await asyncio.to_thread(server.slay, "roomtone: stream 0")
            assert await client.closed() == 1006
            await emptied(server)
            await phone.media.settled(not_={660})
        async with RoomClient(server.base, "r", tone_hz=660) as client:
            await asyncio.gather(client.settled({440}), phone.media.settled({660}))
            stopping = asyncio.create_task(asyncio.to_thread(server.stop))
            assert await client.closed(within_s=10) == 1001
            await stopping
