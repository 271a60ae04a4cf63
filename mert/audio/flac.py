"""FLAC: the header without the length it announces, and where decoding goes on behind damage."""

from collections.abc import Iterator
from itertools import islice, pairwise
from typing import BinaryIO

from mert.audio.contents import Contents, Part
from mert.audio.views import CHUNK, View, behind_tags, peek, search, size_of, unexplained, without_tags

TOTAL = (1 << 36) - 1  # the bits of STREAMINFO that count samples; 0 = unknown
MAGIC, INFO = b"fLaC", b"\0\0\0\x22"  # the beginning of a stream, and of STREAMINFO where more blocks follow
HEADER = 42  # bytes of the magic word and STREAMINFO
SYNC = b"\xff"  # and 0xf8 or 0xf9
# What the codes of a frame header mean; others refer to STREAMINFO, or to bytes that follow.
RATES = {1: 88_200, 2: 176_400, 3: 192_000, 4: 8_000, 5: 16_000, 6: 22_050, 7: 24_000, 8: 32_000, 9: 44_100, 10: 48_000}
BITS = {1: 8, 2: 12, 4: 16, 5: 20, 6: 24, 7: 32}
FRAME_BYTES = 8  # fewer than any frame has
PROBES, PROBED = 8, 8 * CHUNK  # places where a file is looked into, if it is longer
BUFFERED = 1 << 16  # bytes that libsndfile and libFLAC may have read ahead


class Frames(Part):
    """The frames from a position on, behind a header of their own."""

    def __init__(self, file: BinaryIO, header: bytes, at: int, end: int, announced: int | None = None) -> None:
        super().__init__(View(file, [header, range(at, max(at, end))]), announced)
        self._source, self._header, self.begin, self.end = file, header, at, end

    def following(self, n: int, failed: bool) -> tuple[int, Part] | None:
        """How many samples behind the first `n` of the file are lost, and the frames that follow them."""
        if not failed:
            return None
        reached = self.begin + self.file.tell() - len(self._header)
        block = int.from_bytes(self._header[8:10], "big")
        for at, start, _ in _frames(self._source, self._header, max(self.begin + 1, reached - BUFFERED), self.end):
            if n <= start <= n + (at - self.begin) // FRAME_BYTES * block:
                return start - n, self._from(at)
        return None

    def _from(self, at: int) -> Part:
        return Frames(self._source, self._header, at, self.end, self.announced)

    def unread(self) -> int:
        """Bytes behind the last frame that could be sound."""
        size = self.end
        reached = self.begin + self.file.tell() - len(self._header)
        for tag in (b"ID3", b"APETAGEX", b"TAG"):
            found = search(self._source, tag, max(self.begin, reached - BUFFERED), size)
            if found is not None and behind_tags(self._source, found, size) == size:
                return 0
        return unexplained(self._source, reached, size)


def contents(file: BinaryIO) -> Contents | None:
    """The frames of a FLAC file, or of several that are joined; None for other files."""
    if peek(file, 0, 4) != MAGIC:
        return None
    size, starts, found = size_of(file), [0], search(file, MAGIC + INFO, 4, size_of(file))
    while found is not None:
        starts.append(found)
        found = search(file, MAGIC + INFO, found + 4, size)
    streams = [_stream(file, start, end) for start, end in zip(starts, [*starts[1:], size], strict=True)]
    parts = tuple(stream for stream in streams if stream)
    return Contents(parts) if parts else None


def _stream(file: BinaryIO, start: int, end: int) -> Frames | None:
    """The frames of one stream; None where it has no header."""
    header = peek(file, start, HEADER)
    if header[:4] != MAGIC or len(header) < HEADER or header[4] & 127:
        return None
    facts = int.from_bytes(header[18:26], "big")
    announced = facts & TOTAL
    open_ended = MAGIC + b"\x80" + header[5:18] + (facts - announced).to_bytes(8, "big") + header[26:]
    at, is_last = start + HEADER, header[4] & 128
    while not is_last and at + 4 <= end:
        block = peek(file, at, 4)
        is_last, at = block[0] & 128, at + 4 + int.from_bytes(block[1:], "big")
    return Frames(file, open_ended, at, end, announced or None)


def seekable(file: BinaryIO) -> View | None:
    """The first stream of a file, as libsndfile seeks in it best: behind the header alone; None for other files."""
    if not (stream := _stream(file, 0, size_of(file))):
        return None
    header = peek(file, 0, HEADER)
    return View(file, [MAGIC + b"\x80" + header[5:], range(stream.begin, stream.end)])


def is_alone(file: BinaryIO) -> bool:
    """Whether a file holds one stream of the length that it announces, by its last frame and a few on the way."""
    sound = without_tags(file)
    stream, info = _stream(file, 0, sound.stop), peek(file, 0, HEADER)
    if not stream or not stream.announced:
        return False
    tail = max(CHUNK, 2 * int.from_bytes(info[15:18], "big"))  # a frame may be longer
    last = _frames(file, info, max(stream.begin, sound.stop - tail), sound.stop)
    if not any(start + n == stream.announced for _, start, n in last):
        return False
    if sound.stop <= PROBED:
        return search(file, MAGIC + INFO, 4, sound.stop) is None
    starts = [-1]  # those of a second stream begin at 0 again
    for at in range(stream.begin, sound.stop - tail, (sound.stop - stream.begin) // PROBES):
        starts += [start for _, start, _ in islice(_frames(file, info, at, sound.stop), 1)]
    return all(one < other for one, other in pairwise([*starts, stream.announced]))


def _frames(file: BinaryIO, info: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(position, number of the first sample, samples) of what looks like frames of a stream, from a position on."""
    block = int.from_bytes(info[8:10], "big")
    while at < end:
        chunk = peek(file, at, CHUNK)
        i = chunk.find(SYNC)
        while 0 <= i <= len(chunk) - 16:
            header = chunk[i : i + 16]
            if (start := _start(header, info, block)) is not None:
                yield at + i, start, _samples(header)
            i = chunk.find(SYNC, i + 1)
        at += max(1, len(chunk) - 15)


def _samples(header: bytes) -> int:
    """The samples of a frame."""
    code, behind = header[2] >> 4, 4 + max(1, 8 - (header[4] ^ 0xFF).bit_length())
    if code in (6, 7):
        return 1 + int.from_bytes(header[behind : behind + code - 5], "big")
    return 192 if code == 1 else 144 << code if code < 6 else 1 << code


def _start(header: bytes, info: bytes, block: int) -> int | None:
    """The number of the first sample of the frame that a header begins; None if it is no header of this stream."""
    facts = int.from_bytes(info[18:26], "big")
    rate_hz, bits = RATES.get(header[2] & 15), BITS.get(header[3] >> 1 & 7)
    if header[1] & 0xFE != 0xF8 or header[3] & 1 or rate_hz not in (None, facts >> 44):
        return None
    if bits not in (None, (facts >> 36 & 31) + 1):
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
