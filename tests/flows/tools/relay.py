"""A UDP relay between a phone and the server that loses, delays, reorders and duplicates by a seeded script.

It has two sides: the phone sends to `front` and the server to `back`. A SIP relay is told the server; an RTP relay
(`MediaRelay`) learns both ends from the session descriptions that pass the phone.

    phone ── front │ relay │ back ── server
"""

from __future__ import annotations

import asyncio
from typing import Self

from tests.flows.tools.tamper import Tamper, untouched

Address = tuple[str, int]


class Relay:
    def __init__(
        self, server: Address | None = None, *, to_server: Tamper = untouched, to_phone: Tamper = untouched
    ) -> None:
        self.server, self.phone = server, None
        self.to_server, self.to_phone = to_server, to_phone
        self.forwarded = 0
        self.front: Address = ("", 0)
        self.back: Address = ("", 0)

    server: Address | None
    phone: Address | None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._front, _ = await loop.create_datagram_endpoint(
            lambda: _Side(self._from_phone), local_addr=("127.0.0.1", 0)
        )
        self._back, _ = await loop.create_datagram_endpoint(
            lambda: _Side(self._from_server), local_addr=("127.0.0.1", 0)
        )
        self.front = self._front.get_extra_info("sockname")
        self.back = self._back.get_extra_info("sockname")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._front.close()
        self._back.close()

    # MediaRelay (media.py)

    def announced(self, own: Address) -> Address:
        self.phone = own
        return self.back

    def toward(self, remote: Address) -> Address:
        self.server = remote
        return self.front

    def _from_phone(self, data: bytes, source: Address) -> None:
        self.phone = self.phone or source
        self._forward(data, self.to_server, self._back, self.server)

    def _from_server(self, data: bytes, _: Address) -> None:
        self._forward(data, self.to_phone, self._front, self.phone)

    def _forward(self, data: bytes, tamper: Tamper, out: asyncio.DatagramTransport, to: Address | None) -> None:
        def send(piece: bytes) -> None:
            if to is not None and not out.is_closing():
                out.sendto(piece, to)
                self.forwarded += 1

        for delay_s, piece in tamper(data):
            if delay_s:
                asyncio.get_running_loop().call_later(delay_s, send, piece)
            else:
                send(piece)


class _Side(asyncio.DatagramProtocol):
    def __init__(self, received) -> None:
        self._received = received

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._received(data, addr[:2])
