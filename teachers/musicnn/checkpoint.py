"""Float32 tensors of a TensorFlow checkpoint, read without TensorFlow.

`.index` is a sorted string table (that of LevelDB, not compressed) from the names of tensors to protocol buffers
(BundleEntryProto: 1 dtype, 2 shape, 4 offset, 5 size), and `.data-00000-of-00001` holds the tensors' bytes.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from teachers.base import TeacherError

INDEX, DATA = ".index", ".data-00000-of-00001"
MAGIC = bytes.fromhex("57fb808b247547db")
FOOTER_BYTES, MAX_VARINT_BYTES, FLOAT32 = 48, 10, 1

Message = dict[int, list[int | bytes]]  # the values of each field, in order


def read_checkpoint(folder: Path, again: str) -> dict[str, Tensor]:
    """The float32 tensors of a checkpoint by name; TeacherError, with the remedy `again`, if it is damaged."""
    try:
        table, data = (folder / INDEX).read_bytes(), (folder / DATA).read_bytes()
        entries = {name.decode(): message(value) for name, value in table_entries(table) if name}  # "" is the header
        return {name: tensor(entry, data) for name, entry in entries.items() if number(entry, 1) == FLOAT32}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise TeacherError(folder, f"holds no whole checkpoint ({error})", again) from None


def tensor(entry: Message, data: bytes) -> Tensor:
    """The tensor that an entry of the index describes; ValueError if its bytes are not in the data."""
    shape = [number(message(dim), 1) for dims in raw(entry, 2) for dim in raw(message(dims), 2)]
    size = number(entry, 5)
    if size != 4 * math.prod(shape):
        raise ValueError(f"{size} bytes for a tensor of {shape}")
    return torch.from_numpy(np.frombuffer(cut(data, number(entry, 4), size), "<f4").reshape(shape).copy())


def number(fields: Message, key: int) -> int:
    """The number in a field, 0 if it is left out; ValueError if it holds bytes."""
    value = fields.get(key, [0])[-1]
    if not isinstance(value, int):
        raise ValueError(f"field {key} holds no number")
    return value


def raw(fields: Message, key: int) -> list[bytes]:
    """The bytes in a field, as often as it occurs; ValueError if it holds numbers."""
    values = [value for value in fields.get(key, []) if isinstance(value, bytes)]
    if len(values) < len(fields.get(key, [])):
        raise ValueError(f"field {key} holds numbers")
    return values


def table_entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a string table, in order."""
    footer = cut(table, len(table) - FOOTER_BYTES, FOOTER_BYTES)
    if not footer.endswith(MAGIC):
        raise ValueError("the index does not end as one")
    at = handle(footer, 0)[2]  # behind the handle of the block about blocks, which is empty
    for _, value in block_entries(table, *handle(footer, at)[:2]):
        yield from block_entries(table, *handle(value, 0)[:2])


def handle(data: bytes, at: int) -> tuple[int, int, int]:
    """Offset and size of a block, and where the next handle begins."""
    offset, at = varint(data, at)
    size, at = varint(data, at)
    return offset, size, at


def block_entries(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block; a key repeats the beginning of the one before it."""
    if cut(table, offset + size, 1) != b"\0":
        raise ValueError("the index is compressed")
    block = cut(table, offset, size)
    n_restarts = int.from_bytes(cut(block, size - 4, 4), "little")
    end, at, key = size - 4 * (n_restarts + 1), 0, b""
    while at < end:
        shared, at = varint(block, at)
        n_key, at = varint(block, at)
        n_value, at = varint(block, at)
        key, at = cut(key, 0, shared) + cut(block, at, n_key), at + n_key
        value, at = cut(block, at, n_value), at + n_value
        yield key, value


def message(data: bytes) -> Message:
    """The fields of a protocol buffer: numbers, and bytes for what has a length; each as often as it occurs.

    >>> message(bytes([8, 150, 1, 18, 2, 104, 105]))
    {1: [150], 2: [b'hi']}
    """
    fields: Message = {}
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        kind = tag & 7
        value: int | bytes
        if kind == 0:
            value, at = varint(data, at)
        elif kind == 2:
            n, at = varint(data, at)
            value, at = cut(data, at, n), at + n
        elif kind in (1, 5):
            n = 8 if kind == 1 else 4
            value, at = int.from_bytes(cut(data, at, n), "little"), at + n
        else:
            raise ValueError(f"a field of kind {kind}")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number of seven bits a byte that begins at `at`, and where it ends.

    >>> varint(bytes([150, 1]), 0)
    (150, 2)
    """
    value = 0
    for i, byte in enumerate(data[at : at + MAX_VARINT_BYTES]):
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            return value, at + i + 1
    raise ValueError("a number does not end")


def cut(data: bytes, start: int, size: int) -> bytes:
    """Bytes [start, start + size); ValueError if they are not all there."""
    if not 0 <= start <= start + size <= len(data):
        raise ValueError(f"bytes {start} to {start + size} of {len(data)}")
    return data[start : start + size]
