"""The cache: the contract's key and file, one synthesis for many, what leaves when it is full, and what may go wrong."""

import asyncio
import os
from contextlib import aclosing
from hashlib import sha256

import pytest

from workers.stream.speech.cache import SpeechCache, key_of
from workers.stream.speech.protocol import Category, SpeechError, SpeechRequest

REQUEST = SpeechRequest("Hello\nthere", "Sarah", "m1", "de", "softly", api_key="k")
HEAD = b"audio/pcm;rate=16000\n"


class Vendor:
    """A synthesizer whose pieces a test lets go one by one."""

    def __init__(self, *pieces, waits=False, error=None):
        self.pieces = pieces or (b"ab" * 100, b"cd" * 100)
        self.error = error
        self.calls = 0
        self.called = asyncio.Event()
        self.closed = asyncio.Event()
        self.gate = asyncio.Semaphore(0 if waits else 10_000)

    async def synthesize(self, request):
        self.calls += 1
        self.called.set()
        try:
            for piece in self.pieces:
                await self.gate.acquire()
                yield piece
            await self.gate.acquire()
            if self.error:
                raise self.error
        finally:
            self.closed.set()


@pytest.fixture
def failures():
    return []


@pytest.fixture
def make(tmp_path, failures):
    def make(max_bytes=0, *, include_api_key=False):
        return SpeechCache(
            tmp_path / "cache", max_bytes=max_bytes, include_api_key=include_api_key, on_failure=failures.append
        )

    return make


async def hear(cache, vendor, request=REQUEST, provider="elevenlabs"):
    audio = b"".join([piece async for piece in cache.synthesize(provider, request, vendor)])
    await asyncio.gather(*[utterance.task for utterance in cache._under_way.values()], return_exceptions=True)
    return audio


def entries(tmp_path):
    return sorted(path.name for path in (tmp_path / "cache").iterdir())


def test_the_key_is_the_contracts():
    joined = b"elevenlabs\0Sarah\0m1\0de\0softly\0Hello\nthere"
    assert key_of("elevenlabs", REQUEST, include_api_key=False) == sha256(joined).hexdigest()
    assert key_of("elevenlabs", REQUEST, include_api_key=True) == sha256(joined + b"\0k").hexdigest()
    bare = SpeechRequest("Ä", "V")
    assert key_of("aws", bare, include_api_key=False) == sha256("aws\0V\0\0\0\0Ä".encode()).hexdigest()
    assert key_of("aws", bare, include_api_key=True) == sha256("aws\0V\0\0\0\0Ä\0".encode()).hexdigest()


async def test_made_once_then_from_disk(make, tmp_path):
    vendor = Vendor()
    assert await hear(make(), vendor) == b"ab" * 100 + b"cd" * 100
    assert entries(tmp_path) == [key_of("elevenlabs", REQUEST, include_api_key=False)]
    assert (tmp_path / "cache" / entries(tmp_path)[0]).read_bytes() == HEAD + b"ab" * 100 + b"cd" * 100
    assert await hear(make(), vendor) == b"ab" * 100 + b"cd" * 100
    assert vendor.calls == 1


async def test_what_belongs_to_the_key(make, tmp_path):
    vendor = Vendor()
    cache = make()
    for request in (REQUEST, SpeechRequest("Hello\nthere", "Sarah", "m1", "de", "softly", api_key="other")):
        await hear(cache, vendor, request)
    assert vendor.calls == 1
    await hear(cache, vendor, provider="deepgram")
    await hear(make(include_api_key=True), vendor)
    assert vendor.calls == 3
    assert len(entries(tmp_path)) == 3


async def test_equal_requests_share_one_synthesis_from_the_beginning(make):
    vendor, cache = Vendor(b"11", b"22", b"33", waits=True), make()
    first = cache.synthesize("elevenlabs", REQUEST, vendor)
    vendor.gate.release()
    assert await anext(first) == b"11"
    second = cache.synthesize("elevenlabs", REQUEST, vendor)
    assert await anext(second) == b"11"
    vendor.gate.release()
    assert await asyncio.gather(anext(first), anext(second)) == [b"22", b"22"]
    vendor.gate.release()
    vendor.gate.release()
    assert [piece async for piece in first] == [b"33"]
    assert [piece async for piece in second] == [b"33"]
    assert vendor.calls == 1


async def test_one_may_leave_the_others_hear_on(make, tmp_path):
    vendor, cache = Vendor(b"11", b"22", waits=True), make()
    first, second = (cache.synthesize("elevenlabs", REQUEST, vendor) for _ in range(2))
    vendor.gate.release()
    await asyncio.gather(anext(first), anext(second))
    await first.aclose()
    assert not vendor.closed.is_set()
    vendor.gate.release()
    vendor.gate.release()
    assert [piece async for piece in second] == [b"22"]


