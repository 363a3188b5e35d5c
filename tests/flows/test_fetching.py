"""What URLs lead to: every format is heard, everything else ends in one clear `playback.error` and leaves nothing behind."""

from __future__ import annotations

import asyncio
import io
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import soundfile
from aiohttp import web
from numpy.typing import NDArray

from tests.flows.conftest import Phones
from tests.flows.tools import certificates
from tests.flows.tools.codecs import CODECS
from tests.flows.tools.events import Event, Vsi
from tests.flows.tools.rest import Rest
from tests.flows.tools.server import Server
from tests.flows.tools.spectrum import assert_hears, longest_gap_ms
from tests.flows.tools.web import FileServer, page, redirect

pytestmark = pytest.mark.flow

Samples = NDArray[np.int16]


@pytest.fixture
async def files() -> AsyncIterator[FileServer]:
    async with FileServer() as server:
        yield server


def sine(tone_hz: float, rate_hz: int, seconds: float = 1.5, amplitude: float = 1800.0) -> Samples:
    turn = 2 * np.pi * tone_hz / rate_hz * np.arange(int(seconds * rate_hz))
    return np.rint(amplitude * np.sin(turn)).astype(np.int16)


def wav(
    data: bytes, rate_hz: int, *, tag: int = 1, bits: int = 16, channels: int = 1, size: int | None = None
) -> bytes:
    block = channels * bits // 8
    form = struct.pack("<HHIIHH", tag, channels, rate_hz, rate_hz * block & 0xFFFFFFFF, block & 0xFFFF, bits)
    sizes = struct.pack("<I", 36 + len(data)), struct.pack("<I", len(data) if size is None else size)
    return b"RIFF" + sizes[0] + b"WAVEfmt \x10\0\0\0" + form + b"data" + sizes[1] + data


def packed24(samples: Samples) -> bytes:
    wide: NDArray[np.int32] = samples.astype("<i4") << 8
    return wide.view(np.uint8).reshape(-1, 4)[:, :3].tobytes()


def g711(codec: str, samples: Samples) -> bytes:
    return CODECS[codec].encoder()(samples)


def written(samples: Samples, rate_hz: int, form: str, subtype: str) -> bytes:
    """By the library: FLAC, Ogg, MP3."""
    data = io.BytesIO()
    soundfile.write(data, samples, rate_hz, format=form, subtype=subtype)
    return data.getvalue()


def every_format() -> Iterator[tuple[str, dict[str, Any], bytes, float]]:
    """(path, fields of the request, body, the tone in it)"""
    tones = iter(range(400, 3400, 170))
    for rate_hz in (8000, 16000, 44100, 48000):
        tone = next(tones)
        yield f"/{rate_hz}.wav", {}, wav(sine(tone, rate_hz).tobytes(), rate_hz), tone
    tone = next(tones)
    yield "/stereo.wav", {}, wav(np.repeat(sine(tone, 44100), 2).tobytes(), 44100, channels=2), tone
    tone = next(tones)
    yield "/alaw.wav", {}, wav(g711("PCMA", sine(tone, 8000)), 8000, tag=6, bits=8), tone
    tone = next(tones)
    yield "/ulaw.wav", {}, wav(g711("PCMU", sine(tone, 8000)), 8000, tag=7, bits=8), tone
    tone = next(tones)
    yield "/24bit.wav", {}, wav(packed24(sine(tone, 48000)), 48000, bits=24), tone
    tone = next(tones)
    yield "/a.mp3", {}, written(sine(tone, 44100), 44100, "MP3", "MPEG_LAYER_III"), tone
    tone = next(tones)
    yield "/b", {"mime_type": "audio/mpeg"}, written(sine(tone, 16000), 16000, "MP3", "MPEG_LAYER_III"), tone
    tone = next(tones)
    yield "/c.flac", {}, written(sine(tone, 44100), 44100, "FLAC", "PCM_16"), tone
    tone = next(tones)
    yield "/d.ogg", {}, written(sine(tone, 48000), 48000, "OGG", "VORBIS"), tone
    tone = next(tones)
    yield "/e", {"mime_type": "audio/pcm;rate=24000"}, sine(tone, 24000).tobytes(), tone
    tone = next(tones)
    yield "/f", {"mime_type": "audio/l16"}, sine(tone, 16000).tobytes(), tone


