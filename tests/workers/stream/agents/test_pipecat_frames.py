"""Our reading and writing of Pipecat's frames against the protobuf library's."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vendors.pipecat import FRAME, OLD_FRAME
from workers.stream.agents import pipecat_frames as frames

ids = st.integers(0, 2**64 - 1)
texts = st.text(max_size=300)
named = {"id": ids, "name": texts}
numbers = st.integers(0, 2**32 - 1)


@given(st.fixed_dictionaries({**named, "text": texts}))
def test_text(fields):
    assert frames.read_frame(FRAME(text=fields).SerializeToString()) == frames.Text(fields["text"])


@given(
    st.fixed_dictionaries(
        {**named, "audio": st.binary(max_size=2000), "sample_rate": numbers, "num_channels": numbers},
        optional={"pts": ids},
    )
)
def test_audio(fields):
    expected = frames.Audio(fields["audio"], fields["sample_rate"], fields["num_channels"])
    assert frames.read_frame(FRAME(audio=fields).SerializeToString()) == expected


@given(st.fixed_dictionaries({**named, "text": texts, "user_id": texts, "timestamp": texts}))
def test_transcription(fields):
    wire = FRAME(transcription=fields).SerializeToString()
    assert frames.read_frame(wire) == frames.Transcription(fields["text"])


@given(texts, ids, texts)
def test_both_message_frames(text, number, name):
    assert frames.read_frame(FRAME(message={"data": text}).SerializeToString()) == frames.Json(text)
    old = OLD_FRAME(message={"id": number, "name": name, "message": text})
    assert frames.read_frame(old.SerializeToString()) == frames.Json(text)


def test_interruption_and_the_unknown():
    assert frames.read_frame(FRAME(interruption={"id": 1, "name": "i"}).SerializeToString()) == frames.Interruption()
    assert frames.read_frame(b"") is None
    assert frames.read_frame(b"\x32\x00") is None  # field 6


@given(st.binary(max_size=2000), numbers, numbers)
def test_our_audio_is_read_by_the_library(audio, rate_hz, channels):
    frame = FRAME.FromString(frames.audio_frame(audio, rate_hz, channels))
    assert (frame.audio.audio, frame.audio.sample_rate, frame.audio.num_channels) == (audio, rate_hz, channels)


@given(texts)
def test_our_text_is_read_by_the_library(text):
    assert FRAME.FromString(frames.text_frame(text)).text.text == text


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_a_value_error(data):
    with suppress(ValueError):
        frames.read_frame(data)


@given(st.integers(1, 5), st.binary(max_size=100))
def test_any_bytes_in_a_frame_too(number, data):
    with suppress(ValueError):
        frames.read_frame(bytes([number << 3 | 2, len(data)]) + data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x12",  # a length is missing
        b"\x12\x05\x1a",  # shorter than its length
        b"\x12\x02\x1a\x7f",  # the same inside
        b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a length of eleven bytes
        b"\x13\x14",  # a group
        b"\x02\x00",  # field 0
        b"\x12\x02\x18\x05",  # audio that is a number
        b"\x12\x03\x22\x01\x00",  # a rate that is bytes
        b"\x0a\x03\x1a\x01\xff",  # text that is not UTF-8
    ],
)
def test_malformed(data):
    with pytest.raises(ValueError):  # noqa: PT011 - of whatever words
        frames.read_frame(data)
