"""The WAV file that is valid at every moment, read back by the standard library and by eye."""

import errno
import os
import stat
import struct
import wave

import numpy as np
import pytest

from workers.recording import wav_file
from workers.recording.wav_file import WavFile


def samples(*values):
    return memoryview(np.array(values, np.int16)).cast("B")


def read(path):
    with wave.open(str(path), "rb") as file:
        return file.getframerate(), file.getnchannels(), np.frombuffer(file.readframes(1 << 30), np.int16)


def long_header(path):
    """(data bytes, frames, channels, rate) of an RF64 file, its sizes checked against each other (EBU Tech 3306)."""
    with path.open("rb") as file:
        header = file.read(80)
    riff, size, form, ds64, ds64_size, whole, data, frames, table = struct.unpack_from("<4sI4s4sIQQQI", header)
    assert (riff, size, form, ds64, ds64_size, table) == (b"RF64", 0xFFFFFFFF, b"WAVE", b"ds64", 28, 0)
    fmt, fmt_size, tag, channels, rate_hz, bytes_per_second, block, bits = struct.unpack_from("<4sIHHIIHH", header, 48)
    assert (fmt, fmt_size, tag, bits) == (b"fmt ", 16, 1, 16)
    assert (bytes_per_second, block) == (rate_hz * block, channels * 2)
    assert struct.unpack_from("<4sI", header, 72) == (b"data", 0xFFFFFFFF)
    assert whole == path.stat().st_size - 8 == data + 72
    assert data == frames * block
    return data, frames, channels, rate_hz


def test_after_each_step_it_is_a_plain_wav_with_44_bytes_before_the_samples(tmp_path):
    path = tmp_path / "a.wav"
    file = WavFile.create(path, 8000, 2)
    assert read(path)[:2] == (8000, 2)
    file.write(0, samples(1, 2, 3, 4))
    assert read(path)[2].tolist() == [1, 2, 3, 4]
    file.write(3, samples(7, 8))
    assert read(path)[2].tolist() == [1, 2, 3, 4, 0, 0, 7, 8]
    file.extend(6)
    file.extend(2)
    assert read(path)[2].tolist() == [1, 2, 3, 4, 0, 0, 7, 8, 0, 0, 0, 0]
    assert path.stat().st_size == 44 + 24
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    file.close()


def test_the_mode_does_not_depend_on_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        WavFile.create(tmp_path / "a.wav", 8000, 1).close()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.wav").stat().st_mode) == 0o644


def test_reopened_it_counts_what_reached_the_file_after_the_last_header(tmp_path):
    path = tmp_path / "a.wav"
    file = WavFile.create(path, 16000, 1)
    file.write(0, samples(1, 2, 3))
    file.close()
    with path.open("ab") as raw:
        raw.write(b"\4\0\5\0\6")  # a writer killed before the header, in the middle of a sample
    assert read(path)[2].tolist() == [1, 2, 3]
    file = WavFile.reopen(path)
    assert (file.rate_hz, file.channels, file.frames) == (16000, 1, 5)
    assert read(path)[2].tolist() == [1, 2, 3, 4, 5]
    file.write(5, samples(9))
    assert read(path)[2].tolist() == [1, 2, 3, 4, 5, 9]
    file.close()


def test_an_open_file_is_locked_and_none_is_overwritten(tmp_path):
    path = tmp_path / "a.wav"
    file = WavFile.create(path, 16000, 1)
    with pytest.raises(BlockingIOError):
        WavFile.reopen(path)
    with pytest.raises(FileExistsError):
        WavFile.create(path, 16000, 1)
    file.close()
    WavFile.reopen(path).close()


def test_what_is_not_ours_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"RIFF" + bytes(100))
    with pytest.raises(OSError, match="not a recording"):
        WavFile.reopen(path)
    WavFile.create(tmp_path / "b.wav", 8000, 1).close()  # the refused one holds no descriptor or lock


def test_beyond_4_gib_it_becomes_rf64_where_it_was(tmp_path):
    path = tmp_path / "a.wav"
    file = WavFile.create(path, 48000, 2)
    last_plain = (0xFFFFFFFF - 44) // 4
    file.write(10, samples(1, -1))
    file.extend(last_plain)  # sparse: takes no room
    with path.open("rb") as raw:
        header = raw.read(44)
    assert header[:4] == b"RIFF"
    assert struct.unpack_from("<I", header, 4)[0] == last_plain * 4 + 36
    file.write(last_plain - 1, samples(5, 6, 7, 8))
    assert long_header(path) == ((last_plain + 1) * 4, last_plain + 1, 2, 48000)
    with pytest.raises(BlockingIOError):
        WavFile.reopen(path)
    file.close()
    assert path.stat().st_blocks * 512 < 1 << 20
    file = WavFile.reopen(path)
    assert file.frames == last_plain + 1
    found = np.zeros(6, np.int16)
    file.read_into(last_plain - 1, memoryview(found).cast("B"))
    assert found.tolist() == [5, 6, 7, 8, 0, 0]
    file.read_into(9, memoryview(found).cast("B"))
    assert found.tolist() == [0, 0, 1, -1, 0, 0]
    file.extend(last_plain + 100)
    assert long_header(path)[1] == last_plain + 100
    file.close()
    assert [one.name for one in tmp_path.iterdir()] == ["a.wav"]


def test_a_file_known_to_be_long_starts_with_the_long_header(tmp_path):
    file = WavFile.create(tmp_path / "a.wav", 48000, 50, frames_planned=1 << 26)
    file.write(0, samples(*range(50)))
    assert long_header(tmp_path / "a.wav") == (100, 1, 50, 48000)
    file.close()


def test_a_failed_step_to_rf64_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(wav_file, "_SIZE_LIMIT", 100)
    path = tmp_path / "a.wav"
    file = WavFile.create(path, 8000, 1)
    file.write(0, samples(1, 2, 3))

    def refuse(*_args):
        raise OSError(28, "no space left on device")

    with monkeypatch.context() as context:
        context.setattr(os, "copy_file_range", refuse)
        with pytest.raises(OSError, match="no space"):
            file.write(3, samples(*range(40)))
    assert read(path)[2].tolist() == [1, 2, 3]
    file.write(3, samples(4))
    assert read(path)[2].tolist() == [1, 2, 3, 4]
    file.close()
    assert [one.name for one in tmp_path.iterdir()] == ["a.wav"]


def test_where_not_even_the_header_fits_nothing_is_left(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(wav_file.os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        WavFile.create(tmp_path / "a.wav", 8000, 1)
    assert list(tmp_path.iterdir()) == []
