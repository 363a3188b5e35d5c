"""A stand-in for the server, so that the bench and its generator can be tested against known truth.

Runs in: a process of its own, started by scripts/bench through --server-command.
Owns:    one SIP socket (asyncio), one RTP socket per leg (the relay's thread).
Rules:
 1. It speaks just enough of the contract: GET /v1/rooms, POST /v1/legs, /v1/vsi, /metrics; dials, acknowledges, hangs up.
 2. It mixes nothing: each leg of a room hears the packets of leg 0 exactly DELAY_S later, and leg 0 those of leg 1.
 3. What is played and recorded in a room lasts from its start to its end, on paper and in a WAV of silence; in a room of
    FAKE_SHORT (numbers, a list) for a tenth of that.
 4. FAKE_FAULTS, a JSON object from room number to fault, spoils what leg 1 of that room hears: `crossed` (the next
    room's talker), `lossy` (every tenth packet is missing), `dropout` (a silent packet inside each burst), `dead`
    (nothing at all); with `echo` leg 0 hears itself.
"""

import asyncio
import collections
import dataclasses
import json
import os
import re
import select
import signal
import socket
import threading
import time
import uuid
import wave
from pathlib import Path

from aiohttp import WSMsgType, web

DELAY_S = 0.030
SILENCE = b"\xff" * 160
FAULTS = {int(room): fault for room, fault in json.loads(os.environ.get("FAKE_FAULTS", "{}")).items()}
SHORT = {f"bench-{room}" for room in json.loads(os.environ.get("FAKE_SHORT", "[]"))}
SIP_PORT = int(os.environ["SIP_PORT"])


@dataclasses.dataclass
class Leg:
    leg_id: str
    room: int
    index: int
    room_id: str
    rtp: socket.socket
    to: str
    remote: tuple[str, int] = ("", 0)
    to_tag: str = ""
    packets_heard: int = 0
    loud_packets: int = 0
    answered: asyncio.Future = dataclasses.field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Relay(threading.Thread):
    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.legs: dict[tuple[int, int], Leg] = {}
        self.due: collections.deque[tuple[float, Leg, bytes]] = collections.deque()

    def hears(self, leg: Leg) -> tuple[int, int]:
        fault = FAULTS.get(leg.room)
        if fault == "echo" and leg.index == 0:
            return leg.room, 0
        if fault == "crossed" and leg.index == 1:
            return leg.room + 1, 0
        return leg.room, 0 if leg.index else 1

    def relay(self, source: Leg, packet: bytes) -> None:
        for leg in list(self.legs.values()):
            fault = FAULTS.get(leg.room) if leg.index == 1 else None
            if (source.room, source.index) != self.hears(leg) or fault == "dead":
                continue
            leg.packets_heard += 1
            leg.loud_packets = leg.loud_packets + 1 if packet[12:] != SILENCE else 0
            if fault == "lossy" and leg.packets_heard % 10 == 0:
                continue
            spoilt = fault == "dropout" and leg.loud_packets == 3
            self.due.append((time.monotonic() + DELAY_S, leg, packet[:12] + SILENCE if spoilt else packet))

    def run(self) -> None:
        while True:
            by_fd = {leg.rtp: leg for leg in list(self.legs.values())}
            wait_s = max(0.0, self.due[0][0] - time.monotonic()) if self.due else 0.01
            for sock in select.select(list(by_fd), [], [], min(wait_s, 0.01))[0]:
                self.relay(by_fd[sock], sock.recv(2048))
            while self.due and self.due[0][0] <= time.monotonic():
                _, leg, packet = self.due.popleft()
                leg.rtp.sendto(packet, leg.remote)