async def test_every_format_is_heard_all_at_once(rest: Rest, vsi: Vsi, phones: Phones, files: FileServer) -> None:
    _, alice = await phones.dialled(rest, codecs=("L16/16000",), fields={"room_id": "f", "codecs": ["L16"]})
    playing: dict[str, tuple[str, float]] = {}
    for path, fields, body, tone_hz in every_format():
        files.files[path] = body
        begun = await rest.post("/rooms/f/play", {"url": files.url(path), "repeat": -1, **fields})
        playing[begun["playback_id"]] = path, tone_hz
    for playback_id in playing:
        await vsi.wait("playback.started", playback_id=playback_id, within_s=20)
    wanted = {tone_hz for _, tone_hz in playing.values()}
    await alice.media.settled(wanted, within_s=10)
    assert_hears(await alice.media.listen(1.0), wanted, only=True)
    for playback_id in playing:
        await rest.delete(f"/rooms/f/play/{playback_id}")
    # Alone and once, each is as long as it is.
    once = {
        (await rest.post("/rooms/f/play", {"url": files.url(p), **f}))["playback_id"]: p
        for p, f, _, _ in every_format()
    }
    for playback_id, path in once.items():
        ended = await vsi.wait("playback.finished", playback_id=playback_id, within_s=20)
        assert ended["reason"] == "completed"
        assert 1500 <= ended["played_ms"] <= (1640 if path in ("/a.mp3", "/b") else 1520), path


HALF_A_SECOND = 8000
TALK = sine(1000, 16000, 5.0)


def hostile(files: FileServer) -> dict[str, tuple[bytes | Any, str]]:
    """path -> (body or handler, what the error says)"""
    fine = wav(TALK.tobytes(), 16000)
    return {
        "/page.wav": (page("<html>"), "text/html is no audio"),
        "/json": (page("{}", "application/json"), "application/json is no audio"),
        "/error.wav": (redirect("/nowhere.wav"), "answered 404"),
        "/loop": (redirect("/loop"), "more than 5 redirects"),
        "/gopher": (redirect("gopher://127.0.0.1/x"), "not an http or https URL"),
        "/file": (redirect("file:///etc/passwd"), "not an http or https URL"),
        "/metadata": (redirect("http://169.254.169.254/latest/meta-data"), "link-local or metadata"),
        "/mapped": (redirect("http://[::ffff:169.254.169.254]/"), "link-local or metadata"),
        "/gzip.wav": (page("x" * 100, "audio/wav", **{"Content-Encoding": "gzip"}), "compressed"),
        "/huge.wav": (files.huge, "more than 100 MiB"),
        "/endless.wav": (files.endless, "more than 100 MiB"),
        "/empty.wav": (b"", "not a WAV file"),
        "/words.wav": (b"these are words " * 1000, "not a WAV file"),
        "/words.mp3": (b"these are words " * 1000, "cannot decode"),
        "/head.wav": (fine[:30], "WAV file"),
        "/no-samples.wav": (fine[:44], "no audio"),
        "/channels.wav": (wav(bytes(40000), 16000, channels=10000), "10000 channels"),
        "/no-channels.wav": (wav(bytes(4000), 16000, channels=0), "0 channels"),
        "/rate-0.wav": (wav(bytes(4000), 0), "a sample rate of 0 Hz"),
        "/rate-4g.wav": (wav(bytes(4000), 0xFFFFFFFF), "a sample rate of 4294967295 Hz"),
        "/bits-0.wav": (wav(bytes(4000), 16000, bits=0), "cannot decode"),
        "/chunk.wav": (b"RIFF\xff\xff\xff\xffWAVELIST\xf0\xff\xff\xff" + bytes(100), "WAV file"),
        "/flac": (b"fLaC" + bytes(range(256)) * 100, "cannot decode"),
        "/ogg": (b"OggS" + bytes(range(256)) * 100, "cannot decode"),
        "/id3.mp3": (b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(5000), "cannot decode"),
    }


async def test_whatever_is_fetched_ends_in_one_error_and_the_room_hears_nothing_of_it(
    server: Server, rest: Rest, vsi: Vsi, phones: Phones, files: FileServer
) -> None:
    (_, alice), _ = await phones.meeting(rest, "h", (1000, 1300))
    await warmed_up(rest, vsi, files)
    before = await footprint(server)
    began = len(vsi.events)
    playing = {}
    for path, (body, error) in hostile(files).items():
        files.files[path] = body
        playing[(await rest.post("/rooms/h/play", {"url": files.url(path)}))["playback_id"]] = path, error
    for url, error in (
        ("http://169.254.169.254/", "link-local or metadata"),
        ("http://[fe80::1]/a.wav", "link-local or metadata"),
        (f"http://127.0.0.1:{server.sip_port + 1 if server.sip_port < 65535 else 9}/a.wav", "fetch: "),
        ("http://no-such-name.invalid/a.wav", "fetch: "),
    ):
        playing[(await rest.post("/rooms/h/play", {"url": url}))["playback_id"]] = url, error
    heard = await alice.media.listen(2.0)
    for playback_id, (path, error) in playing.items():
        told = await vsi.wait("playback.error", playback_id=playback_id, within_s=30, after=began)
        assert error in told["error"], path
        assert told["error"].isprintable()
        assert vsi.of(playback_id=playback_id) == ["playback.error"], path
        await rest.delete(f"/rooms/h/play/{playback_id}", expect=404)
    assert longest_gap_ms(heard, 1300) < 100
    await alice.media.settled({1300})
    for path in ("/huge.wav", "/endless.wav"):
        await files.gone.first(lambda gone, path=path: gone == path, named=path)
    await came_back(server, before)


