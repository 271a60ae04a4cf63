"""Repairs for headers that announce less audio than the file holds: the same bytes, with an open-ended length.

libsndfile stops at the length a header announces. Unfinished WAV recordings say 0, streamed FLAC may say anything,
and an MP3 of variable bit rate without a Xing tag is measured by its first frame. Each repair here is a patched
header to read the file through; none is used before the decoder stopped early.
"""

from __future__ import annotations

import io
import struct
from typing import BinaryIO

ENDLESS = 0x7FFFFFFF
# kbit/s by header index: MPEG-1 layer III, then MPEG-2 and 2.5 layer III (ISO 11172-3, ISO 13818-3).
BITRATES = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
)
RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


class PatchedFile(io.RawIOBase):
    """A binary file seen through `head`, which stands for its first `replaced` bytes."""

    def __init__(self, file: BinaryIO, head: bytes, replaced: int) -> None:
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

    def tell(self) -> int:
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


def repaired(file: BinaryIO) -> PatchedFile | None:
    """The file with an open-ended length in its header, or None where no repair applies."""
    file.seek(0)
    head = file.read(1 << 16)
    size = file.seek(0, io.SEEK_END)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return _repaired_wav(file, head, size)
    if head[:4] == b"fLaC":
        total = int.from_bytes(head[18:26], "big") & ~((1 << 36) - 1)  # 36 bits of STREAMINFO, 0 = unknown
        return PatchedFile(file, head[:18] + total.to_bytes(8, "big"), 26)
    return _repaired_mp3(file, head)


def wav_completeness(file: BinaryIO) -> float:
    """Share of the announced WAV samples that the file is long enough to hold; 1 where nothing is known."""
    file.seek(0)
    head = file.read(1 << 16)
    start, length = _wav_data(head)
    if not length or length > 0x7FFF0000:  # what programs write when they do not know yet
        return 1.0
    return min(1.0, (file.seek(0, io.SEEK_END) - start) / length)


def _wav_data(head: bytes) -> tuple[int, int]:
    """Where the samples start and how many bytes are announced; (0, 0) where there is no data chunk."""
    at = 12
    while head[:4] == b"RIFF" and at + 8 <= len(head):
        name, length = struct.unpack("<4sI", head[at : at + 8])
        if name == b"data":
            return at + 8, length
        at += 8 + length + length % 2
    return 0, 0


def _repaired_wav(file: BinaryIO, head: bytes, size: int) -> PatchedFile | None:
    start, length = _wav_data(head)
    if not start or _chunks_follow(file, start + length + length % 2, size):
        return None  # the rest is tags, not audio
    endless = struct.pack("<I", 0xFFFFFFFF)
    return PatchedFile(file, head[:4] + endless + head[8 : start - 4] + endless, start)


def _chunks_follow(file: BinaryIO, at: int, size: int) -> bool:
    """Whether RIFF chunks, end to end, fill the file from `at` on (an odd tail of a few bytes is common)."""
    while at + 8 <= size:
        file.seek(at)
        name, length = struct.unpack("<4sI", file.read(8))
        if not name.isascii() or not name.decode().isprintable():
            return False
        at += 8 + length + length % 2
    return at <= size + 1


def _repaired_mp3(file: BinaryIO, head: bytes) -> PatchedFile | None:
    start = 0
    if head[:3] == b"ID3":
        a, b, c, d = head[6:10]
        start = 10 + (a << 21 | b << 14 | c << 7 | d)
        file.seek(start)
        head = head[:start] + file.read(4096) if start > len(head) - 4096 else head
    frame = head[start : start + 4]
    if len(frame) < 4 or frame[0] != 0xFF or frame[1] & 0xE6 != 0xE2:  # sync and layer III
        return None
    version, mono = frame[1] >> 3 & 3, frame[3] >> 6 == 3
    bitrate, rate = frame[2] >> 4, frame[2] >> 2 & 3
    if version == 1 or rate == 3 or bitrate in (0, 15):
        return None
    tag = start + 4 + {(True, False): 32, (True, True): 17, (False, False): 17, (False, True): 9}[version == 3, mono]
    if head[tag : tag + 4] in (b"Xing", b"Info") and head[tag + 7] & 1:
        return PatchedFile(file, head[: tag + 8] + struct.pack(">I", ENDLESS), tag + 12)
    # No tag: put a silent tag frame, of the first frame's own format, before everything.
    scale = 144_000 if version == 3 else 72_000
    length = scale * BITRATES[version != 3][bitrate] // RATES[version][rate] + (frame[2] >> 1 & 1)
    info = bytes(frame) + bytes(tag - start - 4) + b"Info" + struct.pack(">II", 1, ENDLESS)
    return PatchedFile(file, info + bytes(length - len(info)), start) if length > len(info) else None
