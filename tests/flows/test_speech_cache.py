"""The same words in the same voice are synthesised once: now, at the same moment, and after a restart (media.md 9.7)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flows.conftest import Phones
from tests.flows.tools.events import Vsi
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server
from tests.flows.tools.speaking import cache_name, cached
from tests.flows.tools.vendors import KEY, Vendors

pytestmark = pytest.mark.flow

HEAD = b"audio/pcm;rate=16000\n"
VOICE = "21m00Tcm4TlvDq8ikWAM"


async def say(rest: Rest, vsi: Vsi, text: str, **fields: object) -> None:
    """To the end."""
    tts_id = (await rest.post("/rooms/c/tts", {"text": text, "voice": VOICE, **fields}))["tts_id"]
    assert (await vsi.wait("tts.finished", tts_id=tts_id))["reason"] == "completed"


async def soon(holds: Callable[[], bool], *, within_s: float = 10.0) -> None:
    """A file is written behind what is heard."""
    deadline_s = asyncio.get_running_loop().time() + within_s
    while not holds():
        assert asyncio.get_running_loop().time() < deadline_s, "the folder does not become what it should"
        await asyncio.sleep(0.02)  # polling a folder


async def test_the_cache(own_server: Callable[..., Server], tmp_path: Path, phones: Phones, vendors: Vendors) -> None:
    fake = vendors.elevenlabs_tts
    fake.tone_hz, fake.audio_ms = 700, 200
    folder = tmp_path / "made" / "cache"
    settings = {
        "TTS_CACHE_ENABLED": "true",
        "TTS_CACHE_DIR": str(folder),
        "ELEVENLABS_API_KEY": KEY,
        **vendors.environment,
    }
    server = own_server(**settings, STREAM_WORKERS="2")  # equal requests meet, however many may serve them
    hello = cache_name("elevenlabs", VOICE, "", "de", "", "Hello.")
    async with Rest(server.base) as rest, Vsi(server.base) as vsi:
        _, alice = await phones.dialled(rest, fields={"room_id": "c"})
        await say(rest, vsi, "Hello.", language="de")
        await soon(lambda: cached(folder) == {hello})
        assert (folder / hello).read_bytes() == HEAD + fake.payload()
        await say(rest, vsi, "Hello.", language="de", volume=-2, provider="elevenlabs", api_key=KEY)  # the same
        assert len(fake.requests) == 1

        fake.audio_ms = 600
        fake.may_go_on.clear()
        twins = [rest.post("/rooms/c/tts", {"text": "Twins.", "voice": VOICE}) for _ in range(6)]
        ids = [reply["tts_id"] for reply in await asyncio.gather(*twins)]
        for tts_id in ids:
            await vsi.wait("tts.started", tts_id=tts_id)
        fake.may_go_on.set()
        await alice.media.settled({700})
        for tts_id in ids:
            assert (await vsi.wait("tts.finished", tts_id=tts_id))["played_ms"] == 600
        assert len(fake.requests) == 2
        twin = cache_name("elevenlabs", VOICE, "", "", "", "Twins.")
        await soon(lambda: cached(folder) == {hello, twin})

        fake.outcomes.append("cut")  # half an utterance is none
        tts_id = (await rest.post("/rooms/c/tts", {"text": "Cut.", "voice": VOICE}))["tts_id"]
        await vsi.wait("tts.error", tts_id=tts_id)
        fake.may_go_on.clear()
        tts_id = (await rest.post("/rooms/c/tts", {"text": "Stopped.", "voice": VOICE}))["tts_id"]
        await vsi.wait("tts.started", tts_id=tts_id)
        await rest.delete(f"/rooms/c/play/{tts_id}")
        async with asyncio.timeout(5):
            await fake.was_abandoned.wait()
        fake.may_go_on.set()
        (folder / twin).write_bytes(b"no speech")  # a damaged file is a miss
        await say(rest, vsi, "Twins.")
        await soon(lambda: (folder / twin).read_bytes() == HEAD + fake.payload())
        await soon(lambda: cached(folder) == {hello, twin})
    await asyncio.to_thread(server.stop)

    # A restart keeps them; room is made by the longest unused.
    asked = len(fake.requests)
    limit_bytes = (folder / hello).stat().st_size + (folder / twin).stat().st_size
    server = own_server(**settings, TTS_CACHE_MAX_BYTES=str(limit_bytes))
    async with Rest(server.base) as rest, Vsi(server.base) as vsi:
        await phones.dialled(rest, fields={"room_id": "c"})
        await say(rest, vsi, "Twins.")
        await say(rest, vsi, "Hello.", language="de")  # now younger in use
        assert len(fake.requests) == asked
        await say(rest, vsi, "Third.")
        third = cache_name("elevenlabs", VOICE, "", "", "", "Third.")
        await soon(lambda: cached(folder) == {hello, third})
        fake.audio_ms = 1000
        await say(rest, vsi, "Larger than all that may be kept.")
        await soon(lambda: cached(folder) == {hello, third})
    await asyncio.to_thread(server.stop)
