"""MP3, and layers I and II: the frames of a file without what stands between them, counted, and in parts of one rate.

libsndfile stops at the length that a Xing tag announces, guesses it from the first frame where there is none, and
stops at bytes that are no frames. It takes the encoder's delay off a whole file; `clips_mp3.py` does for clips.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from mert.audio.contents import Contents, Part
from mert.audio.views import CHUNK, View, behind_tags, joined, peek, size_of, tag_length, unexplained

# kbit/s by layer and header index: MPEG-1, then MPEG-2 and 2.5 (ISO 11172-3, ISO 13818-3).
BITRATES = (
    {
        1: (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
        2: (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
        3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    },
    {
        1: (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
        2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
        3: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    },
)
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
SAMPLES = {1: 384, 2: 1152, 3: 1152}  # of a frame, by layer; half as many in MPEG-2, layer III
FRAMES, BYTES = 1, 2  # flags of a Xing tag: what it announces
RESERVOIR = 511  # bytes before a frame that may hold a part of its sound, at most
IN_A_ROW = 3  # frames that show that one found among other bytes is no accident


class Frame(NamedTuple):
    """A frame: its bytes and samples, its rate in Hz, whether it is mono, its layer, where a Xing tag would stand."""

    length: int
    samples: int
    rate_hz: int
    mono: bool
    layer: int
    tag: int

    def continues(self, other: "Frame | None") -> bool:
        """Whether one decoder can read both frames."""
        return other is not None and self[2:5] == other[2:5]

    def reaches_back(self, data: bytes) -> int:
        """Bytes before a frame that hold a part of its sound, by the beginning of the frame."""
        if self.layer != 3:
            return 0
        at = 4 if data[1] & 1 else 6  # behind a checksum
        number = int.from_bytes(data[at : at + 2], "big")
        return number >> 7 if self.samples == SAMPLES[3] else number >> 8


@dataclass
class Run:
    """Frames of one format, and the bytes that hold them."""

    first: Frame
    pieces: list[range] = field(default_factory=list)
    frames: int = 0
    _last_at: int = 0

    def add(self, at: int, end: int) -> None:
        """Hold one more frame, by the bytes of it that there are."""
        self.frames, self._last_at = self.frames + 1, at
        piece = range(at, end)
        self.pieces[-1:] = joined([*self.pieces[-1:], piece])

    def drop_last(self) -> None:
        """Forget the last frame."""
        self.frames -= 1
        last = self.pieces.pop()
        if last.start < self._last_at:
            self.pieces.append(range(last.start, self._last_at))

    @property
    def frame_s(self) -> float:
        """Seconds of a frame."""
        return self.first.samples / self.first.rate_hz

    @property
    def n_bytes(self) -> int:
        """Bytes of all frames."""
        return sum(map(len, self.pieces))


def contents(file: BinaryIO) -> Contents | None:
    """The frames of an MP3 file; None for other files."""
    scan = Scan(file)
    if not scan.is_mp3():
        return None
    runs: list[Run] = []
    gaps: list[tuple[float, float, bool]] = []
    end, seconds = 0, 0.0
    held: int | None = None  # bytes of sound since damage, as long as frames may need what was before it
    for at, frame in scan.frames():
        is_new = not runs or not frame.continues(runs[-1].first)
        lost_s = _lost_seconds(file, end, at, runs[-1]) if at > end and not is_new else 0.0
        if lost_s:
            lost_s, seconds = lost_s + runs[-1].frame_s, seconds - runs[-1].frame_s
            runs[-1].drop_last()  # the damage may begin in it
            gaps.append((seconds, lost_s, False))
        if is_new or lost_s:  # a new decoder is silent where it lacks bytes, and does not try others
            runs.append(Run(frame))
            held = 0 if lost_s else None
        end = min(at + frame.length, scan.size)
        if held is not None:
            if frame.reaches_back(peek(file, at, 8)) > held:
                gaps.append((seconds, runs[-1].frame_s, True))
                held += frame.length - frame.tag
            else:
                held = None
        runs[-1].add(at, end)
        seconds += runs[-1].frame_s
    runs = [run for run in runs if run.frames > 1]  # of a single frame there is no sound, and mpg123 prints a remark
    if not runs:
        return None
    frames, first = sum(run.frames for run in runs), runs[0].first
    known = announced(peek(file, runs[0].pieces[0].start, first.length), first)
    return Contents(
        tuple(Part(_view(file, run)) for run in runs),
        announced=max(1.0, (known or 0) / frames),
        announces_less=known is not None and known < runs[0].frames - 1,
        left_over=unexplained(file, end, scan.size),
        gaps=tuple(gaps),
    )


class Scan:
    """A file read frame by frame, over tags and damage, in constant memory."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.size = file, size_of(file)
        self._begin, self._chunk = 0, b""

    def frame(self, at: int) -> Frame | None:
        """The frame whose header stands at a position."""
        if not self._begin <= at <= self._begin + len(self._chunk) - 4:
            self._begin, self._chunk = at, peek(self.file, at, CHUNK)
        return frame_of(self._chunk[at - self._begin : at - self._begin + 4])

    def is_frame(self, at: int, in_a_row: int = IN_A_ROW) -> bool:
        """Whether frames of one format follow each other from a position on."""
        first = frame = self.frame(at)
        for _ in range(in_a_row - 1):
            if frame is None:
                return False
            at += frame.length
            if at + 4 > self.size:  # a short file
                return self._begin == 0
            frame = self.frame(at)
            if frame is None or not frame.continues(first):
                return False
        return frame is not None

    def is_mp3(self) -> bool:
        """Whether the file begins with a tag or with frames."""
        return peek(self.file, 0, 3) == b"ID3" or (self.frame(0) is not None and self.has_frames())

    def has_frames(self) -> bool:
        """Whether frames follow each other near the beginning, perhaps behind damage."""
        return self.is_frame(0, 2) or self._next(1, min(self.size, CHUNK)) is not None

    def frames(self) -> Iterator[tuple[int, Frame]]:
        """Positions and frames."""
        at: int | None = 0
        last: Frame | None = None
        while at is not None and at + 4 <= self.size:
            frame = self.frame(at)
            if frame and (frame.continues(last) or last is None or self.is_frame(at, 2)):
                yield at, frame
                at, last = at + frame.length, frame
            elif length := tag_length(self.file, at):
                at = self._behind_tag(at, length)
            else:
                at = self._next(at + 1, self.size)

    def _behind_tag(self, at: int, length: int) -> int:
        """Where a tag ends: its length may be wrong, which shows where frames run across the announced end."""
        end, found = at + length, self._next(at + 10, min(at + length, self.size))
        while found is not None:
            start = found
            while found < end and (frame := self.frame(found)):
                found += frame.length
            if found > end or end > self.size:
                return start
            found = self._next(found + 1, end)
        return end

    def _next(self, at: int, end: int) -> int | None:
        """Where the next frames of one format begin, before `end`."""
        while at < end:
            chunk = peek(self.file, at, min(CHUNK, end - at))
            i = chunk.find(b"\xff")
            while i >= 0:
                if (i + 4 > len(chunk) or frame_of(chunk[i : i + 4])) and self.is_frame(at + i):
                    return at + i
                i = chunk.find(b"\xff", i + 1)
            if not chunk:
                return None
            at += len(chunk)
        return None


