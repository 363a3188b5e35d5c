"""PocketSphinx in OS processes of its own: a parent that has loaded the model, and a fork of it for each participant.

Runs in: a child of stream (the parent), and its children. Nothing of ours is imported, and this file is imported by nothing.
Owns: the recogniser and the detection of where an utterance begins and ends.

    parent   standard input is a socket: one byte, b"p" (with partials) or b"f" (finals only), and a socket beside it
    fork     that socket: 16 kHz signed 16-bit little-endian mono in, until end of file; out, a line of JSON for each text:
             {"text", "is_final", "start_ms", "end_ms"}, counted from the first sample

Rules
1. Loading takes half a second and 100 MB; a fork takes milliseconds and shares them.
2. An utterance is recognised when it is over, as a whole: normalised by its own mean it is understood far better than frame by
   frame. Partials cost a second recognition beside it; without them there is none.
3. Digital silence is outside of what the model knows and spoils whole sentences; a little noise goes below everything.
4. Recognition is nobody's real-time work: it runs with low priority, and its cost (a third of a core while somebody speaks)
   is paid for detected speech only. An utterance that does not end is cut after MAX_UTTERANCE_SECONDS.
5. Who is gone is noticed by end of file or by a broken pipe; then the process ends.

Not here: the feed, time limits → local.
"""

import json
import os
import signal
import socket
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np
from pocketsphinx import Decoder, Endpointer

RATE_HZ = 16_000
MAX_UTTERANCE_SECONDS = 15.0
PARTIAL_FRAMES = 10  # 300 ms between two looks at what was understood so far
NOISE_DEVIATION = 10.0  # in sample values: -70 dBFS
NICENESS = 5


def main() -> None:
    """Fork on demand, until nobody can demand any more."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the whole group gets these; we leave when our socket closes
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    with socket.socket(fileno=os.dup(0)) as control:
        decoder = Decoder(samprate=RATE_HZ, loglevel="FATAL")
        while True:
            mode, descriptors, _, _ = socket.recv_fds(control, 1, 1)
            if not mode:
                return
            with socket.socket(fileno=descriptors[0]) as participant:
                if os.fork():
                    continue
                control.close()
                os.close(0)
                os.nice(NICENESS)
                with participant.makefile("rb") as audio, participant.makefile("wb") as texts:
                    with suppress(OSError):  # nobody listens any more
                        Listener(decoder, texts, with_partials=mode == b"p").listen(audio)
                    os._exit(0)  # nothing of the parent's is to be undone here


class Listener:
    """One participant."""

    def __init__(self, decoder: Any, texts: BinaryIO, *, with_partials: bool) -> None:
        self._decoder = decoder
        self._texts = texts
        self._with_partials = with_partials
        self._endpointer = Endpointer(sample_rate=RATE_HZ)
        self._frame_bytes = self._endpointer.frame_bytes
        self._max_frames = int(MAX_UTTERANCE_SECONDS * 2 * RATE_HZ) // self._frame_bytes
        self._noise = np.random.default_rng(0)
        self._frames: list[bytes] = []  # of the running utterance
        self._is_continued = False  # it began with a cut
        self._start_ms = 0
        self._end_ms = 0
        self._told = ""

    def listen(self, audio: BinaryIO) -> None:
        """To the end of the audio."""
        detector = self._endpointer
        while len(frame := audio.read(self._frame_bytes)) == self._frame_bytes:
            speech = detector.process(self._noisy(frame))
            if speech is not None:
                self._hear(speech)
                if not detector.in_speech or len(self._frames) >= self._max_frames:
                    self._is_continued = detector.in_speech
                    self._finish()
        if detector.in_speech:
            rest = frame[: len(frame) & ~1] or bytes(2)  # the library takes no empty frame
            self._hear(detector.end_stream(self._noisy(rest)) or b"")
        if self._frames:
            self._finish()

    def _hear(self, speech: bytes) -> None:
        if not self._frames:
            self._start_ms = self._end_ms if self._is_continued else round(self._endpointer.speech_start * 1000)
            self._end_ms = self._start_ms
            if self._with_partials:
                self._decoder.start_utt()
        self._frames.append(speech)
        self._end_ms += len(speech) * 1000 // (2 * RATE_HZ)
        if self._with_partials:
            self._decoder.process_raw(speech, False, False)  # searching, not a whole utterance
            if len(self._frames) % PARTIAL_FRAMES == 0:
                self._tell(is_final=False)

    def _finish(self) -> None:
        if self._with_partials:
            self._decoder.end_utt()
        self._decoder.start_utt()
        self._decoder.process_raw(b"".join(self._frames), False, True)  # a whole utterance
        self._decoder.end_utt()
        self._tell(is_final=True)
        self._frames.clear()
        self._told = ""

    def _tell(self, *, is_final: bool) -> None:
        hypothesis = self._decoder.hyp()
        text = hypothesis.hypstr if hypothesis else ""
        if text and (is_final or text != self._told):
            line = {"text": text, "is_final": is_final, "start_ms": self._start_ms, "end_ms": self._end_ms}
            self._texts.write(json.dumps(line).encode() + b"\n")
            self._texts.flush()
        self._told = text

    def _noisy(self, frame: bytes) -> bytes:
        samples = np.frombuffer(frame, np.int16)
        noise = self._noise.normal(0.0, NOISE_DEVIATION, len(samples))
        return (samples + noise).clip(-32768, 32767).astype(np.int16).tobytes()


if __name__ == "__main__":
    main()
