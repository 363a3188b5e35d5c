"""The webhook sink must notice a wrong signature and fail exactly as often as it was told."""

from __future__ import annotations

import hashlib
import hmac
import json

import aiohttp

from tests.flows.tools.webhooks import WebhookSink


async def test_signatures_failures_and_order() -> None:
    async with WebhookSink(secret="s", fail_first=1) as sink, aiohttp.ClientSession() as session:
        body = json.dumps({"type": "room.created", "room_id": "r"}).encode()
        right = "sha256=" + hmac.new(b"s", body, hashlib.sha256).hexdigest()
        for signature in (right, right, "sha256=00"):
            async with session.post(sink.url("a"), data=body, headers={"X-Signature-256": signature}):
                pass
        async with session.post(sink.url("b"), data=body):
            pass
        assert [d.status for d in sink.deliveries] == [500, 200, 200, 200]
        assert [d.signed for d in sink.deliveries] == [True, True, False, None]
        assert sink.types() == ["room.created"] * 3
        assert sink.types("a") == ["room.created"] * 2
        assert (await sink.wait("room.created", room_id="r")).path == "/a"
