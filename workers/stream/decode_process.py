"""Decoders: a parent that has everything loaded, and a fork of it for each file. `python -m workers.stream.decode_process`.

Runs in: a child of stream (the parent), and its children. stream imports this module for `Order` alone.
Owns: how a file of any format becomes the samples of a clip, and what a hostile one may cost.

    parent   standard input is a SOCK_SEQPACKET socket: an Order (JSON), with descriptors [file, clip, answers]
    fork     writes to `answers`: b"r" once playing may begin, b"d" when all is written, or b"e" and a sentence.
             Nothing but end-of-file: it crashed.

Rules
1. A file is decoded in a process that has nothing to lose: limited in CPU and memory, at low priority, without any descriptor
   but its three. A crash costs that one clip.
2. Blocks grow from 0.25 s to 4 s, so that playing begins early; the clip's limit ends what never ends.
3. Who closes the other end of `answers` cancels: noticed at each block.

Not here: the fetch, who waits for the clip → `clips.py`; starting the parent → `decode.py`.
"""

import json
import os
import resource
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import BinaryIO, Literal
from urllib.parse import urlsplit

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from setproctitle import setproctitle

from shm.clip import ClipWriter
from workers.stream.wav_format import NotWav, UnknownEncoding, read_format, samples_of

ORDER_BYTES = 16 * 1024
CPU_LIMIT_S = 300
DATA_LIMIT_BYTES = 512 * 1024 * 1024
NICENESS = 10
FIRST_BLOCK_S, LAST_BLOCK_S = 0.25, 4.0
RATE_LIMITS_HZ = (4_000, 384_000)
CHANNELS_LIMIT = 8
_MAGICS = (b"fLaC", b"OggS", b"ID3", b"FORM", b".snd")
_DEFAULT_RAW_HZ = 16_000

Samples = NDArray[np.float32]


class Undecodable(ValueError):
    """Its text is for people."""


@dataclass(frozen=True)
class Order:
    """`url_path`: the path of the URL, whose ending is a hint."""

    rate_hz: int
    mime_type: str = ""
    url_path: str = ""

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode()


# ------------------------------------------------------------------------------------------------ formats


def kind_of(order: Order, head: bytes) -> tuple[Literal["raw", "wav", "library"], int]:
    """How to read it, and the rate of raw samples (contract media.md, section 5).

    A file that shows what it is (RIFF, FLAC, Ogg, ID3) is read as that even where its name says otherwise; MPEG sync is too
    weak a sign for that.
    """
    mime, _, parameters = order.mime_type.lower().partition(";")
    if mime.strip() in {"audio/pcm", "audio/l16"}:
        return "raw", _rate_in(parameters)
    if head[:4] in (b"RIFF", b"RF64"):
        return "wav", 0
    if head.startswith(_MAGICS):
        return "library", 0
    path = urlsplit(order.url_path).path.lower()
    if mime.strip() in {"audio/mpeg", "audio/mp3"} or path.endswith(".mp3"):
        return "library", 0
    if not path.endswith(".wav") and len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        return "library", 0
    return "wav", 0


def _rate_in(parameters: str) -> int:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "rate":
            if not value.strip().isdecimal() or len(value) > 9:
                raise Undecodable("mime_type: rate is not a number")
            return int(value)
    return _DEFAULT_RAW_HZ


def blocks_of(file: BinaryIO, order: Order) -> tuple[int, Iterator[Samples]]:
    """The file's rate, and its samples as mono blocks. `file` is not buffered: the library reads it by its descriptor, which
    knows nothing of what Python has read ahead. Raises Undecodable, NotWav, soundfile.LibsndfileError."""
    file.seek(0)
    head = file.read(16)
    file.seek(0)
    kind, raw_hz = kind_of(order, head)
    if kind == "raw":
        return _checked(raw_hz), _pcm_blocks(file, raw_hz)
    if kind == "wav":
        try:
            return _wav_blocks(file)
        except UnknownEncoding:
            file.seek(0)  # ADPCM, GSM and others inside WAV
    return _library_blocks(file)


def _checked(rate_hz: int) -> int:
    if not RATE_LIMITS_HZ[0] <= rate_hz <= RATE_LIMITS_HZ[1]:
        raise Undecodable(f"a sample rate of {rate_hz} Hz")
    return rate_hz


def _block_frames(rate_hz: int) -> Iterator[int]:
    seconds = FIRST_BLOCK_S
    while True:
        yield int(seconds * rate_hz)
        seconds = min(2 * seconds, LAST_BLOCK_S)


