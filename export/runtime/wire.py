"""A reader of protobuf messages, by a schema that lists the only fields they may have. Copies no data.

It lets `graph_limits` look into a graph without the `onnx` package, which a serving install does not have.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from distill.errors import BundleError

Schema = Mapping[int, "tuple[str, Schema | None]"]
"""Name of each field by its number; with the schema of the message in it, or None for a string, bytes or numbers."""

_VARINT, _BYTES = 0, 2
_FIXED_BYTES = {1: 8, 5: 4}


def parse(message: memoryview, schema: Schema, kind: str = "model") -> dict[str, list[Any]]:
    """Return the values of each field in the order in which they were sent: numbers, bytes, or messages as dictionaries.

    Args:
        message: The bytes of a message.
        schema: Its fields; those of messages in it are as deep as the schema.
        kind: Name of the message, for errors.

    Raises:
        BundleError: It is truncated, or has a field that is not in the schema.
    """
    found: dict[str, list[Any]] = defaultdict(list)
    for number, value in _fields(message):
        if number not in schema:
            raise BundleError(f"its {kind} has the ONNX field {number}, which no graph of `potstill export` has")
        name, inner = schema[number]
        if inner is not None and isinstance(value, int):
            raise BundleError(f"its {name} is a number, expected a message")
        found[name].append(value if inner is None or isinstance(value, int) else parse(value, inner, name))
    return found


def text_of(message: Mapping[str, list[Any]], name: str) -> str:
    """Return the last string with this name, as protobuf does; empty if there is none."""
    try:
        return str(message[name][-1], "utf-8") if message[name] else ""
    except (UnicodeDecodeError, TypeError) as exc:
        raise BundleError(f"its {name} is not UTF-8 text: {exc}") from exc


def whole_numbers(values: list[int | memoryview]) -> list[int]:
    """Return a repeated whole number, sent one by one or packed, as signed 64-bit numbers."""
    found = []
    for value in values:
        place = 0
        if isinstance(value, int):
            found.append(value)
            continue
        while place < len(value):
            number, place = _varint(value, place)
            found.append(number)
    return [number - (1 << 64) if number >> 63 else number for number in found]


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field: a varint as an unsigned number, everything else as bytes."""
    place, end = 0, len(message)
    while place < end:
        key, place = _varint(message, place)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if kind == _BYTES:
            size, place = _varint(message, place)
        elif kind in _FIXED_BYTES:
            size = _FIXED_BYTES[kind]
        else:
            raise BundleError(f"it has a field of wire type {kind}, which ONNX does not use")
        if size > end - place:
            raise BundleError("it ends in the middle of a field")
        yield number, message[place : place + size]
        place += size


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """Return an unsigned 64-bit number and the place after it."""
    value = shift = 0
    while place < len(message) and shift < 70:  # 7 bits a byte, so at most 10 bytes
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, place
        shift += 7
    raise BundleError("it ends in the middle of a number" if shift < 70 else "it has a number of more than 64 bits")
