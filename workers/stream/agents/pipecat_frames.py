"""Pipecat's frames as bytes: the protobuf wire format of package `pipecat` (contract media.md, section 11.3), both ways.

Runs in: stream. Pure.
Owns: field numbers, and reading whatever a bot may send without trusting a length in it.

    Frame   oneof  1 text   2 audio   3 transcription   4 message   5 interruption
    field   varint key = number << 3 | wire type, then by wire type: 0 varint · 1 eight bytes · 2 length and bytes · 5 four bytes

Rules
1. Unknown fields are skipped, a repeated field's last value counts, absent ones are empty: protobuf's own rules.
2. By hand and not by the protobuf library: two schemas of MessageFrame are in use, and only the wire type tells them apart
   (field 1 is the JSON text, or a number and then field 3 is the text). Tests hold this file against the library.
3. Anything malformed is a ValueError.

Not here: what a frame means for the room → pipecat.
"""

from typing import NamedTuple

Fields = dict[int, int | bytes]

_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


class Text(NamedTuple):
    text: str


class Audio(NamedTuple):
    audio: bytes
    rate_hz: int
    channels: int


class Transcription(NamedTuple):
    text: str


class Json(NamedTuple):
    """A MessageFrame."""

    data: str


class Interruption(NamedTuple):
    pass


Frame = Text | Audio | Transcription | Json | Interruption


def read_frame(data: bytes) -> Frame | None:
    """None: a kind of frame that we do not know."""
    frame: Frame | None = None
    for number, value in _fields(data).items():
        if not isinstance(value, bytes):
            continue
        fields = _fields(value) if 1 <= number <= 5 else {}
        match number:
            case 1:
                frame = Text(_text(fields, 3))
            case 2:
                frame = Audio(_bytes(fields, 3), _number(fields, 4), _number(fields, 5))
            case 3:
                frame = Transcription(_text(fields, 3))
            case 4:
                frame = Json(_text(fields, 1 if isinstance(fields.get(1), bytes) else 3))
            case 5:
                frame = Interruption()
    return frame


def audio_frame(audio: bytes, rate_hz: int, channels: int) -> bytes:
    """Frame with an AudioRawFrame."""
    return _field(2, _field(3, audio) + _field(4, rate_hz) + _field(5, channels))


def text_frame(text: str) -> bytes:
    """Frame with a TextFrame."""
    return _field(1, _field(3, text.encode()))


def _fields(data: bytes) -> Fields:
    fields: Fields = {}
    position = 0
    while position < len(data):
        key, position = _varint(data, position)
        number, wire_type = key >> 3, key & 7
        match wire_type:
            case 0:  # _VARINT
                fields[number], position = _varint(data, position)
                continue
            case 1:
                length = 8
            case 2:
                length, position = _varint(data, position)
            case 5:
                length = 4
            case _:  # groups, which proto3 does not have
                raise ValueError(f"wire type {wire_type}")
        if not number or position + length > len(data):
            raise ValueError("truncated")
        if wire_type == _LENGTH:
            fields[number] = data[position : position + length]
        position += length
    return fields


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Value and the position behind it. At most ten bytes."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("varint without end")


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _as_varint(number << 3 | _VARINT) + _as_varint(value)
    return _as_varint(number << 3 | _LENGTH) + _as_varint(len(value)) + value


def _as_varint(value: int) -> bytes:
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)


def _bytes(fields: Fields, number: int) -> bytes:
    value = fields.get(number, b"")
    if not isinstance(value, bytes):
        raise ValueError(f"field {number} is a number")  # noqa: TRY004 - malformed is one kind of error here
    return value


def _number(fields: Fields, number: int) -> int:
    value = fields.get(number, 0)
    if not isinstance(value, int):
        raise ValueError(f"field {number} is no number")  # noqa: TRY004 - as above
    return value


def _text(fields: Fields, number: int) -> str:
    return _bytes(fields, number).decode()  # UnicodeDecodeError is a ValueError
