"""Ogg: one part per link of a chain, and where decoding goes on behind damaged pages.

Each link has a serial number, a rate and a channel count of its own. The pages count samples, so that what is lost
between two of them is known.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

import soundfile

from mert.audio.contents import MAX_GAP_S, Contents, Part
from mert.audio.views import View, joined, peek, search, size_of, unexplained

CONTINUED, FIRST, LAST = 1, 2, 4  # flags of a page
MAX_PAGE = 27 + 255 + 255 * 255  # bytes
NO_PACKET_ENDS = (1 << 64) - 1
OPUS_HZ = 48_000  # Opus counts samples at this rate, whatever it is decoded to
MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class Page:
    """A page of good checksum: its bytes, flags, number, stream, and the samples up to its end."""

    place: range
    flags: int
    samples: int
    serial: bytes
    number: int

    def follows(self, last: "Page") -> bool:
        """Whether nothing is missing between a page and this one."""
        is_missing = self.serial == last.serial and self.number != last.number + 1 and self.number > last.number
        return self.place.start == last.place.stop and not is_missing


@dataclass
class Link:
    """The good pages of a link, in runs without damage between them."""

    runs: list[list[Page]] = field(default_factory=list)

    @property
    def headers(self) -> list[Page]:
        """The pages in front of the sound."""
        first = self.runs[0]
        n = next((i for i, page in enumerate(first) if page.samples not in (0, NO_PACKET_ENDS)), len(first))
        while n and first[n - 1].samples == NO_PACKET_ENDS:
            n -= 1
        return first[:n]

    def is_whole(self) -> bool:
        """Whether there is nothing to mend, or no way to: damaged headers, or several streams."""
        return len(self.runs) < 2 or not self.headers or len({page.serial for run in self.runs for page in run}) > 1


class Run(Part):
    """The pages of a link from some damage to the next, behind the headers of the link."""

    def __init__(self, file: BinaryIO, link: Link, number: int) -> None:
        super().__init__(_view(file, link, link.runs[number]) if number else View(file, _places(link.runs[0])))
        self.whole = View(file, _places([page for run in link.runs for page in run]))
        self._source, self._link, self._number = file, link, number

    def following(self, n: int, failed: bool) -> tuple[int, Part] | None:
        """How many samples behind the first `n` of the link are lost, and the run that follows them."""
        number = self._number + 1
        while number < len(self._link.runs):
            run = Run(self._source, self._link, number)
            if (start := run.start()) is not None:
                return max(0, start - n), run
            number += 1
        return None

    def start(self) -> int | None:
        """Samples of the link in front of this run; None where it holds none."""
        pages = self._link.runs[self._number]
        until = next((i for i, page in enumerate(pages) if page.samples != NO_PACKET_ENDS), None)
        if until is None:
            return None
        try:
            with soundfile.SoundFile(_view(self._source, self._link, pages[: until + 1])) as first:
                n, rate_hz = len(first.read(dtype="float32")), first.samplerate
        except soundfile.LibsndfileError:
            return None
        end, skipped = pages[until].samples, opus_skip(_first_page(self._source, self._link))
        start = (end - skipped) * rate_hz // OPUS_HZ - n if skipped is not None else end - n
        return start if 0 <= start <= MAX_GAP_S * rate_hz else None


class Found(NamedTuple):
    """The links of a file, where the last page ends, and whether the end of a link is missing."""

    links: list[Link]
    end: int
    is_cut: bool


def found(file: BinaryIO) -> Found | None:
    """What an Ogg file holds; None for other files."""
    if peek(file, 0, 4) != b"OggS":
        return None
    size = size_of(file)
    links: list[Link] = []
    at, is_cut, end = 0, False, 0
    last: Page | None = None
    while at < size:
        page = _page(file, at)
        if page is None:
            if (place := search(file, b"OggS", at + 1, size)) is None:
                break
            at = place
            continue
        if page.flags & FIRST and not (links and last and last.flags & FIRST):
            is_cut |= last is not None and not last.flags & LAST
            links.append(Link([[]]))
        elif links and last and not page.follows(last):
            links[-1].runs.append([])
        if links:
            links[-1].runs[-1].append(page)
        at = end = page.place.stop
        last = page
    return Found(links, end, is_cut or not last.flags & LAST) if links and last else None


def contents(file: BinaryIO) -> Contents | None:
    """The links of an Ogg file; None for other files."""
    if not (held := found(file)):
        return None
    size = size_of(file)
    parts = [Part(View(file, _places(link.runs[0]))) if link.is_whole() else Run(file, link, 0) for link in held.links]
    begins = [0, *(link.runs[0][0].place.start for link in held.links[1:])]
    for part, begin, end in zip(parts, begins, [*begins[1:], size], strict=True):
        part.raw = View(file, [range(begin, end)])
    left_over = unexplained(file, held.end, size)
    if held.is_cut and left_over <= MAX_PAGE:  # of the page that is cut
        left_over = 0
    return Contents(tuple(parts), left_over=left_over, is_cut=held.is_cut)


def _page(file: BinaryIO, at: int) -> Page | None:
    header = peek(file, at, 27 + 255)
    is_page = header[:4] == b"OggS" and len(header) >= 27
    return page_of(peek(file, at, 27 + header[26] + sum(header[27 : 27 + header[26]])), at) if is_page else None


def page_of(data: bytes, at: int = 0) -> Page | None:
    """The page at the beginning of bytes from position `at` of a file, if it is whole and its checksum is right."""
    if data[:4] != b"OggS" or len(data) < 27:
        return None
    length = 27 + data[26] + sum(data[27 : 27 + data[26]])
    if len(data) < length or checksum(data[:22] + bytes(4) + data[26:length]) != data[22:26]:
        return None
    samples, number = int.from_bytes(data[6:14], "little"), int.from_bytes(data[18:22], "little")
    return Page(range(at, at + length), data[5], samples, data[14:18], number)


def pages_of(data: bytes, at: int) -> Iterator[Page]:
    """The pages that follow each other in bytes from position `at` of a file."""
    i = 0
    while i + 27 <= len(data):
        end = i + 27 + data[i + 26] + sum(data[i + 27 : i + 27 + data[i + 26]])
        if (page := page_of(data[i:end], at + i)) is None:
            return
        yield page
        i = end


def checksum(page: bytes) -> bytes:
    """The CRC of a page: that of zlib without its inversions, and with the bits of all bytes in the other order."""
    crc = zlib.crc32(page.translate(MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return crc.to_bytes(4, "big").translate(MIRRORED)


def _places(pages: list[Page]) -> list[range]:
    return joined([page.place for page in pages])


def _first_page(file: BinaryIO, link: Link) -> bytes:
    place = link.headers[0].place
    return peek(file, place.start, len(place))


def opus_skip(page: bytes) -> int | None:
    """How many samples an Opus stream begins with that are no sound; None for other streams."""
    at = page.find(b"OpusHead")
    return int.from_bytes(page[at + 10 : at + 12], "little") if at > 0 else None


def without_skip(page: bytes) -> bytes:
    """The first page of a stream, so that nothing is skipped at the beginning."""
    if not opus_skip(page):
        return page
    at = page.find(b"OpusHead") + 10
    page = page[:22] + bytes(4) + page[26:at] + bytes(2) + page[at + 2 :]
    return page[:22] + checksum(page) + page[26:]


def _view(file: BinaryIO, link: Link, pages: list[Page]) -> View:
    """Pages from the midst of a link behind its headers; nothing is skipped at their beginning."""
    return View(file, [without_skip(_first_page(file, link)), *_places([*link.headers[1:], *pages])])
