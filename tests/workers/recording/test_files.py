"""One file of a recording as the writing thread fills it."""

import numpy as np
import pytest
import soundfile

from workers.recording.files import Sink

TICKS, FRAME = 25, 320


@pytest.mark.parametrize("sides", [1, 2])
def test_silence_is_a_hole_of_its_length(tmp_path, sides):
    sink = Sink(tmp_path / "a.wav", 16000, sides)
    sink.open()
    loud = np.arange(1, sides * TICKS * FRAME + 1).astype(np.int16).reshape(sides, TICKS, FRAME)
    for number in range(40):
        sink.write(1000, 1000 + number * TICKS, loud if number == 38 else np.zeros_like(loud))
        assert soundfile.info(tmp_path / "a.wav").frames == (number + 1) * TICKS * FRAME
    sink.close()
    samples, _ = soundfile.read(tmp_path / "a.wav", dtype="int16", always_2d=True)
    parts = samples.T.reshape(sides, 40, TICKS, FRAME)
    assert np.array_equal(parts[:, 38], loud)
    assert not np.delete(parts, 38, axis=1).any()
    assert (tmp_path / "a.wav").stat().st_blocks * 512 < 3 * loud.nbytes + 16384