def _pcm_blocks(file: BinaryIO, rate_hz: int) -> Iterator[Samples]:
    for frames in _block_frames(rate_hz):
        data = file.read(2 * frames)
        if len(data) < 2:
            return
        yield samples_of(data[: len(data) & ~1], "pcm16", 1)[:, 0]


def _wav_blocks(file: BinaryIO) -> tuple[int, Iterator[Samples]]:
    form = read_format(file)

    def blocks() -> Iterator[Samples]:
        left = form.data_bytes
        for frames in _block_frames(form.rate_hz):
            wanted = frames * form.frame_bytes
            data = file.read(wanted if left is None else min(wanted, left))
            whole = len(data) // form.frame_bytes * form.frame_bytes
            if not whole:
                return
            yield samples_of(data[:whole], form.encoding, form.channels).mean(axis=1)
            if left is not None:
                left -= len(data)

    return _checked(form.rate_hz), blocks()


def _library_blocks(file: BinaryIO) -> tuple[int, Iterator[Samples]]:
    sound = soundfile.SoundFile(file.fileno(), closefd=False)
    if sound.channels > CHANNELS_LIMIT:
        raise Undecodable(f"{sound.channels} channels")

    def blocks() -> Iterator[Samples]:
        for frames in _block_frames(sound.samplerate):
            block = sound.read(frames, dtype="float32", always_2d=True)
            if not len(block):
                return
            yield np.nan_to_num(block.clip(-1, 1)).mean(axis=1)

    return _checked(sound.samplerate), blocks()


# ------------------------------------------------------------------------------------------------ one file


def decode(file: BinaryIO, order: Order, clip: ClipWriter) -> Iterator[None]:
    """Yields each time the clip has grown; has completed it at the end. Raises Undecodable, NotWav, LibsndfileError."""
    rate_hz, blocks = blocks_of(file, order)
    converter = None if rate_hz == order.rate_hz else soxr.ResampleStream(rate_hz, order.rate_hz, 1, dtype="float32")
    total = 0
    for block in blocks:
        samples = block if converter is None else converter.resample_chunk(block)
        total += len(samples)
        if not clip.append(_as_int16(samples)):
            break
        yield
    else:
        if converter is not None:
            rest = converter.resample_chunk(np.zeros(0, np.float32), last=True)
            total += len(rest)
            clip.append(_as_int16(rest))
    if not total:
        raise Undecodable("there is no audio in it")
    clip.complete()
    yield


def _as_int16(samples: Samples) -> NDArray[np.int16]:
    rounded: NDArray[np.int16] = np.rint((samples * 32768).clip(-32768, 32767)).astype(np.int16)
    return rounded


def _serve(file: BinaryIO, order: Order, clip: ClipWriter, answers: socket.socket) -> None:
    listener = select.poll()
    listener.register(answers, 0)  # POLLHUP and POLLERR come unasked
    try:
        for number, _ in enumerate(decode(file, order, clip)):
            if number == 0:
                answers.send(b"r")
            if listener.poll(0):
                return
    except (Undecodable, NotWav) as error:
        answers.send(b"e" + str(error).encode())
    except soundfile.LibsndfileError as error:
        answers.send(b"e" + error.error_string.encode()[:200])
    else:
        answers.send(b"d")


# ------------------------------------------------------------------------------------------------ processes


def main() -> None:
    """Fork on demand, until nobody can demand any more."""
    setproctitle("roomtone: decoder")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the whole group gets these; we leave when our socket closes
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    soxr.ResampleStream(44_100, 16_000, 1, dtype="float32").resample_chunk(np.zeros(4410, np.float32))
    with socket.socket(fileno=os.dup(0)) as control:
        while True:
            data, descriptors, _, _ = socket.recv_fds(control, ORDER_BYTES, 3)
            if not data:
                return
            if len(descriptors) == 3 and not os.fork():
                control.close()
                os.close(0)
                _become_decoder(Order(**json.loads(data)), *descriptors)
            for descriptor in descriptors:
                os.close(descriptor)


def _become_decoder(order: Order, file_fd: int, clip_fd: int, answers_fd: int) -> None:
    """In the child."""
    try:
        os.nice(NICENESS)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT_S, CPU_LIMIT_S))
        resource.setrlimit(resource.RLIMIT_DATA, (DATA_LIMIT_BYTES, DATA_LIMIT_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with (
            socket.socket(fileno=answers_fd) as answers,
            os.fdopen(file_fd, "rb", buffering=0) as file,
            suppress(OSError),
        ):
            _serve(file, order, ClipWriter(descriptor=clip_fd), answers)
    finally:
        os._exit(0)  # nothing of the parent's is to be undone here


if __name__ == "__main__":
    main()
