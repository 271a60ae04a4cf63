"""FLAC: the header without the length it announces, and where decoding goes on behind damage."""

from typing import BinaryIO

from mert.audio.contents import Contents, Part
from mert.audio.views import CHUNK, View, behind_tags, peek, search, size_of, unexplained

TOTAL = (1 << 36) - 1  # the bits of STREAMINFO that count samples; 0 = unknown
HEADER = 42  # bytes of the magic word and STREAMINFO
FRAME_BYTES = 8  # fewer than any frame has
BUFFERED = 1 << 16  # bytes that libsndfile and libFLAC may have read ahead


class Frames(Part):
    """The frames from a position on, behind a header of their own."""

    def __init__(self, file: BinaryIO, header: bytes, at: int, first: bytes) -> None:
        super().__init__(View(file, [header, range(at, size_of(file))]))
        self._source, self._header, self._at, self._first = file, header, at, first

    def following(self, n: int, failed: bool) -> tuple[int, Part] | None:
        """How many samples behind the first `n` of the file are lost, and the frames that follow them."""
        if not failed:
            return None
        reached = self._at + self.file.tell() - len(self._header)
        at, size = max(self._at + 1, reached - BUFFERED), size_of(self._source)
        block = int.from_bytes(self._header[8:10], "big")
        while at < size:
            chunk = peek(self._source, at, CHUNK)
            i = chunk.find(self._first[:2])
            while 0 <= i <= len(chunk) - 16:
                start = _start(chunk[i : i + 16], self._first, block)
                possible = n + (at + i - self._at) // FRAME_BYTES * block
                if start is not None and n <= start <= possible:
                    return start - n, Frames(self._source, self._header, at + i, self._first)
                i = chunk.find(self._first[:2], i + 1)
            at += max(1, len(chunk) - 15)
        return None

    def unread(self) -> int:
        """Bytes behind the last frame that could be sound."""
        size = size_of(self._source)
        reached = self._at + self.file.tell() - len(self._header)
        for tag in (b"ID3", b"APETAGEX", b"TAG"):
            found = search(self._source, tag, max(self._at, reached - BUFFERED), size)
            if found is not None and behind_tags(self._source, found, size) == size:
                return 0
        return unexplained(self._source, reached, size)


def contents(file: BinaryIO) -> Contents | None:
    """The frames of a FLAC file; None for other files."""
    header = peek(file, 0, HEADER)
    if header[:4] != b"fLaC" or len(header) < HEADER or header[4] & 127:
        return None
    facts = int.from_bytes(header[18:26], "big")
    announced = facts & TOTAL
    open_ended = b"fLaC\x80" + header[5:18] + (facts - announced).to_bytes(8, "big") + header[26:]
    at, size, is_last = HEADER, size_of(file), header[4] & 128
    while not is_last and at + 4 <= size:
        block = peek(file, at, 4)
        is_last, at = block[0] & 128, at + 4 + int.from_bytes(block[1:], "big")
    return Contents((Frames(file, open_ended, at, peek(file, at, 4)),), announced_samples=announced or None)


def _start(header: bytes, first: bytes, block: int) -> int | None:
    """The number of the first sample of the frame that a header begins; None if it is no header of this stream."""
    if (header[2] ^ first[2]) & 0x0F or (header[3] ^ first[3]) & 0x0F:  # rate, width of samples
        return None
    length = 8 - (header[4] ^ 0xFF).bit_length()  # of a number coded like UTF-8
    if length in (1, 8):
        return None
    number, end = header[4] & (0x7F >> length), 4 + max(1, length)
    for byte in header[5:end]:
        if byte >> 6 != 2:
            return None
        number = number << 6 | byte & 0x3F
    end += {6: 1, 7: 2}.get(header[2] >> 4, 0) + {12: 1, 13: 2, 14: 2}.get(header[2] & 15, 0)
    if end >= len(header) or _crc8(header[:end]) != header[end]:
        return None
    return number if header[1] & 1 else number * block


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc << 1 ^ (0x107 if crc & 0x80 else 0)
    return crc
