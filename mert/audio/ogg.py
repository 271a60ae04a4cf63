"""Ogg: one part per link of a chain, each with a serial number, a rate and a channel count of its own."""

from typing import BinaryIO

from mert.audio.contents import Contents, Part
from mert.audio.views import View, joined, peek, search, size_of, unexplained

FIRST, LAST = 2, 4  # flags of a page


def contents(file: BinaryIO) -> Contents | None:
    """The links of an Ogg file; None for other files."""
    if peek(file, 0, 4) != b"OggS":
        return None
    size = size_of(file)
    links: list[list[range]] = []
    at, flags, is_cut = 0, LAST, False
    while at < size:
        header = peek(file, at, 27 + 255)
        if header[:4] != b"OggS" or len(header) < 27:
            if (found := search(file, b"OggS", at + 1, size)) is None:
                break
            at = found
            continue
        if header[5] & FIRST and not (links and flags & FIRST):
            links.append([])
            is_cut |= not flags & LAST
        end = at + 27 + header[26] + sum(header[27 : 27 + header[26]])
        is_cut |= end > size
        flags = header[5]
        if links:
            links[-1].append(range(at, min(end, size)))
        at = end
    if not links:
        return None
    parts = tuple(Part(View(file, joined(pages))) for pages in links)
    left_over = unexplained(file, links[-1][-1].stop, size)
    return Contents(parts, left_over=left_over, is_cut=is_cut or not flags & LAST)
