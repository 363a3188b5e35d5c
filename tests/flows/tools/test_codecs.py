"""The phones' codecs against vectors and properties that do not come from their own code."""

from __future__ import annotations

import numpy as np
import pytest

from tests.flows.tools.codecs import CODECS, sine
from tests.flows.tools.spectrum import level_db, tones


@pytest.mark.parametrize(
    ("name", "sample", "byte"),
    [
        ("PCMU", 0, 0xFF),
        ("PCMU", 32767, 0x80),
        ("PCMU", -32768, 0x00),
        ("PCMU", 8, 0xFE),
        ("PCMA", 0, 0xD5),
        ("PCMA", -1, 0x55),
        ("PCMA", 32767, 0xAA),
        ("PCMA", -32768, 0x2A),
        ("PCMA", 256, 0xC5),
    ],
)
def test_known_values(name: str, sample: int, byte: int) -> None:
    assert CODECS[name].encoder()(np.array([sample], np.int16)) == bytes([byte])


@pytest.mark.parametrize("name", ["PCMU", "PCMA"])
def test_every_byte_survives_a_round_trip(name: str) -> None:
    codec = CODECS[name]
    decoded = codec.decoder()(bytes(range(256)))
    again = codec.decoder()(codec.encoder()(decoded))
    assert np.array_equal(decoded, again)
    assert codec.encoder()(decoded).count(b"\x7f") <= 1  # μ-law's negative zero may become its positive one


@pytest.mark.parametrize("name", list(CODECS))
def test_a_tone_keeps_frequency_and_level(name: str) -> None:
    codec = CODECS[name]
    audio = sine(1000, codec.rate_hz, codec.rate_hz // 2)
    heard = codec.decoder()(codec.encoder()(audio))
    assert tones(heard, codec.rate_hz) == {1000}
    assert abs(level_db(heard, codec.rate_hz, 1000) - level_db(audio, codec.rate_hz, 1000)) < 1.0
