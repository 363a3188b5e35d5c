"""Decoding: every format of the contract, files that lie, and decoders that die."""

import asyncio
import io
import struct
import tempfile

import numpy as np
import psutil
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from shm import messages as wire
from shm.clip import COMPLETE, FAILED, GROWING, Clip, ClipWriter
from workers.audio.g711 import alaw_encode, ulaw_encode
from workers.stream.decode_process import Order, Undecodable, decode, kind_of
from workers.stream.wav_format import NotWav, read_format

from .conftest import EVENT_S, loudest_hz, sine, wav

TONE = sine(1000, 1.0)


def decoded(data, rate_hz=16_000, **hints):
    """The samples that a file becomes, in this process."""
    writer = ClipWriter(20 * rate_hz)
    try:
        with tempfile.TemporaryFile(buffering=0) as file:
            file.write(data)
            for _ in decode(file, Order(rate_hz, **hints), writer):
                pass
        clip = Clip(writer.descriptor)
        assert clip.state == COMPLETE
        return clip.read(0, 1 << 30).copy()
    finally:
        del writer


def packed24(samples):
    wide = (samples.astype(np.int32) << 8).astype("<i4").view(np.uint8).reshape(-1, 4)
    return wide[:, :3].tobytes()


@pytest.mark.parametrize(
    ("tag", "bits", "data", "exact"),
    [
        (1, 8, ((TONE >> 8) + 128).astype(np.uint8).tobytes(), (TONE >> 8) << 8),
        (1, 16, TONE.tobytes(), TONE),
        (1, 24, packed24(TONE), TONE),
        (1, 32, (TONE.astype(np.int32) << 16).tobytes(), TONE),
        (3, 32, (TONE / 32768).astype("<f4").tobytes(), TONE),
        (6, 8, alaw_encode(TONE).tobytes(), None),
        (7, 8, ulaw_encode(TONE).tobytes(), None),
    ],
)
def test_wav_encodings(tag, bits, data, exact):
    heard = decoded(wav(data, tag=tag, bits=bits))
    if exact is not None:
        assert np.array_equal(heard, exact)
    assert len(heard) == len(TONE)
    assert np.abs(heard.astype(int) - TONE).max() < 300


def test_wav_extensible():
    guid_tail = bytes.fromhex("000000001000800000aa00389b71")
    tail = struct.pack("<HHIH", 22, 16, 4, 1) + guid_tail
    assert np.array_equal(decoded(wav(TONE.tobytes(), tag=0xFFFE, fmt_tail=tail)), TONE)


def test_stereo_is_averaged():
    left, right = TONE, np.zeros_like(TONE)
    heard = decoded(wav(np.stack([left, right], axis=1).tobytes(), channels=2))
    assert np.abs(heard - TONE // 2).max() <= 1


def test_unknown_and_odd_chunks_are_skipped():
    extra = b"LIST" + struct.pack("<I", 5) + b"abcde\0" + b"junk" + struct.pack("<I", 2) + b"xy"
    assert np.array_equal(decoded(wav(TONE.tobytes(), before_data=extra) + b"LIST\4\0\0\0tail"), TONE)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0xFFFFFFF0])
