"""Ogg Vorbis and Opus: where decoding can start in the midst of a file, and which sample that is.

Vorbis gives the same bits from the second packet on. Opus does after 0.72 s at most, measured at 16 to 128 kbit/s,
where it codes spectra (CELT), as it does music. Where it codes speech (SILK) it still differs by 5e-3 after six
seconds, and decoding starts at the beginning.

A point is the byte at which a page begins, and the sample at which it ends.
"""

from itertools import pairwise
from typing import BinaryIO, NamedTuple

from mert.audio.contents import ForwardFile, Layout, Stretch
from mert.audio.ogg import CONTINUED, NO_PACKET_ENDS, OPUS_HZ, Page, found, opus_skip, pages_of, without_skip
from mert.audio.views import View, peek

POINTS_S = 10.0
VORBIS_PREROLL = 2 * 8192  # samples: two packets of the longest kind
OPUS_PREROLL_S = 1.5
PAGES_S = 3.0  # more than two pages last
FIRST_CELT = 16 << 3  # of the first bytes of Opus packets


class Clock(NamedTuple):
    """What the pages count (samples at 48 kHz in Opus), and the samples of the decoded recording."""

    origin: int
    factor: int = 1

    def sample(self, page: Page) -> int:
        """The sample at which a page ends."""
        return (page.samples - self.origin) // self.factor


def layout(file: BinaryIO) -> Layout | None:
    """The layout of a file of one stream without damage; None for others, and for codecs that are not known."""
    if not (held := found(file)) or held.is_cut or len(held.links) > 1 or len(held.links[0].runs) > 1:
        return None
    pages = held.links[0].runs[0]
    begin = len(held.links[0].headers)
    sound = [page for page in pages[begin:] if page.samples != NO_PACKET_ENDS]
    if pages[0].place.start or len({page.serial for page in pages}) > 1 or not sound or not begin:
        return None
    first = peek(file, 0, len(pages[0].place))
    with ForwardFile(View(file, [range(held.end)])) as whole:
        if (clock := _clock(first, sound[-1].samples, whole.samplerate, whole.frames)) is None:
            return None
        points = [(clock.sample(sound[0]), pages[begin].place.start)]
        for page in sound:
            if (sample := clock.sample(page)) >= points[-1][0] + POINTS_S * whole.samplerate:
                points.append((sample, page.place.start))
        return Layout(whole.samplerate, whole.frames, "ogg", (*points, (whole.frames, held.end)))


def stretch(file: BinaryIO, layout: Layout, wanted: range) -> Stretch | None:
    """Pages to be decoded for a range of samples; None if they cannot be, or are not where the layout has them."""
    points = layout.points
    headers = peek(file, 0, points[0][1])
    if (first := next(pages_of(headers, 0), None)) is None:
        return None
    skip = opus_skip(headers[: len(first.place)])
    goal = wanted.start - (VORBIS_PREROLL if skip is None else round(OPUS_PREROLL_S * layout.rate_hz))
    early = goal - round(PAGES_S * layout.rate_hz)
    sample, at = max((point for point in points[:-1] if point[0] <= early), default=points[0])
    behind = [place for end, place in points if end >= wanted.stop]  # of the page at the first of them, or before
    data = peek(file, at, behind[min(1, len(behind) - 1)] - at)
    pages = list(pages_of(data, at))
    counted = [page for page in pages if page.samples != NO_PACKET_ENDS]
    if not counted or not all(page.follows(last) for last, page in pairwise(pages)):
        return None
    factor = 1 if skip is None else OPUS_HZ // layout.rate_hz
    clock = Clock(counted[0].samples - sample * factor, factor)
    n = next((n for n, page in enumerate(counted) if clock.sample(page) >= wanted.stop), None)
    if n is None:
        return None
    # Decoding starts behind the last of these: the end of a file is not cut to a sample where its last page is alone.
    last, before = counted[n], [page for page in counted[: max(0, n - 1)] if clock.sample(page) <= goal]
    if not before:
        return Stretch(View(file, [range(last.place.stop)]), begins=0)
    sound = data[before[-1].place.stop - at : last.place.stop - at]
    if skip is not None and any(byte < FIRST_CELT for page in pages_of(sound, 0) for byte in _heads(sound, page)):
        return None
    front = [without_skip(headers[: len(first.place)]), headers[len(first.place) :]]
    return Stretch(View(file, [*front, sound]), ends=clock.sample(last))


def _heads(data: bytes, page: Page) -> list[int]:
    """The first bytes of the packets that begin in a page."""
    at = page.place.start
    lacing = data[at + 27 : at + 27 + data[at + 26]]
    at, begins, heads = at + 27 + len(lacing), not page.flags & CONTINUED, []
    for length in lacing:
        if begins and length:
            heads.append(data[at])
        at, begins = at + length, length < 255
    return heads


def _clock(first: bytes, end: int, rate_hz: int, frames: int) -> Clock | None:
    """The clock of a stream by its first page and its length; None where that cannot be known to a sample."""
    skip = opus_skip(first)
    if skip is None:
        return Clock(end - frames) if first.find(b"\x01vorbis") > 0 else None
    clock, has_family = Clock(skip, OPUS_HZ // rate_hz), first[first.find(b"OpusHead") + 18]
    return clock if not has_family and skip % clock.factor == 0 and (end - skip) // clock.factor == frames else None