def frame_of(header: bytes) -> Frame | None:
    """The frame that begins with four bytes; None if they are no header."""
    if len(header) < 4 or header[0] != 0xFF or header[1] < 0xE0:
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bitrate, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or rate == 3 or bitrate in (0, 15):
        return None
    samples, rate_hz = SAMPLES[layer] // (2 if version != 3 and layer == 3 else 1), RATES[version][rate]
    bytes_per_s = 125 * BITRATES[version != 3][layer][bitrate]
    length = (
        4 * (12 * bytes_per_s * 8 // rate_hz + padding) if layer == 1 else samples * bytes_per_s // rate_hz + padding
    )
    mono = header[3] >> 6 == 3
    side_info = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    return Frame(length, samples, rate_hz, mono, layer, 4 + side_info)


def _lost_seconds(file: BinaryIO, start: int, end: int, run: Run) -> float:
    """Seconds of the frames that bytes between two frames may have held; 0 for tags, and where they are too few."""
    if tag_length(file, start) and behind_tags(file, start, end) == end:
        return 0.0
    frames = round((end - start) * run.frames / max(1, run.n_bytes))
    return frames * run.frame_s


def announced(data: bytes, first: Frame) -> int | None:
    """The number of frames that a Xing tag in the first frame announces."""
    at = first.tag
    if first.layer == 3 and data[at : at + 4] in (b"Xing", b"Info") and len(data) >= at + 12 and data[at + 7] & FRAMES:
        return int(struct.unpack(">I", data[at + 8 : at + 12])[0])
    return None


def tag(header: bytes, frames: int) -> bytes:
    """A silent frame that announces how many frames follow; the length of the frame is that of the header."""
    first = frame_of(header)
    assert first
    data = header + bytes(first.tag - 4) + b"Info" + struct.pack(">II", FRAMES, frames)
    return data + bytes(first.length - len(data))


def beginning(data: bytes, first: Frame, frames: int, n_bytes: int) -> list[bytes]:
    """The first of some frames, with a tag in front that announces as many as there are; a true one stays as it is."""
    at, known = first.tag, announced(data, first)
    if first.layer != 3:
        return [data]
    if known is None:  # a tag in front of all, in a silent frame of the format of the first
        return [tag(data[:4], frames), data] if first.length >= at + 12 else [data]
    if abs(known - frames) > 1:
        data = data[: at + 8] + struct.pack(">I", frames - 1) + data[at + 12 :]
    if data[at + 7] & BYTES and len(data) >= at + 16:  # else mpg123 prints a remark
        data = data[: at + 12] + struct.pack(">I", min(n_bytes, 0xFFFFFFFF)) + data[at + 16 :]
    return [data]


def _view(file: BinaryIO, run: Run) -> View:
    """The frames, the first of them as they should begin."""
    data = peek(file, run.pieces[0].start, run.first.length)
    rest = [range(run.pieces[0].start + len(data), run.pieces[0].stop), *run.pieces[1:]]
    return View(file, [*beginning(data, run.first, run.frames, run.n_bytes), *rest])
