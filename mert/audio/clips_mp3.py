"""MP3: where decoding can start in the midst of a file, and which frames it needs there to give the same bits.

mpg123 needs the frames that hold the bytes to which later ones refer (the reservoir), two more whose sound overlaps,
and a number of frames since the first one after which its filter bank sums in the same order. Frames that refer to
bytes before all of these are muted: it would take other bytes instead.
"""

from itertools import pairwise
from typing import BinaryIO

from mert.audio.contents import Layout, Stretch
from mert.audio.mp3 import RESERVOIR, Frame, Scan, announced, beginning, frame_of, tag
from mert.audio.views import CHUNK, View, behind_tags, peek

POINTS_S = 10.0
DELAY = 529  # samples that mpg123 leaves out at the beginning behind any tag, for its own delay
OVERLAPPING = 2  # frames
FURTHER = 2  # frames, for mpg123 prints a remark on a single one
PHASES = 8  # frames after which the filter bank sums in the same order again
MOST = 300  # frames that hold the bytes of a reservoir
FIELDS = {1: 4, 2: 4, 4: 100, 8: 4}  # of a Xing tag, by flag: bytes; what LAME adds stands behind them
ENDLESS = 1 << 30  # frames
BEST = 0xE0  # the bits of the highest bitrate in a header


def layout(file: BinaryIO) -> Layout | None:
    """The layout of an MP3 file that holds frames of one format, tags and nothing else; None for others."""
    scan = Scan(file)
    start, first = next(scan.frames(), (0, None))
    if not first or first.layer != 3:
        return None
    step = max(1, int(POINTS_S * first.rate_hz / first.samples))
    n, at, last, places = 0, start, start, []
    lengths: dict[bytes, int] = {}
    while len(starts := _starts(peek(file, at, CHUNK), first, lengths)) > 1:
        places += [(n + i, at + starts[i]) for i in range(-n % step, len(starts) - 1, step)]
        n, last, at = n + len(starts) - 1, at + starts[-2], at + starts[-1]
    is_cut = at > scan.size  # mpg123 leaves out what is no whole frame
    if n < 1 + FURTHER or (not is_cut and behind_tags(file, at, scan.size) < scan.size):
        return None
    if (trimmed := _trimmed(peek(file, start, first.length), first, n, n - is_cut)) is None:
        return None
    origin, n_samples = trimmed
    places.append((n - is_cut, last if is_cut else at))
    points = tuple((origin + i * first.samples, place) for i, place in places)
    return Layout(first.rate_hz, n_samples, "mp3", points) if n_samples > 0 else None


def stretch(file: BinaryIO, layout: Layout, wanted: range) -> Stretch | None:
    """Frames to be decoded for a range of samples; None if they are not where the layout has them."""
    (origin, start), (_, end) = layout.points[0], layout.points[-1]
    head = peek(file, start, CHUNK)
    if (first := frame_of(head[:4])) is None:
        return None
    data, n = head[: first.length], first.samples
    is_tagged = announced(data, first) is not None
    goal, stop = (wanted.start - origin) // n - OVERLAPPING, -(-(wanted.stop - origin) // n)
    known = [(0, start), *(((sample - origin) // n, at) for sample, at in layout.points)]
    i, at = max(point for point in known if point[0] <= max(0, goal - MOST))
    end = min(place for j, place in known if j >= stop or place == end)
    data = peek(file, at, end - at)
    starts = _starts(data, first, {})
    if len(starts) <= stop - i:
        return None
    frames = [data[one:other] for one, other in pairwise(starts[: stop - i + 1 + FURTHER])]
    if (j := _preroll(frames, first, goal - i, (is_tagged - i) % PHASES)) is None or i + j <= is_tagged:
        if i:
            return None
        front = beginning(frames[0], first, ENDLESS, sum(map(len, frames)))
        return Stretch(View(file, [*front, *frames[1:]]), begins=0)
    header = bytes([data[0], data[1] | 1, data[2] & 0x0D | BEST, data[3]])
    return Stretch(View(file, [tag(header, ENDLESS), *_muted(frames[j:])]), begins=origin + (i + j) * n + DELAY)


def _starts(data: bytes, first: Frame, lengths: dict[bytes, int]) -> list[int]:
    """Where frames of one format begin that follow each other, and where the last of them ends, or would."""
    at, end, starts = 0, len(data) - 4, []
    while at <= end:
        header = data[at : at + 4]
        if (length := lengths.get(header)) is None:
            frame = frame_of(header)
            length = lengths[header] = frame.length if frame and frame.continues(first) else 0
        if not length:
            break
        starts.append(at)
        at += length
    return [*starts, at]


def _trimmed(data: bytes, first: Frame, frames: int, whole: int) -> tuple[int, int] | None:
    """The (negative) sample at which the first frame begins, and the samples that mpg123 makes of the whole.

    They are cut at both ends as a tag has it in the first frame, by its `data`. None for tags that are contradictory.
    """
    if (known := announced(data, first)) is None:
        skip = DELAY if first.length >= first.tag + 12 else 0  # no tag fits in front of all
        return -skip, whole * first.samples - skip
    known = known if abs(known - frames) <= 1 else frames - 1
    at = first.tag + 8 + sum(n for flag, n in FIELDS.items() if data[first.tag + 7] & flag)
    delay, padding = 0, 0
    if len(data) >= at + 24 and data[at]:
        both = int.from_bytes(data[at + 21 : at + 24], "big")
        delay, padding = both >> 12, both & 0xFFF
    skip = delay + DELAY
    if known < frames - 1 or any(data[6 : first.tag]) or skip > 2 * first.samples:
        return None
    end = min(known * first.samples - padding + DELAY, (whole - 1) * first.samples)
    return -first.samples - skip, end - skip


def _preroll(frames: list[bytes], first: Frame, goal: int, phase: int) -> int | None:
    """The frame to start at, so that all bytes are there that the one of number `goal` needs; None if there is none."""
    held, j = 0, goal
    while held < RESERVOIR:
        j -= 1
        if j < 0:
            return None
        held += _sound(frames[j], first)
    j -= (j - phase) % PHASES
    return j if j >= 0 else None


def _sound(data: bytes, first: Frame) -> int:
    """Bytes of a frame behind its header and side information."""
    return len(data) - first.tag - (0 if data[1] & 1 else 2)


def _muted(frames: list[bytes]) -> list[bytes]:
    """Frames, the first of them without sound as long as they refer to bytes before all."""
    pieces: list[bytes] = []
    held = 0
    for i, data in enumerate(frames):
        frame = frame_of(data[:4])
        assert frame
        if frame.reaches_back(data) <= held:
            return [*pieces, *frames[i:]]
        at = 4 if data[1] & 1 else 6
        kept = at + 2 if frame.samples == 1152 else at + 1  # how far it refers back
        number = data[at:kept] if kept == at + 1 else bytes([data[at], data[at + 1] & 0x80])
        end = at + frame.tag - 4
        pieces.append(data[:at] + number + bytes(end - kept) + data[end:])
        held += _sound(data, frame)
    return pieces