async def test_when_all_leave_it_is_cancelled_and_can_be_begun_anew(make, tmp_path):
    vendor, cache = Vendor(b"11", b"22", waits=True), make()
    async with aclosing(cache.synthesize("elevenlabs", REQUEST, vendor)) as pieces:
        vendor.gate.release()
        await anext(pieces)
    again = Vendor(b"11", b"22")
    assert await hear(cache, again) == b"1122"  # at once: it does not join what is being cancelled
    await vendor.closed.wait()
    assert again.calls == 1
    assert len(entries(tmp_path)) == 1


async def test_a_listener_cancelled_while_it_waits_leaves_too(make):
    vendor, cache = Vendor(waits=True), make()
    task = asyncio.create_task(hear(cache, vendor))
    await vendor.called.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await vendor.closed.wait()
    assert not cache._under_way


async def test_a_failure_reaches_every_listener_and_leaves_no_file(make, tmp_path):
    vendor, cache = Vendor(b"11", error=SpeechError("cut", Category.RETRYABLE)), make()
    results = await asyncio.gather(*[hear(cache, vendor) for _ in range(3)], return_exceptions=True)
    assert [str(result) for result in results] == ["cut"] * 3
    assert vendor.calls == 1
    assert entries(tmp_path) == []
    assert await hear(cache, Vendor(b"11")) == b"11"


async def test_a_fault_of_ours_does_not_hang_listeners(make):
    with pytest.raises(ZeroDivisionError):
        await hear(make(), Vendor(b"11", error=ZeroDivisionError()))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        HEAD,
        HEAD + b"abc",
        b"audio/mpeg\n1234",
        b"audio/pcm;rate=24000\n1234",
        b"audio/pcm;rate=16000",
        b"\xff" * 100,
    ],
)
async def test_a_damaged_entry_is_made_anew(make, tmp_path, content):
    cache, path = make(), tmp_path / "cache" / key_of("elevenlabs", REQUEST, include_api_key=False)
    path.write_bytes(content)
    assert await hear(cache, Vendor(b"11")) == b"11"
    assert path.read_bytes() == HEAD + b"11"


async def test_an_entry_that_is_a_folder_is_no_obstacle(make, tmp_path, failures):
    cache = make()
    (tmp_path / "cache" / key_of("elevenlabs", REQUEST, include_api_key=False)).mkdir()
    assert await hear(cache, Vendor(b"11")) == b"11"
    assert "cannot write" in failures[0]


async def test_a_lost_directory_is_reported_and_heard_all_the_same(make, tmp_path, failures):
    cache = make()
    (tmp_path / "cache").rmdir()
    assert await hear(cache, Vendor(b"11")) == b"11"
    assert failures == [f"speech cache: cannot write to {tmp_path / 'cache'}: No such file or directory"]


def test_a_directory_that_cannot_be_made_ends_the_start(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"):
        SpeechCache(tmp_path / "file" / "cache", max_bytes=0, include_api_key=False, on_failure=print)


async def test_the_longest_unused_leave(make, tmp_path):
    size = len(HEAD) + 1000
    cache, vendor = make(max_bytes=3 * size), Vendor(b"x" * 1000)
    requests = [SpeechRequest(f"text {number}", "v") for number in range(4)]
    keys = [key_of("local", request, include_api_key=False) for request in requests]
    for number, request in enumerate(requests[:3]):
        await hear(cache, vendor, request, "local")
        os.utime(tmp_path / "cache" / keys[number], (1000 + number, 1000 + number))
    (tmp_path / "cache" / "README").write_bytes(b"y" * 10_000)  # not ours: neither counted nor removed
    await hear(cache, vendor, requests[0], "local")  # used again
    await hear(cache, vendor, requests[3], "local")
    assert set(entries(tmp_path)) == {keys[0], keys[2], keys[3], "README"}


async def test_what_is_larger_than_all_is_not_kept(make, tmp_path):
    cache = make(max_bytes=1000)
    await hear(cache, Vendor(b"x" * 500))
    other = SpeechRequest("other", "v")
    await hear(cache, Vendor(b"x" * 2000), other)
    assert entries(tmp_path) == [key_of("elevenlabs", REQUEST, include_api_key=False)]


async def test_old_partial_files_go_at_the_start(make, tmp_path):
    make()
    old, new = tmp_path / "cache" / "a.1.partial", tmp_path / "cache" / "b.2.partial"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    make()
    assert entries(tmp_path) == ["b.2.partial"]


async def test_a_long_entry_comes_in_pieces(make):
    cache = make()
    await hear(cache, Vendor(b"x" * 100_000))
    pieces = [piece async for piece in cache.synthesize("elevenlabs", REQUEST, Vendor())]
    assert [len(piece) for piece in pieces] == [32768, 32768, 32768, 1696]