def test_a_data_size_that_means_the_end_of_the_file(size):
    assert np.array_equal(decoded(wav(TONE.tobytes(), data_bytes=size)), TONE)


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
@pytest.mark.parametrize("room_hz", [8_000, 16_000, 48_000])
def test_any_rate(rate_hz, room_hz):
    heard = decoded(wav(sine(1000, 1.0, rate_hz).tobytes(), rate_hz), room_hz)
    assert abs(len(heard) - room_hz) <= 2
    assert abs(loudest_hz(heard, room_hz) - 1000) < 2
    middle = heard[room_hz // 4 : -room_hz // 4]
    assert abs(np.abs(middle).max() - 8000) < 100


def test_what_the_room_cannot_carry_is_left_out():
    """A tone above the room's half rate leaves no image: at most -50 dB."""
    heard = decoded(wav(sine(6000, 1.0, 48_000).tobytes(), 48_000), 8_000)
    assert np.abs(heard[1000:-1000]).max() < 8000 / 316


@pytest.mark.parametrize(
    ("form", "subtype", "ending"),
    [
        ("MP3", "MPEG_LAYER_III", ".mp3"),
        ("FLAC", "PCM_16", ".flac"),
        ("OGG", "VORBIS", ".ogg"),
        ("OGG", "OPUS", ".opus"),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_compressed_formats(form, subtype, ending, channels):
    made = io.BytesIO()
    rate_hz = 48_000 if subtype == "OPUS" else 44_100
    tone = sine(1000, 1.0, rate_hz) / 32768
    soundfile.write(made, np.stack([tone] * channels, axis=1), rate_hz, format=form, subtype=subtype)
    for hints in ({"url_path": "/a" + ending}, {"url_path": "/a"}, {"url_path": "/a.wav"}):
        if form == "MP3" and hints["url_path"] == "/a.wav":
            continue  # MPEG sync is too weak a sign against a name
        heard = decoded(made.getvalue(), 16_000, **hints)
        assert abs(len(heard) - 16_000) < 1600
        assert abs(loudest_hz(heard, 16_000) - 1000) < 3


@pytest.mark.parametrize(("mime_type", "rate_hz"), [("audio/pcm", 16_000), ("audio/L16; rate=8000", 8_000)])
def test_raw_samples(mime_type, rate_hz):
    heard = decoded(sine(1000, 1.0, rate_hz).tobytes() + b"x", 16_000, mime_type=mime_type, url_path="/a.wav")
    assert abs(len(heard) - 16_000) <= 2
    assert abs(loudest_hz(heard, 16_000) - 1000) < 2


@pytest.mark.parametrize(
    ("hints", "head", "kind"),
    [
        ({"mime_type": "audio/pcm"}, b"RIFFxxxxWAVE", "raw"),
        ({"mime_type": "audio/mpeg"}, b"\xff\xfb", "library"),
        ({"mime_type": "audio/MP3"}, b"", "library"),
        ({"url_path": "/a.MP3"}, b"\0", "library"),
        ({"url_path": "/a.wav"}, b"\xff\xfb", "wav"),
        ({"url_path": "/a"}, b"\xff\xfb", "library"),
        ({"url_path": "/a"}, b"ID3", "library"),
        ({"url_path": "/a"}, b"RIFF", "wav"),
        ({"url_path": "/a"}, b"what?", "wav"),
    ],
)
def test_detection(hints, head, kind):
    assert kind_of(Order(16_000, **hints), head)[0] == kind


@pytest.mark.parametrize(
    ("data", "hints"),
    [
        (b"", {}),
        (b"RIFF", {}),
        (b"RIFF\0\0\0\0WAVE", {}),
        (wav(b""), {}),
        (wav(b"x"), {}),
        (wav(TONE.tobytes(), channels=9), {}),
        (wav(TONE.tobytes(), channels=0, bits=16), {}),
        (wav(TONE.tobytes(), rate_hz=0), {}),
        (wav(TONE.tobytes(), rate_hz=4_000_000_000), {}),
        (b"RIFF\0\0\0\0WAVE" + b"junk\xff\xff\xff\xff" * 5, {}),
        (b"RIFF\0\0\0\0WAVEdata\0\0\0\0abcd", {}),
        (TONE.tobytes(), {"mime_type": "audio/pcm;rate=0"}),
        (TONE.tobytes(), {"mime_type": "audio/pcm;rate=x"}),
        (TONE.tobytes(), {"mime_type": "audio/pcm;rate=99999999999999"}),
        (b"fLaC" + bytes(1000), {}),
        (b"OggS" + bytes(1000), {}),
        (b"ID3" + bytes(1000), {}),
    ],
)
def test_nonsense(data, hints):
    with pytest.raises((Undecodable, NotWav, soundfile.LibsndfileError)):
        decoded(data, **hints)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 60))
def test_any_bytes_are_read_or_refused(noise, position):
    """Headers damaged anywhere, and no headers at all."""
    good = bytearray(wav(TONE[:100].tobytes()))
    good[position : position + len(noise)] = noise
    for data in (bytes(good), noise, b"RIFF\0\0\0\0WAVE" + noise):
        try:
            form = read_format(io.BytesIO(data))
        except NotWav:
            continue
        assert 1 <= form.channels <= 8


def test_the_clips_limit_ends_what_is_too_long():
    writer = ClipWriter(1000)
    with tempfile.TemporaryFile(buffering=0) as file:
        file.write(wav(TONE.tobytes()))
        list(decode(file, Order(16_000), writer))
    clip = Clip(writer.descriptor)
    assert clip.state == COMPLETE
    assert np.array_equal(clip.read(0, 5000)[:1000], TONE[:1000])


def decoders(control):
    """(parent, forks) of the stream process."""
    tree = psutil.Process(control.pid).children(recursive=True)
    return tree[0], tree[1:]


async def test_a_decoder_that_dies_takes_one_clip_along(control, server):
    server.files["/long"] = wav(sine(440, 600, 8000).tobytes() * 9, 8000)
    server.files["/a.wav"] = wav(TONE.tobytes())
    await control.ok(wire.FetchClip, clip_id="long", url=server.url("/long"), rate_hz=48_000)
    await control.event(wire.ClipReady, clip_id="long")
    clip = control.clip("long")
    assert clip.state == GROWING
    for fork in decoders(control)[1]:
        fork.kill()
    assert (await control.event(wire.ClipFailed)).error == "cannot decode: the decoder gave up"
    assert clip.state == FAILED
    await control.ok(wire.FetchClip, clip_id="a", url=server.url("/a.wav"), rate_hz=16_000)
    assert np.array_equal(await control.clip_samples("a"), TONE)


async def test_the_parent_of_the_decoders_dies(control, server):
    server.files["/a.wav"] = wav(TONE.tobytes())
    for clip_id in ("a", "b", "c"):
        await control.ok(wire.FetchClip, clip_id=clip_id, url=server.url("/a.wav"), rate_hz=16_000)
        assert np.array_equal(await control.clip_samples(clip_id), TONE)
        decoders(control)[0].kill()


async def test_nobody_is_left_behind(control, server):
    server.files["/long"] = wav(sine(440, 600, 8000).tobytes() * 9, 8000)
    await control.ok(wire.FetchClip, clip_id="long", url=server.url("/long"), rate_hz=48_000)
    await control.event(wire.ClipReady)
    parent, forks = decoders(control)
    control.kill()
    async with asyncio.timeout(EVENT_S):
        while any(process.is_running() and process.status() != "zombie" for process in [parent, *forks]):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
