"""A block with a period more or less: the joints fit and the pitch stays."""

import numpy as np
import pytest

from workers.audio.stretch import drop_period, insert_period

from .voices import roughness, voice

each_change = pytest.mark.parametrize("change", [insert_period, drop_period])
each_rate = pytest.mark.parametrize("rate_hz", [8_000, 16_000, 48_000])


@each_change
@each_rate
@pytest.mark.parametrize("pitch_hz", [80, 120, 210, 350])
def test_a_voice_keeps_its_wave(change, rate_hz, pitch_hz):
    frame = rate_hz // 50
    whole = voice(pitch_hz, rate_hz, 0.1, seed=pitch_hz)
    history, block, after = whole[: 2 * frame], whole[2 * frame : 3 * frame], whole[3 * frame :]
    changed = change(block, history, rate_hz)
    difference = abs(len(changed) - frame)
    assert rate_hz * 2.4 / 1000 <= difference <= rate_hz * 15 / 1000
    assert (len(changed) > frame) == (change is insert_period)
    periods = difference * pitch_hz / rate_hz
    assert abs(periods - round(periods)) < 0.05 + 1.5 * pitch_hz / rate_hz
    heard = np.concatenate((history, changed, after))
    assert roughness(heard, 0, len(heard)) < 1.3 * roughness(whole, 0, len(whole))
    # The block's own end meets what follows it.
    assert np.array_equal(changed[-frame // 20 :], block[-frame // 20 :])


@each_change
def test_silence_full_scale_and_short_blocks(change):
    silence = np.zeros(160, np.int16)
    assert not change(silence, silence, 8_000).any()
    rng = np.random.default_rng(1)
    loud = np.where(rng.integers(0, 2, 400), 32767, -32768).astype(np.int16)
    for length in (80, 160, 240):
        changed = change(loud[160 : 160 + length], loud[:160], 8_000)
        assert changed.dtype == np.int16
        assert 20 <= abs(len(changed) - length) <= 120
        assert len(changed) >= length // 4
