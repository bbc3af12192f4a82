"""Reading TensorBoard event files, as far as curves need it.

An event file is a chain of records (length, checksum of the length, content, checksum of the content); each content
is a protobuf message `Event`. Of its fields these are read:

    Event        1 wall_time (double)   2 step (int64)   5 summary
    Summary      1 value (repeated)
    Value        1 tag (string)   2 simple_value (float)   8 tensor
    TensorProto  1 dtype   4 tensor_content (bytes)   5 float_val   6 double_val

That is the whole of it, so a page of code does instead of the `tensorboard` package and its server.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.errors import StoreError

_CRC_TABLE: list[int] = []
for _byte in range(256):
    for _ in range(8):
        _byte = (_byte >> 1) ^ 0x82F63B78 if _byte & 1 else _byte >> 1
    _CRC_TABLE.append(_byte)
_LONG = 1 << 16  # bytes: pictures and graphs, whose checksum would take longer than all curves together

_DOUBLE, _INT = 1, 0
_FLOAT_TYPE, _DOUBLE_TYPE = 1, 2


@dataclass(frozen=True)
class Scalar:
    """One value of one curve."""

    name: str
    step: int
    wall_time: float  # seconds since 1970
    value: float


@dataclass
class EventFile:
    """What was read from one file, and what was not."""

    scalars: list[Scalar]
    skipped: int = 0
    """Values that are no curves: pictures, texts, histograms."""
    problem: str = ""
    """Why reading ended before the end of the file; empty when it did not."""


def read_events(path: Path) -> EventFile:
    """The curves of one event file. A file that is cut off or damaged yields what stands before that place.

    Raises:
        StoreError: it is not an event file at all.
    """
    found = EventFile([])
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror}).") from error
    position = 0
    while position < len(content):
        record = _record(content, position)
        if record is None:
            found.problem = f"{path.name} is damaged or cut off at byte {position:,} of {len(content):,}"
            break
        try:
            _take(record, found)
        except (struct.error, IndexError, UnicodeDecodeError, ValueError):
            found.problem = f"{path.name} holds a record at byte {position:,} that is no TensorBoard event"
            break
        position += 16 + len(record)
    if found.problem and position == 0:
        raise StoreError(f"{path} is not a TensorBoard event file.")
    return found


def _record(content: bytes, position: int) -> bytes | None:
    """The record's content, or None where it is damaged."""
    header = content[position : position + 12]
    if len(header) < 12:
        return None
    (length,) = struct.unpack_from("<Q", header)
    if masked_crc(header[:8]) != struct.unpack_from("<I", header, 8)[0]:
        return None
    record = content[position + 12 : position + 12 + length]
    tail = content[position + 12 + length : position + 16 + length]
    if len(tail) < 4 or (length < _LONG and masked_crc(record) != struct.unpack("<I", tail)[0]):
        return None
    return record


def masked_crc(content: bytes) -> int:
    """CRC-32C, rotated and shifted as TFRecord files have it."""
    crc = crc32c(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(content: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _take(event: bytes, found: EventFile) -> None:
    wall_time, step, summary = 0.0, 0, b""
    for field, value in _fields(event):
        if field == 1:
            wall_time = struct.unpack("<d", value)[0]
        elif field == 2:
            step = value - (1 << 64) if value >> 63 else value
        elif field == 5:
            summary = value
    for field, value in _fields(summary):
        if field == 1:
            name, number = _value(value)
            if number is None:
                found.skipped += 1
            else:
                found.scalars.append(Scalar(name, step, wall_time, number))


def _value(content: bytes) -> tuple[str, float | None]:
    name, number = "", None
    for field, value in _fields(content):
        if field == 1:
            name = value.decode()
        elif field == 2:
            number = struct.unpack("<f", value)[0]
        elif field == 8:
            number = _tensor(value)
    return name, number


def _tensor(content: bytes) -> float | None:
    """The number in a tensor of one number; None for any other."""
    kind, raw, packed = 0, b"", b""
    for field, value in _fields(content):
        if field == 1:
            kind = value
        elif field == 4:
            raw = value
        elif field in (5, 6):
            packed = value
    form = {_FLOAT_TYPE: "<f", _DOUBLE_TYPE: "<d"}.get(kind)
    number = raw or packed
    return struct.unpack(form, number)[0] if form and len(number) == struct.calcsize(form) else None


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a protobuf message: an int, or its bytes."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        field, wire = key >> 3, key & 7
        if wire == _INT:
            value, position = _varint(message, position)
            yield field, value
            continue
        if wire == 2:
            size, position = _varint(message, position)
        elif wire in (_DOUBLE, 5):
            size = 8 if wire == _DOUBLE else 4
        else:
            raise ValueError(f"wire type {wire}")
        if position + size > len(message):
            raise ValueError("a field that is longer than its message")
        yield field, message[position : position + size]
        position += size


def _varint(message: bytes, position: int) -> tuple[int, int]:
    """A number that takes seven bits of each byte, and the position after it."""
    number, shift = 0, 0
    while True:
        byte = message[position]
        number |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if not byte & 0x80:
            return number & (1 << 64) - 1, position
