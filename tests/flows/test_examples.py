"""The page of examples works as it stands: each block is run by bash, and prints what the page says it prints."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import soundfile
import soxr
from aiohttp import web
from moto.server import ThreadedMotoServer

from tests.flows.conftest import Phones
from tests.flows.tools.call import Call
from tests.flows.tools.page import Shell, matches, steps
from tests.flows.tools.phone import Phone
from tests.flows.tools.ports import free_port
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import ROOT, Server
from tests.vendors.convai import ConvAi
from tests.vendors.deepgram_agent import DeepgramConverse
from tests.vendors.pipecat import Pipecat
from tests.vendors.vapi import Vapi
from workers.stream.speech.local import Local
from workers.stream.speech.protocol import RATE_HZ, SpeechRequest

pytestmark = pytest.mark.flow

PAGE = ROOT / "etc/examples.md"
KEY = "good-key"


@pytest.fixture
def s3() -> Iterator[str]:
    """The endpoint of an S3 server with a bucket `calls`."""
    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    endpoint = "http://{}:{}".format(*moto.get_host_and_port())
    boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="AK", aws_secret_access_key="SK"
    ).create_bucket(Bucket="calls")
    yield endpoint
    moto.stop()


@pytest.fixture
async def sound(tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a WAV of 600 ms."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    soundfile.write(folder / "hello.wav", 0.2 * np.sin(2 * np.pi * 700 * np.arange(9600) / 16000), 16000)
    app = web.Application()
    app.router.add_static("/", folder)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/hello.wav"
    await runner.cleanup()


@pytest.fixture
async def vendors() -> AsyncIterator[dict[str, str]]:
    """The server's environment: where the vendors' stand-ins are, and their key."""
    async with ConvAi(KEY) as elevenlabs, Vapi(KEY) as vapi, Pipecat(KEY) as pipecat, DeepgramConverse(KEY) as deepgram:
        yield {
            "ELEVENLABS_API_KEY": KEY,
            "VAPI_API_KEY": KEY,
            "DEEPGRAM_API_KEY": KEY,
            "ELEVENLABS_API_BASE": elevenlabs.url,
            "VAPI_API_BASE": vapi.url,
            "DEEPGRAM_AGENT_BASE": deepgram.url.replace("http", "ws"),
            "PIPECAT": pipecat.url.replace("http", "ws") + pipecat.path,
        }


@pytest.fixture
def outside(sound: str, s3: str, vendors: dict[str, str]) -> dict[str, str]:
    """What the page's reader has to provide."""
    s3_keys = {"S3_ACCESS_KEY": "AK", "S3_SECRET_KEY": "SK"}
    own = {"SOUND": sound, "PIPECAT": vendors["PIPECAT"], "HOOK_PORT": str(free_port())}
    return {"S3_ENDPOINT": s3, **s3_keys, **own}


async def sentence() -> np.ndarray[Any, np.dtype[np.int16]]:
    """Speech at 8 kHz with a pause behind it, for a phone to say."""
    spoken = b"".join([piece async for piece in Local().synthesize(SpeechRequest(text="hello world", voice="en-us"))])
    return np.concatenate([soxr.resample(np.frombuffer(spoken, "<i2"), RATE_HZ, 8000), np.zeros(8000, np.int16)])


async def test_every_example_prints_what_the_page_says(
    own_server: Callable[..., Server],
    tmp_path: Path,
    phones: Phones,
    vendors: dict[str, str],
    outside: dict[str, str],
) -> None:
    server = own_server(RECORDING_DIR=str(tmp_path / "recordings"), **vendors)
    phone = await phones.new()
    speech = await sentence()

    async def pick_up(call: Call) -> None:
        call.media.say(samples=speech)
        await call.answer()

    phone.on_call = pick_up
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        **outside,
        "BASE": server.base,
        "PHONE": phone.uri,
        "PYTHON": sys.executable,
    }
    async with Shell(ROOT, environment) as shell:
        for step in steps(PAGE.read_text()):
            if step.order:
                await obey(step.order, phone, server)
            printed = await shell.run(step.shell)
            assert matches(step.shown, printed), f"{PAGE.name}:{step.line} prints:\n" + "\n".join(printed)
    async with Rest(server.base) as rest:
        assert await rest.everything() == ([], [])
    server.stop()


async def obey(order: str, phone: Phone, server: Server) -> None:
    """What the page asks its reader to do with the phone."""
    match order.split():
        case ["the", "phone", "calls"]:
            await phone.dial(server.uri())
        case ["the", "phone", "presses", digit]:
            await phone.calls[0].media.dtmf(digit)
        case _:
            raise AssertionError(f"the page orders {order!r}, which nobody understands")
