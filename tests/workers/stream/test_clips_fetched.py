"""A URL becomes a clip, or says why not."""

import asyncio

import numpy as np
import pytest
from aiohttp import web

from shm import messages as wire
from shm.clip import FAILED

from .conftest import EVENT_S, loudest_hz, sine, wav


async def failure(control, url, **more):
    await control.ok(wire.FetchClip, clip_id="c", url=url, rate_hz=16_000, **more)
    event = await control.event(wire.ClipFailed, clip_id="c")
    control.none(wire.ClipReady)
    assert "c" not in await control.inventory()
    return event.error


async def test_a_wav_is_heard_as_it_is(control, server):
    samples = sine(440, 1.0)
    server.files["/a.wav"] = wav(samples.tobytes())
    await control.ok(wire.FetchClip, clip_id="c", url=server.url("/a.wav?token=x"), rate_hz=16_000)
    heard = await control.clip_samples("c")
    assert np.array_equal(heard, samples)
    assert server.asked == ["/a.wav?token=x"]


async def test_another_rate_is_converted(control, server):
    server.files["/a.wav"] = wav(sine(1000, 2.0, 44_100).tobytes(), 44_100)
    await control.ok(wire.FetchClip, clip_id="c", url=server.url("/a.wav"), rate_hz=8_000)
    heard = await control.clip_samples("c")
    assert abs(len(heard) - 16_000) < 10
    assert abs(loudest_hz(heard[4000:12_000], 8_000) - 1000) < 2
    assert abs(np.abs(heard[4000:12_000]).max() - 8000) < 200


async def test_no_such_file(control, server):
    assert await failure(control, server.url("/none.wav")) == "fetch: the server answered 404"


async def test_a_web_page(control, server):
    async def page(request):
        return web.Response(text="<html>", content_type="text/html")

    server.files["/page.wav"] = page
    assert await failure(control, server.url("/page.wav")) == "fetch: text/html is no audio"


async def test_no_server(control, unused_tcp_port):
    assert "cannot connect" in await failure(control, f"http://127.0.0.1:{unused_tcp_port}/a.wav")


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/a", "file:///etc/passwd", "http://", "nonsense", "http://[::1"])
async def test_no_http(control, url):
    assert await failure(control, url) == "fetch: not an http or https URL"


async def test_two_gigabytes(control, server):
    async def huge(request):
        response = web.StreamResponse(headers={"Content-Length": str(2 << 30)})
        await response.prepare(request)
        return response

    server.files["/huge"] = huge
    assert await failure(control, server.url("/huge")) == "fetch: more than 100 MiB"


async def test_an_endless_stream(control, server):
    server.files["/endless"] = server.endless
    assert await failure(control, server.url("/endless")) == "fetch: more than 100 MiB"
    await asyncio.wait_for(server.hung_up.wait(), EVENT_S)


async def test_not_audio(control, server):
    server.files["/a.wav"] = b"these are words" * 100
    assert await failure(control, server.url("/a.wav")) == "cannot decode: not a WAV file"
    server.files["/a.mp3"] = b"these are words" * 100
    assert (await failure(control, server.url("/a.mp3"))).startswith("cannot decode: ")
    server.files["/empty.wav"] = wav(b"")
    assert await failure(control, server.url("/empty.wav")) == "cannot decode: there is no audio in it"


async def test_compressed_by_the_server(control, server):
    server.files["/a.wav"] = wav(sine(440, 1.0).tobytes())
    server.headers["/a.wav"] = {"Content-Encoding": "gzip"}
    assert "compressed" in await failure(control, server.url("/a.wav"))


async def test_cancelled_while_fetching(control, server):
    server.files["/silent"] = server.silent
    await control.ok(wire.FetchClip, clip_id="c", url=server.url("/silent"), rate_hz=16_000)
    await asyncio.wait_for(server.was_asked.wait(), EVENT_S)
    assert "c" in await control.inventory()
    await control.ok(wire.CancelClip, clip_id="c")
    await asyncio.wait_for(server.hung_up.wait(), EVENT_S)
    assert "c" not in await control.inventory()
    control.none(wire.ClipFailed)


async def test_cancelled_while_decoding(control, server):
    """The clip is marked as given up, whoever plays it then knows."""
    server.files["/long"] = wav(sine(440, 600, 8000).tobytes() * 5, 8000)
    await control.ok(wire.FetchClip, clip_id="c", url=server.url("/long"), rate_hz=48_000)
    await control.event(wire.ClipReady, clip_id="c")
    clip = control.clip("c")
    assert len(clip.read(0, 480)) == 480
    await control.ok(wire.CancelClip, clip_id="c")
    async with asyncio.timeout(EVENT_S):
        while clip.state != FAILED:  # noqa: ASYNC110  memory tells nobody
            await asyncio.sleep(0.005)
    control.none(wire.ClipFailed)


async def test_asked_for_twice_it_is_announced_twice(control, server):
    """A new control does not know what its predecessor was told."""
    server.files["/long"] = wav(sine(440, 600, 8000).tobytes() * 5, 8000)
    for _ in range(2):
        await control.ok(wire.FetchClip, clip_id="c", url=server.url("/long"), rate_hz=48_000)
        await control.event(wire.ClipReady, clip_id="c")
    assert server.asked == ["/long"]
    await control.ok(wire.CancelClip, clip_id="c")


async def test_redirects(control, server):
    async def away(request):
        left = int(request.query["left"])
        raise web.HTTPFound(f"/away?left={left - 1}" if left > 1 else "/a.wav")

    server.files["/away"] = away
    server.files["/a.wav"] = wav(sine(440, 1.0).tobytes())
    await control.ok(wire.FetchClip, clip_id="five", url=server.url("/away?left=5"), rate_hz=16_000)
    assert len(await control.clip_samples("five")) == 16_000
    assert await failure(control, server.url("/away?left=6")) == "fetch: more than 5 redirects"


async def test_private_addresses_refused(new_control, server):
    control = new_control(fetch_allow_private=False)
    server.files["/a.wav"] = wav(sine(440, 1.0).tobytes())
    for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0"):
        error = await failure(control, f"http://{host}:{server.port}/a.wav")
        assert "private address" in error, host
    assert not server.asked


async def test_metadata_is_refused_always(control, server):
    async def to_metadata(request):
        raise web.HTTPFound("http://169.254.169.254/latest/meta-data")

    server.files["/a.wav"] = to_metadata
    for url in (server.url("/a.wav"), "http://169.254.169.254/", "http://[fe80::1]/"):
        assert "link-local" in await failure(control, url), url
