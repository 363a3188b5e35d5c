"""G.722 as a stream: quality, memory, reset."""

import numpy as np

from workers.audio.g722 import G722_RATE_HZ, G722Decoder, G722Encoder

FRAME_SAMPLES = 320


def sine(hz, seconds=1.0, amplitude=10_000):
    return (amplitude * np.sin(2 * np.pi * hz / G722_RATE_HZ * np.arange(int(seconds * G722_RATE_HZ)))).astype(np.int16)


def through(samples, encoder, decoder):
    packets = [encoder.encode(frame) for frame in samples.reshape(-1, FRAME_SAMPLES)]
    assert all(len(packet) == FRAME_SAMPLES // 2 for packet in packets)
    return np.concatenate([decoder.decode(packet) for packet in packets])


def snr_db(reference, heard):
    """Least over delays up to 2 ms: the codec's filter bank takes 22 samples."""

    def at(delay):
        wanted = reference[: len(reference) - delay].astype(float)[1600:]
        return 10 * np.log10((wanted**2).sum() / ((heard[delay:].astype(float)[1600:] - wanted) ** 2).sum())

    return max(at(delay) for delay in range(33))


def test_speech_band_sines_survive():
    for hz, least_db in ((300, 25), (1000, 25), (3000, 20)):
        samples = sine(hz)
        assert snr_db(samples, through(samples, G722Encoder(), G722Decoder())) > least_db


def test_the_wide_band_is_carried():
    heard = through(sine(6000), G722Encoder(), G722Decoder()).astype(float)
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard))))
    assert spectrum.argmax() == 6000


def test_packets_continue_one_stream():
    samples = sine(440)
    encoder = G722Encoder()
    whole = encoder.encode(samples)
    encoder.reset()
    assert b"".join(encoder.encode(frame) for frame in samples.reshape(-1, FRAME_SAMPLES)) == whole
    assert G722Encoder().encode(samples[FRAME_SAMPLES : 2 * FRAME_SAMPLES]) != whole[160:320]


def test_decoder_reset_forgets():
    packet = G722Encoder().encode(sine(440, 0.02))
    decoder = G722Decoder()
    first, second = decoder.decode(packet).copy(), decoder.decode(packet).copy()
    assert not np.array_equal(first, second)
    decoder.reset()
    assert np.array_equal(decoder.decode(packet), first)


def test_payload_types_and_odd_sizes():
    packet = G722Encoder().encode(sine(440, 0.02))
    expected = G722Decoder().decode(packet)
    assert expected.dtype == np.int16
    for payload in (bytearray(packet), memoryview(packet), np.frombuffer(packet, np.uint8)):
        assert np.array_equal(G722Decoder().decode(payload), expected)
    assert len(G722Decoder().decode(b"")) == 0
    assert len(G722Encoder().encode(np.zeros(161, np.int16))) == 80
