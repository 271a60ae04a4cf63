"""Checkpoints as TensorFlow 1 writes them: the writer that the reader of `teachers.musicnn` is tested with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

MAGIC = 0xDB4775248B80FB57


def write_checkpoint(
    folder: Path, tensors: Mapping[str, np.ndarray], keys_a_block: int = 20, restart: int = 16
) -> None:
    """Write `.index` and `.data-00000-of-00001`; keys are shortened by what they share with the one before."""
    folder.mkdir(parents=True, exist_ok=True)
    data, rows = b"", [(b"", field(1, 1) + field(3, field(1, 1)))]  # the header: one shard, a version
    for name, array in sorted(tensors.items()):
        dtype = {"float32": 1, "int64": 9}[array.dtype.name]
        shape = b"".join(field(2, field(1, n)) for n in array.shape)
        entry = field(1, dtype) + field(2, shape) + field(4, len(data)) + field(5, array.nbytes) + b"\x35\0\0\0\0"
        rows.append((name.encode(), entry))
        data += array.tobytes()
    table, index = b"", []
    for first in range(0, len(rows), keys_a_block):
        part = rows[first : first + keys_a_block]
        content = block(part, restart)
        index.append((part[-1][0], varint(len(table)) + varint(len(content) - 5)))
        table += content
    handles = b""
    for content in (block([], 1), block(index, 1)):
        handles += varint(len(table)) + varint(len(content) - 5)
        table += content
    (folder / ".index").write_bytes(table + handles.ljust(40, b"\0") + MAGIC.to_bytes(8, "little"))
    (folder / ".data-00000-of-00001").write_bytes(data)


def block(rows: list[tuple[bytes, bytes]], restart: int) -> bytes:
    """Entries, the places of those that are written in full, and a trailer: not compressed, no checksum."""
    content, places, before = b"", [0], b""
    for i, (key, value) in enumerate(rows):
        shared = 0
        if i % restart:
            while shared < min(len(key), len(before)) and key[shared] == before[shared]:
                shared += 1
        elif i:
            places.append(len(content))
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return content + b"".join(n.to_bytes(4, "little") for n in (*places, len(places))) + bytes(5)


def field(number: int, value: int | bytes) -> bytes:
    """A field of a protocol buffer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    low, high = value & 127, value >> 7
    return bytes([low | 128]) + varint(high) if high else bytes([low])