class Server(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.relay = Relay()
        self.listeners: set[web.WebSocketResponse] = set()
        self.by_call: dict[str, Leg] = {}
        self.byes: set[str] = set()
        self.all_gone = asyncio.Event()
        self.began_s: dict[str, float] = {}  # of what plays or is recorded, by its id

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:
        self.transport = transport

    def request(self, method: str, leg: Leg, body: str = "") -> None:
        user = leg.to
        host, _, port = user.partition("@")[2].partition(":")
        branch = "z9hG4bK" + uuid.uuid4().hex
        self.transport.sendto(
            f"{method} {user} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{SIP_PORT};branch={branch};rport\r\n"
            f"Max-Forwards: 70\r\nFrom: <sip:fake@127.0.0.1>;tag=fake\r\nTo: <{user}>{leg.to_tag}\r\nCall-ID: {leg.leg_id}\r\n"
            f"CSeq: {2 if method == 'BYE' else 1} {method}\r\nContact: <sip:fake@127.0.0.1:{SIP_PORT}>\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode(),
            (host, int(port)),
        )

    def datagram_received(self, data: bytes, _: tuple[str, int]) -> None:
        message = data.decode()
        leg = self.by_call[re.search(r"Call-ID: (\S+)", message)[1]]
        if "BYE" in message.partition("CSeq:")[2].partition("\r\n")[0]:
            self.byes.discard(leg.leg_id)
            if not self.byes:
                self.all_gone.set()
        elif message.startswith("SIP/2.0 200") and not leg.answered.done():
            leg.to_tag = re.search(r"To: [^;\r]*(;tag=\w+)", message)[1]
            leg.remote = ("127.0.0.1", int(re.search(r"m=audio (\d+)", message)[1]))
            leg.answered.set_result(None)

    async def publish(self, kind: str, **fields: object) -> None:
        event = {"type": kind, "instance_id": os.environ["INSTANCE_ID"], **fields}
        for listener in self.listeners:
            await listener.send_json(event)

    async def create_leg(self, request: web.Request) -> web.Response:
        body = await request.json()
        room, index = map(int, re.match(r"sip:(\d+)-(\d+)@", body["to"]).groups())
        rtp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        rtp.bind(("127.0.0.1", 0))
        leg = Leg(str(uuid.uuid4()), room, index, body["room_id"], rtp, body["to"])
        self.by_call[leg.leg_id] = leg
        sdp = f"v=0\r\nc=IN IP4 127.0.0.1\r\nm=audio {rtp.getsockname()[1]} RTP/AVP 0\r\n"
        self.request("INVITE", leg, sdp)
        self.connecting = asyncio.ensure_future(self.connect(leg))
        return web.json_response(
            {"instance_id": os.environ["INSTANCE_ID"], "id": leg.leg_id, "state": "ringing"}, status=201
        )

    async def connect(self, leg: Leg) -> None:
        await leg.answered
        self.request("ACK", leg)
        self.relay.legs[leg.room, leg.index] = leg
        await self.publish("leg.joined_room", leg_id=leg.leg_id, room_id=leg.room_id)

    async def start(self, request: web.Request) -> web.Response:
        body, room_id, service = await request.json(), request.match_info["room"], request.match_info["service"]
        fields = {"playback_id": f"pb-{uuid.uuid4().hex[:8]}"} if body.get("url") else {"file": self.file(room_id)}
        self.began_s[fields.get("playback_id", room_id)] = time.monotonic()
        await self.publish(f"{'playback' if service == 'play' else 'recording'}.started", room_id=room_id, **fields)
        return web.json_response(fields)

    async def end(self, request: web.Request) -> web.Response:
        room_id, playback_id = request.match_info["room"], request.match_info.get("id", "")
        seconds = (time.monotonic() - self.began_s.pop(playback_id or room_id)) / (10 if room_id in SHORT else 1)
        if playback_id:
            await self.publish("playback.finished", room_id=room_id, playback_id=playback_id, played_ms=1000 * seconds)
        else:
            with wave.open(self.file(room_id), "wb") as file:
                file.setparams((1, 2, 8000, 0, "NONE", ""))
                file.writeframes(bytes(2 * round(8000 * seconds)))
            await self.publish("recording.finished", room_id=room_id, file=self.file(room_id))
        return web.json_response({"status": "stopped"})

    @staticmethod
    def file(room_id: str) -> str:
        return str(Path(os.environ["RECORDING_DIR"]) / f"{room_id}.wav")

    async def vsi(self, request: web.Request) -> web.WebSocketResponse:
        listener = web.WebSocketResponse()
        await listener.prepare(request)
        await listener.send_json({"type": "connected"})
        self.listeners.add(listener)
        async for message in listener:
            if message.type == WSMsgType.TEXT and json.loads(message.data)["type"] == "stop":
                break
        self.listeners.discard(listener)
        return listener

    async def hang_up_all(self) -> None:
        self.byes = set(self.by_call)
        for leg in self.by_call.values():
            self.request("BYE", leg)
        if self.byes:
            await self.all_gone.wait()


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = Server()
    await loop.create_datagram_endpoint(lambda: server, local_addr=("127.0.0.1", SIP_PORT))
    server.relay.start()
    app = web.Application()
    app.router.add_get("/v1/rooms", lambda _: asyncio.sleep(0, web.json_response([])))
    app.router.add_post("/v1/legs", server.create_leg)
    app.router.add_get("/v1/vsi", server.vsi)
    app.router.add_post("/v1/rooms/{room}/{service:play|record}", server.start)
    app.router.add_delete("/v1/rooms/{room}/play/{id}", server.end)
    app.router.add_delete("/v1/rooms/{room}/record", server.end)
    metrics = "# TYPE roomtone_packets_late_total counter\nroomtone_packets_late_total 7\n"
    app.router.add_get("/metrics", lambda _: asyncio.sleep(0, web.Response(text=metrics)))
    runner = web.AppRunner(app)
    await runner.setup()
    host, _, port = os.environ["HTTP_ADDR"].rpartition(":")
    await web.TCPSite(runner, host, int(port)).start()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await asyncio.wait_for(server.hang_up_all(), 5)


if __name__ == "__main__":
    asyncio.run(main())
