"""Damage to files, at random with a seed: what disks, networks and strangers make of them."""

from __future__ import annotations

import io
import os
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

ODD = (b"\x00", b"\xff" * 8, b"NaN", b"1e999", b"null", b"[]", b"{}", b'""', b"-1", b"9" * 30, b"\xe2\x80\xa8", b"../")


class Canary:
    """An object whose unrestricted reading makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The bytes with one to four changes: some replaced, removed, repeated or inserted, or the end cut off."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        size = min(len(changed) - at, chance.choice((1, 2, 8, 100)))
        kind = chance.randrange(6)
        if kind == 0:
            changed[at : at + size] = chance.randbytes(size)
        elif kind == 1:
            del changed[at : at + size]
        elif kind == 2:
            changed[at:at] = changed[at : at + size]
        elif kind == 3:
            changed[at:at] = chance.choice(ODD)
        elif kind == 4:
            changed[at : at + size] = chance.choice(ODD)
        else:
            del changed[at:]
    return bytes(changed)


def mutated_zip(data: bytes, chance: random.Random) -> bytes:
    """The archive, or one of its entries under a right checksum, with some changes."""
    if chance.random() < 0.3:
        return mutated(data, chance)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    small = [name for name, content in entries.items() if len(content) < 200_000] or list(entries)
    name = chance.choice(small)
    entries[name] = mutated(entries[name], chance)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return made.getvalue()


def damaged(path: Path, n: int, seed: int, change: Callable[[bytes, random.Random], bytes] = mutated) -> Iterator[int]:
    """Write `n` damaged versions of a file in its place, one after the other; yields their numbers."""
    whole = path.read_bytes()
    for number in range(n):
        path.write_bytes(change(whole, random.Random(f"{path.name} {seed} {number}")))
        yield number
    path.write_bytes(whole)
