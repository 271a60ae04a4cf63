"""Files as decoders see them: stretches of the file and bytes put between them; and what lies behind the sound."""

import io
from bisect import bisect_right
from collections.abc import Sequence
from typing import BinaryIO

CHUNK = 1 << 17
TAIL_BYTES = 4096  # bytes behind the sound that are too few to be worth a warning
TAGS = 100  # tags in a row, more than any file has


class View(io.RawIOBase):
    """Pieces of a binary file, and bytes of our own, as one file that has no name.

    Decoders read it from C, where an exception would be printed and forgotten: a seek before the start is one to the
    start, and an error of the file ends it and is kept in `error`.
    """

    def __init__(self, file: BinaryIO, pieces: Sequence[bytes | range]) -> None:
        self.error: Exception | None = None
        self._file, self._pieces = file, [piece for piece in pieces if len(piece)]
        self._starts = [0]
        for piece in self._pieces:
            self._starts.append(self._starts[-1] + len(piece))
        self._at = 0

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._starts[-1]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence] + offset)
        return self._at

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        data = b""
        try:
            while len(data) < len(buffer) and (more := self._piece_at(self._at + len(data), len(buffer) - len(data))):
                data += more  # libsndfile takes a short answer for the end of the file
        except Exception as error:  # of a file object of any kind
            self.error = self.error or error
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _piece_at(self, at: int, n: int) -> bytes:
        """At most `n` bytes of the piece that holds a position."""
        if at >= self.size or self.error:
            return b""
        i = bisect_right(self._starts, at) - 1
        inside, piece = at - self._starts[i], self._pieces[i]
        n = min(n, len(piece) - inside)
        return piece[inside : inside + n] if isinstance(piece, bytes) else peek(self._file, piece[inside], n)


def size_of(file: BinaryIO) -> int:
    """Length of a file in bytes."""
    file.seek(0, io.SEEK_END)
    return file.tell()


def peek(file: BinaryIO, at: int, n: int) -> bytes:
    """At most `n` bytes from position `at`."""
    file.seek(at)
    return file.read(n)


def search(file: BinaryIO, wanted: bytes, at: int, end: int) -> int | None:
    """Position of the next `wanted` from `at` on, before `end`."""
    while at < end:
        chunk = peek(file, at, min(CHUNK, end - at))
        if (found := chunk.find(wanted)) >= 0:
            return at + found
        if len(chunk) < len(wanted):
            return None
        at += len(chunk) - len(wanted) + 1
    return None


def synchsafe(data: bytes) -> int:
    """A number of ID3v2: seven bits of each byte."""
    number = 0
    for byte in data:
        number = number << 7 | byte & 127
    return number


def tag_length(file: BinaryIO, at: int) -> int:
    """Bytes of the tag that begins at a position (ID3v1, ID3v2, APE, Lyrics3); 0 where there is none."""
    head = peek(file, at, 32)
    if head[:3] == b"ID3" and len(head) >= 10:
        return 10 + synchsafe(head[6:10]) + 10 * (head[5] >> 4 & 1)
    if head[:8] == b"APETAGEX" and len(head) == 32:
        is_header = head[23] & 0x20
        return 32 + (int.from_bytes(head[12:16], "little") if is_header else 0)
    if head[:3] == b"TAG":
        return 128
    if head[:11] == b"LYRICSBEGIN":
        end = search(file, b"LYRICS200", at, at + CHUNK)
        return end + 9 - at if end else 0
    return 0


def without_tags(file: BinaryIO) -> range:
    """A file without the ID3 and APE tags at its ends, which some decoders take for sound."""
    end = size_of(file)
    start = min(tag_length(file, 0), end)
    if end - 128 > start and peek(file, end - 128, 3) == b"TAG":
        end -= 128
    footer = peek(file, max(start, end - 32), 32)
    if footer[:8] == b"APETAGEX":
        length = int.from_bytes(footer[12:16], "little") + (32 if footer[23] & 0x80 else 0)
        end = end - length if end - length > start else end
    return range(start, end) if start < end else range(end)


def behind_tags(file: BinaryIO, at: int, end: int) -> int:
    """The first position from `at` on that belongs to no tag and is not zero; `end` if there is none."""
    for _ in range(TAGS):
        while at < end and not (chunk := peek(file, at, min(CHUNK, end - at))).strip(b"\0"):
            at += len(chunk) or end - at
        if at < end:
            at += len(chunk) - len(chunk.lstrip(b"\0"))
        if at >= end or not (length := tag_length(file, at)):
            break
        at += length
    return min(at, end)


def unexplained(file: BinaryIO, at: int, end: int) -> int:
    """Bytes behind the sound that could be sound: no tags, no zeros; 0 where they are few."""
    left = end - behind_tags(file, at, end)
    return left if left > TAIL_BYTES else 0


def joined(pieces: list[range]) -> list[range]:
    """Pieces of a file, those that touch in one.

    >>> joined([range(0, 4), range(4, 9), range(12, 20)])
    [range(0, 9), range(12, 20)]
    """
    whole: list[range] = []
    for piece in pieces:
        if whole and whole[-1].stop == piece.start:
            whole[-1] = range(whole[-1].start, piece.stop)
        else:
            whole.append(piece)
    return whole
