"""Headers that announce a wrong length: files read through a corrected header, and files that are cut off.

libsndfile stops at the length a header announces. Unfinished WAV recordings say 0, streamed FLAC may say anything,
and the length of an MP3 without a Xing tag is guessed from its first frame.
"""

import io
import struct
from typing import BinaryIO

CHUNK = 1 << 17
FLAC_TOTAL = (1 << 36) - 1  # the bits of STREAMINFO that count samples; 0 = unknown
# kbit/s by header index: MPEG-1 layer III, then MPEG-2 and 2.5 layer III (ISO 11172-3, ISO 13818-3).
BITRATES = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
)
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


class PatchedFile(io.RawIOBase):
    """A binary file seen through `head`, which stands for its first `replaced` bytes."""

    def __init__(self, file: BinaryIO, head: bytes, replaced: int, announces_less: bool = False) -> None:
        self.announces_less = announces_less  # whether the true header announces less than there is
        self._file, self._head, self._shift = file, head, len(head) - replaced
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        end = self._file.seek(0, io.SEEK_END) + self._shift if whence == io.SEEK_END else 0
        self._at = max(0, {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: end}[whence] + offset)
        return self._at

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        if self._at < len(self._head):
            data = self._head[self._at : self._at + len(buffer)]
        else:
            self._file.seek(self._at - self._shift)
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def with_true_length(file: BinaryIO) -> tuple[BinaryIO | PatchedFile, int | None]:
    """The file, read through a corrected header where it is WAV, FLAC or MP3 and announces less than it holds.

    The second value is the number of samples a FLAC header announced, whose length is always left open.
    """
    file.seek(0)
    head = file.read(1 << 16)
    if head[:4] == b"fLaC" and len(head) >= 26:
        facts = int.from_bytes(head[18:26], "big")
        announced = facts & FLAC_TOTAL
        return PatchedFile(file, head[:18] + (facts - announced).to_bytes(8, "big"), 26), announced or None
    patched = _truthful_wav(file, head) if head[:4] == b"RIFF" else _truthful_mp3(file, head)
    return patched or file, None


def is_wav(file: BinaryIO) -> bool:
    """Whether a file begins as WAV files do."""
    file.seek(0)
    return file.read(4) == b"RIFF"


def share_present(file: BinaryIO) -> float:
    """Share of the announced WAV or AIFF samples that the file is long enough to hold; 1 for other files."""
    file.seek(0)
    start, length = _samples_chunk(file.read(1 << 16))
    if not length or length > 0x7FFF0000:  # what programs write when they do not know yet
        return 1.0
    return min(1.0, max(0, file.seek(0, io.SEEK_END) - start) / length)


def ogg_is_cut(file: BinaryIO) -> bool:
    """Whether the last page of an Ogg file does not say that it is the last."""
    file.seek(0)
    if file.read(4) != b"OggS":
        return False
    file.seek(max(0, file.seek(0, io.SEEK_END) - (1 << 17)))  # a page has at most 65,307 bytes
    tail = file.read()
    page = tail.rfind(b"OggS")
    header = tail[page : page + 27]
    if page < 0 or len(header) < 27 or not header[5] & 4:
        return True
    lengths = tail[page + 27 : page + 27 + header[26]]
    return len(tail) < page + 27 + header[26] + sum(lengths)


def _samples_chunk(head: bytes) -> tuple[int, int]:
    """Where the samples of a WAV or AIFF file start and how many bytes are announced; (0, 0) for other files."""
    layout, name = {b"RIFF": ("<4sI", b"data"), b"FORM": (">4sI", b"SSND")}.get(head[:4], ("", b""))
    at = 12
    while layout and at + 8 <= len(head):
        found, length = struct.unpack(layout, head[at : at + 8])
        if found == name:
            return at + 8, length
        at += 8 + length + length % 2
    return 0, 0


def _truthful_wav(file: BinaryIO, head: bytes) -> PatchedFile | None:
    start, length = _samples_chunk(head)
    if not start or _chunks_follow(file, start + length + length % 2, file.seek(0, io.SEEK_END)):
        return None  # it ends as announced, or in tags
    endless = struct.pack("<I", 0xFFFFFFFF)
    return PatchedFile(file, head[:4] + endless + head[8 : start - 4] + endless, start, announces_less=True)


def _chunks_follow(file: BinaryIO, at: int, size: int) -> bool:
    """Whether RIFF chunks, end to end, fill the file from `at` on; a few bytes may be left, or missing."""
    while at + 8 <= size:
        file.seek(at)
        name, length = struct.unpack("<4sI", file.read(8))
        if not all(32 <= byte < 127 for byte in name):
            return False
        at += 8 + length + length % 2
        if at > size + 1:
            return False
    return True


def _mp3_frame(header: bytes) -> tuple[int, int] | None:
    """Length in bytes of a layer III frame, and where in it a Xing tag would stand; None if it is no frame."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:  # sync and layer III
        return None
    version, bitrate, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or rate == 3 or bitrate in (0, 15):
        return None
    scale = 144_000 if version == 3 else 72_000
    length = scale * BITRATES[version != 3][bitrate] // RATES[version][rate] + (header[2] >> 1 & 1)
    mono = header[3] >> 6 == 3
    side_info = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    return length, 4 + side_info


def _truthful_mp3(file: BinaryIO, head: bytes) -> PatchedFile | None:
    start = _id3_length(head)
    file.seek(start)
    data = file.read(4096)
    first = _mp3_frame(data[:4])
    if first is None:
        return None
    length, tag = first
    counted = _count_frames(file, start)
    if data[tag : tag + 4] in (b"Xing", b"Info") and data[tag + 7] & 1:
        (announced,) = struct.unpack(">I", data[tag + 8 : tag + 12])
        if announced >= counted - 1:
            return None
        head = bytes(start) + data[: tag + 8] + struct.pack(">I", counted - 1)
        return PatchedFile(file, head, start + tag + 12, announces_less=True)
    # No tag: put one before everything, in a silent frame of the first frame's own format.
    info = data[:4] + bytes(tag - 4) + b"Info" + struct.pack(">II", 1, counted)
    return PatchedFile(file, info + bytes(length - len(info)), start) if length >= len(info) else None


def _id3_length(head: bytes) -> int:
    """Bytes of an ID3v2 tag at the beginning; 0 where there is none."""
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    a, b, c, d = head[6:10]
    return 10 + (a << 21 | b << 14 | c << 7 | d)


def _count_frames(file: BinaryIO, at: int) -> int:
    """Frames from `at` to the end of the file, over tags and junk between them, in constant memory."""
    count = 0
    chunk, begin = b"", at
    while True:
        if at < begin or at + 4 > begin + len(chunk):
            file.seek(at)
            chunk, begin = file.read(CHUNK), at
            if len(chunk) < 4:
                return count
        header = chunk[at - begin : at - begin + 10]
        if frame := _mp3_frame(header):
            count, at = count + 1, at + frame[0]
        elif tag := _id3_length(header):
            at += tag
        elif (found := _next_frame(file, at + 1)) is not None:
            at = found
        else:
            return count


def _next_frame(file: BinaryIO, at: int) -> int | None:
    """Where the next frame begins that another one follows, at most a chunk away."""
    file.seek(at)
    chunk = file.read(CHUNK)
    i = chunk.find(b"\xff")
    while i >= 0:
        frame = _mp3_frame(chunk[i : i + 4])
        if frame and _mp3_frame(chunk[i + frame[0] : i + frame[0] + 4]):
            return at + i
        i = chunk.find(b"\xff", i + 1)
    return None
