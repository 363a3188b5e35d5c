"""A small S3, for what moto's server cannot be: slow, broken, forbidding, and curious about who signed.

Rules
1. The bucket's name says how it behaves (`Bucket`); a bucket that nobody made is 404.
2. What `hanging` has accepted is answered once `release` is set; so is what it is asked later.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Self

from aiohttp import web

from tests.flows.tools.history import History

CREDENTIAL = re.compile(r"Credential=([^/]+)/\d+/([^/]+)/s3/")


@dataclass(frozen=True)
class Put:
    """One request to store something, whatever became of it."""

    bucket: str
    key: str
    body: bytes
    content_type: str
    access_key: str
    region: str

    @property
    def location(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


class FakeS3:
    GOOD, FORBIDDEN, HANGING, HALF = "good", "forbidden", "hanging", "half"

    def __init__(self) -> None:
        self.buckets = {self.GOOD, self.FORBIDDEN, self.HANGING, self.HALF}
        self.puts: History[Put] = History("PUTs", lambda put: put.location)
        self.objects: dict[str, bytes] = {}  # by location
        self.release = asyncio.Event()

    async def __aenter__(self) -> Self:
        application = web.Application(client_max_size=1 << 30)
        application.router.add_route("*", "/{bucket}/{key:.*}", self._answer)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)  # 0 would wait for ever
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release.set()
        await self._runner.cleanup()

    async def put(self, bucket: str, *, after: int = 0, within_s: float = 5.0) -> Put:
        """The first PUT to this bucket, after that many to any."""
        return await self.puts.first(lambda put: put.bucket == bucket, after=after, within_s=within_s, named=bucket)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        bucket, key = request.match_info["bucket"], request.match_info["key"]
        location = f"s3://{bucket}/{key}"
        if request.method == "HEAD":
            return web.Response(status=200 if location in self.objects else 404)
        signed = CREDENTIAL.search(request.headers.get("Authorization", ""))
        access_key, region = signed.groups() if signed else ("", "")
        put = Put(bucket, key, await request.read(), request.headers.get("Content-Type", ""), access_key, region)
        self.puts.add(put)
        if bucket not in self.buckets:
            return _error(404, "NoSuchBucket")
        if bucket == self.FORBIDDEN:
            return _error(403, "AccessDenied")
        if bucket == self.HANGING:
            await self.release.wait()
        if bucket == self.HALF:
            assert request.transport is not None
            request.transport.write(b"HTTP/1.1 200 O")
            request.transport.close()
            return web.Response()
        self.objects[location] = put.body
        return web.Response(headers={"ETag": '"0"'})


def _error(status: int, code: str) -> web.Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>refused</Message></Error>'
    return web.Response(status=status, text=text, content_type="application/xml")