async def test_what_lies_or_breaks_off_is_played_as_far_as_it_goes(
    server: Server, rest: Rest, vsi: Vsi, phones: Phones, files: FileServer
) -> None:
    """Truncated files of each format, and headers with wrong sizes: one end each, and what there is of it is heard."""
    whole = wav(TALK.tobytes(), 16000)
    flac = written(TALK, 16000, "FLAC", "PCM_16")
    files.files |= {
        "/cut.wav": whole[: len(whole) // 5],
        "/cut.mp3": (mp3 := written(TALK, 16000, "MP3", "MPEG_LAYER_III"))[: len(mp3) // 5],
        "/cut.flac": flac[: len(flac) // 5],
        "/cut.ogg": (ogg := written(TALK, 16000, "OGG", "VORBIS"))[: len(ogg) // 5 + 4000],
        "/more.wav": wav(TALK[:HALF_A_SECOND].tobytes(), 16000, size=1 << 30),
        "/unknown.wav": wav(TALK[:HALF_A_SECOND].tobytes(), 16000, size=0xFFFFFFFF),
        "/less.wav": wav(TALK.tobytes(), 16000, size=2 * HALF_A_SECOND),
    }
    _, alice = await phones.dialled(rest, fields={"room_id": "c"})
    await warmed_up(rest, vsi, files, room_id="c")
    before = await footprint(server)
    for path in list(files.files):
        playback_id = (await rest.post("/rooms/c/play", {"url": files.url(path)}))["playback_id"]
        ended = await the_end(vsi, playback_id)
        types = vsi.of(playback_id=playback_id)
        assert len(types) <= 2
        assert types[-1] in ("playback.finished", "playback.error")
        if ended["type"] == "playback.finished":
            assert 300 <= ended["played_ms"] <= 1500, path
        if path in ("/more.wav", "/unknown.wav", "/less.wav"):
            assert ended["played_ms"] == 500, path
    assert alice.media.packets
    await came_back(server, before)


async def test_a_stop_cancels_what_is_still_being_fetched(
    server: Server, rest: Rest, vsi: Vsi, phones: Phones, files: FileServer
) -> None:
    """No answer, a slow loris, and a small file that unfolds to hours of silence; also by the end of the room."""
    quiet = written(np.zeros(4 * 3600 * 8000, np.int16), 8000, "FLAC", "PCM_16")
    files.files |= {"/silent": files.silent, "/drip.wav": files.drip, "/bomb.flac": quiet}
    await phones.dialled(rest, fields={"room_id": "s"})
    await warmed_up(rest, vsi, files, room_id="s")
    before = await footprint(server)
    for is_stopped in (True, False):
        playing = {}
        for path in ("/silent", "/drip.wav", "/bomb.flac"):
            after = len(files.asked)
            playing[path] = (await rest.post("/rooms/s/play", {"url": files.url(path)}))["playback_id"]
            await files.asked.first(lambda asked, path=path: asked == path, after=after)
        await vsi.wait("playback.started", playback_id=playing["/bomb.flac"])
        gone = len(files.gone)
        if is_stopped:
            for playback_id in playing.values():
                await rest.delete(f"/rooms/s/play/{playback_id}")
        else:
            await rest.delete("/rooms/s")
        for path, playback_id in playing.items():
            ended = await vsi.wait("playback.finished", playback_id=playback_id)
            assert ended["reason"] == "stopped"
            assert path == "/bomb.flac" or ended["played_ms"] == 0
        for path in ("/silent", "/drip.wav"):
            await files.gone.first(lambda one, path=path: one == path, after=gone, named=path)
    await came_back(server, before)


async def test_the_world_outside(
    own_server: Any, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, phones: Phones
) -> None:
    """An HTTP proxy of ours plays it: what it answers for a public address redirects to loopback, and is refused.

    HTTPS is heard from whom SSL_CERT_FILE trusts, and from nobody else.
    """

    async def world(request: web.Request) -> web.StreamResponse:
        asked.append(request.path_qs)
        raise web.HTTPFound(f"http://127.0.0.1:{files.port}/inside.wav")

    asked: list[str] = []
    trusted, stranger = (certificates.make(folder) for folder in (tmp_path, tmp_path_factory.mktemp("stranger")))
    async with (
        FileServer() as files,
        FileServer() as proxy,
        FileServer(trusted.server_context()) as safe,
        FileServer(stranger.server_context()) as unsafe,
    ):
        proxy.files["/away.wav"] = world
        files.files["/inside.wav"] = wav(TALK.tobytes(), 16000)
        server = own_server(
            HTTP_PROXY=f"http://127.0.0.1:{proxy.port}", NO_PROXY="127.0.0.1", SSL_CERT_FILE=str(trusted.certificate)
        )
        async with Rest(server.base) as rest, Vsi(server.base) as vsi:
            await phones.dialled(rest, fields={"room_id": "p"})
            url = "http://93.184.215.14/away.wav"
            playback_id = (await rest.post("/rooms/p/play", {"url": url}))["playback_id"]
            told = await vsi.wait("playback.error", playback_id=playback_id)
            assert "leads back to a private address" in told["error"]
            assert len(asked) == 1
            assert not len(files.asked)
            playback_id = (await rest.post("/rooms/p/play", {"url": files.url("/inside.wav")}))["playback_id"]
            await vsi.wait("playback.started", playback_id=playback_id)  # asked for directly it is allowed
            safe.files["/a.wav"] = unsafe.files["/a.wav"] = files.files["/inside.wav"]
            playback_id = (await rest.post("/rooms/p/play", {"url": safe.url("/a.wav")}))["playback_id"]
            await vsi.wait("playback.started", playback_id=playback_id)
            playback_id = (await rest.post("/rooms/p/play", {"url": unsafe.url("/a.wav")}))["playback_id"]
            assert "fetch: " in (await vsi.wait("playback.error", playback_id=playback_id))["error"]
            assert not len(unsafe.asked)
        await asyncio.to_thread(server.stop)


async def test_private_addresses_can_be_forbidden(own_server: Any, phones: Phones, files: FileServer) -> None:
    files.files["/a.wav"] = wav(TALK.tobytes(), 16000)
    server = own_server(FETCH_ALLOW_PRIVATE="false")
    async with Rest(server.base) as rest, Vsi(server.base) as vsi:
        await phones.dialled(rest, fields={"room_id": "p"})
        forbidden, no_host = "leads to a private address", "not an http or https URL"
        hosts = dict.fromkeys(("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0"), forbidden)
        for host, error in (hosts | {"2130706433": no_host, "0x7f000001": forbidden, "127.1": no_host}).items():
            url = f"http://{host}:{files.port}/a.wav"
            playback_id = (await rest.post("/rooms/p/play", {"url": url}))["playback_id"]
            assert error in (await vsi.wait("playback.error", playback_id=playback_id))["error"], host
        await rest.post(
            "/rooms/p/record", {"storage": "s3", "s3_bucket": "b", "s3_endpoint": files.url("")}, expect=400
        )
    assert not len(files.asked)
    await asyncio.to_thread(server.stop)


# ------------------------------------------------------------------------------------------------ what is left


async def the_end(vsi: Vsi, playback_id: str) -> Event:
    return await vsi.events.first(
        lambda e: e.get("playback_id") == playback_id and e["type"] in ("playback.finished", "playback.error"),
        within_s=20,
        named=f"the end of {playback_id}",
    )


async def warmed_up(rest: Rest, vsi: Vsi, files: FileServer, *, room_id: str = "h") -> None:
    """One playback, so that what stays for good (the decoders' parent) is there."""
    files.files["/warm"] = wav(TALK[:1600].tobytes(), 16000)
    playback_id = (await rest.post(f"/rooms/{room_id}/play", {"url": files.url("/warm")}))["playback_id"]
    await vsi.wait("playback.finished", playback_id=playback_id)
    del files.files["/warm"]


async def footprint(server: Server) -> dict[str, int]:
    return await asyncio.to_thread(_footprint, server)


def _footprint(server: Server) -> dict[str, int]:
    """How many descriptors those keep that handle what was fetched, how many decoders there are, and temporary files."""
    stream, control = server.only("roomtone: stream 0"), server.only("roomtone: control")
    return {
        "stream": _kept(stream),
        "control": _kept(control),
        "decoders": len(server.titled("roomtone: decoder")),
        "files": len([path for path in server.folder.rglob("*") if not path.name.endswith("-wal")]),
    }


def _kept(process: psutil.Process) -> int:
    """Descriptors but for network connections, which come and go with the tests' own clients."""
    return process.num_fds() - len(process.net_connections("inet"))


async def came_back(server: Server, before: dict[str, int], within_s: float = 5.0) -> None:
    """Nothing is left of what happened since `before`; a room that has ended meanwhile may have given something back."""
    deadline_s = asyncio.get_running_loop().time() + within_s
    while more := {kind: count for kind, count in (await footprint(server)).items() if count > before[kind]}:
        assert asyncio.get_running_loop().time() < deadline_s, f"left behind: {more} instead of {before}"
        await asyncio.sleep(0.1)
