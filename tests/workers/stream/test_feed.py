"""The queue between a participant and a vendor."""

import asyncio

from workers.stream.feed import AudioFeed


async def test_what_goes_in_comes_out_until_the_end():
    feed = AudioFeed(10)
    feed.push(b"1")
    feed.push(b"2")
    feed.close()
    feed.push(b"3")
    assert [await feed.get(), await feed.get(), await feed.get(), await feed.get()] == [b"1", b"2", None, None]


async def test_a_full_feed_drops_its_oldest_and_counts():
    feed = AudioFeed(3)
    for number in range(5):
        feed.push(bytes([number]))
    feed.close()
    assert [await feed.get(), await feed.get(), await feed.get()] == [b"\2", b"\3", b"\4"]
    assert feed.dropped_chunks == 2


async def test_a_cancelled_reader_loses_nothing():
    feed = AudioFeed(3)
    reading = asyncio.create_task(feed.get())
    await asyncio.sleep(0)
    feed.push(b"1")
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    assert await feed.get() == b"1"


async def test_who_waits_for_audio_sees_the_end():
    feed = AudioFeed(3)
    reading, ending = asyncio.create_task(feed.get()), asyncio.create_task(feed.wait_closed())
    await asyncio.sleep(0)
    feed.close()
    assert await reading is None
    await ending
