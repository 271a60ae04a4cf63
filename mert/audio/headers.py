"""Old kinds of files whose header counts the samples: NIST SPHERE, VOC, AVR, SDS and Psion's WVE.

libsndfile reads what is there, whatever is announced.
"""

import re
import struct
from typing import BinaryIO, NamedTuple

from mert.audio.contents import Contents, Part
from mert.audio.views import View, peek, size_of

NIST_HEADER, VOC_MAGIC, WVE_MAGIC = 1024, b"Creative Voice File\x1a", b"ALawSoundFile**\0"
VOC_SOUND = {1: 2, 2: 0, 9: 12}  # blocks of VOC that hold sound, and the bytes in front of it
VOC_BLOCKS, VOC_MOST = 10, 1 << 24  # kinds of blocks; lengths have 24 bits, and longer ones are written modulo that
SDS_HEADER, SDS_PACKET, SDS_SOUND = 21, 127, 120  # bytes


class Sound(NamedTuple):
    """Bytes of sound that are announced, and those that are there."""

    announced: int
    there: int


def contents(file: BinaryIO) -> Contents | None:
    """The contents of a file of one of these kinds that is cut off; None for others, which libsndfile reads as is."""
    magic, size = peek(file, 0, 24), size_of(file)
    patches: list[bytes | range] = []
    if magic[:7] == b"NIST_1A":
        sound = _nist(peek(file, 0, NIST_HEADER), size)
    elif magic.startswith(VOC_MAGIC):
        sound = _voc(file, size)
    elif magic[:4] == b"2BIT":
        sound = _avr(peek(file, 0, 128), size)
    elif magic.startswith(WVE_MAGIC):
        sound = Sound(int.from_bytes(magic[18:22], "big"), size - 32)
    elif magic[:2] == b"\xf0\x7e" and magic[3:4] == b"\1" and magic[20:21] == b"\xf7":
        sound, words = _sds(magic, size)
        patches = [magic[:10], words]  # libsndfile gives silence for what is missing
    else:
        return None
    if not 0 < sound.there < sound.announced:
        return None
    start = sum(map(len, patches))
    return Contents((Part(View(file, [*patches, range(start, size)])),), announced=sound.announced / sound.there)


def _nist(header: bytes, size: int) -> Sound:
    numbers = {name: int(n) for name, n in re.findall(rb"^(\w+) -i (\d+)", header, re.MULTILINE)}
    coding = re.search(rb"^sample_coding -s\d+ (\S+)", header, re.MULTILINE)
    is_packed = coding and b"embedded" in coding[1]
    width = numbers.get(b"channel_count", 1) * numbers.get(
        b"sample_n_bytes", 1 if coding and b"law" in coding[1] else 0
    )
    length = header[8:16].strip()
    start = int(length) if length.isdigit() else NIST_HEADER
    return Sound(0 if is_packed else numbers.get(b"sample_count", 0) * width, size - start)


def _voc(file: BinaryIO, size: int) -> Sound:
    at = int.from_bytes(peek(file, 20, 2), "little")
    announced = there = 0
    while at + 4 <= size < VOC_MOST:
        head = peek(file, at, 4)
        kind, start, length = head[0], at + 4, int.from_bytes(head[1:], "little")
        if not 0 < kind < VOC_BLOCKS:
            break
        if kind in VOC_SOUND:
            announced += max(0, length - VOC_SOUND[kind])
            there += max(0, min(length, size - start) - VOC_SOUND[kind])
        at = start + length
    return Sound(announced, there)


def _avr(header: bytes, size: int) -> Sound:
    if len(header) < 128:
        return Sound(0, 0)
    is_stereo, bits, n = struct.unpack(">HH10xI", header[12:30])
    return Sound(n * (2 if is_stereo else 1) * max(1, bits // 8), size - len(header))


def _sds(header: bytes, size: int) -> tuple[Sound, bytes]:
    """The sound, and the count of words that are there: three bytes of seven bits."""
    bits = header[6]
    words = header[10] | header[11] << 7 | header[12] << 14
    per_packet = SDS_SOUND // max(1, -(-bits // 7))
    there = min(words, max(0, size - SDS_HEADER) // SDS_PACKET * per_packet)
    return Sound(words, there), bytes(there >> shift & 127 for shift in (0, 7, 14))
