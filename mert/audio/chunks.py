"""Files of chunks and samples (WAV, RF64, W64, AIFF, 8SVX, CAF) and AU: where the samples are, how many are announced.

libsndfile stops at the length a header announces, and takes what follows a chunk of odd length for a chunk. It gets
a view whose header announces what is there. Unfinished recordings announce nothing, streamed ones anything.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from mert.audio.contents import Contents, Part
from mert.audio.views import View, behind_tags, peek, size_of, unexplained

MAX_CHUNKS = 10_000
GUID = b"\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"  # ends the names of W64 chunks
KNOWN = frozenset(  # names of chunks that may stand behind the samples, without blanks
    b"LIST JUNK junk FLLR PAD bext iXML axml cart cue plst smpl inst fact PEAK id3 ID3 _PMX DISP afsp levl umid minf "
    b"elm1 regn LGWV acid strc CSET chna dbmd AAPL NAME AUTH ANNO COMT (c) MARK INST APPL MIDI SAUR AESD COMM FVER "
    b"CHAN strg info uuid free midi mark pakt kuki chan ovvw peak edct user SMED SNDM ResU AFAn bwfx "
    b"mext link qlty".split()
)

PLAIN = (b"lpcm", b"alaw", b"ulaw")  # formats of CAF whose samples have one size


@dataclass(frozen=True)
class Kind:
    """How a container of chunks is built: its chunk headers, the name of its samples, where its own length stands."""

    header: str  # of a chunk, for struct: name and length
    samples: bytes  # name of the chunk
    first: int  # position of the first chunk
    align: int  # chunks begin on multiples of it
    outer: str = ""  # of the length of the whole, for struct
    outer_at: int = 4
    counted: int = 0  # bytes of its own header that a chunk counts
    outer_counted: int = -8  # what the outer length counts beyond the file's
    tail: bool = False  # whether chunks behind the samples are needed
    unknown: int = 0x7F000000  # what programs announce when they do not know yet


KINDS = {
    b"RIFF": Kind("<4sI", b"data", 12, 2, "<I"),
    b"RIFX": Kind(">4sI", b"data", 12, 2, ">I"),
    b"RF64": Kind("<4sI", b"data", 12, 2, "<Q", 20, unknown=1 << 48),
    b"BW64": Kind("<4sI", b"data", 12, 2, "<Q", 20, unknown=1 << 48),
    b"FORM": Kind(">4sI", b"SSND", 12, 2, ">I", tail=True),
    b"riff": Kind("<16sQ", b"data" + GUID, 40, 8, "<Q", 16, counted=24, outer_counted=0, unknown=1 << 48),
    b"caff": Kind(">4sQ", b"data", 8, 1, tail=True, unknown=1 << 48),
}

AMIGA = Kind(">4sI", b"BODY", 12, 2, ">I")  # of a FORM of type 8SVX or 16SV


@dataclass(frozen=True)
class Samples:
    """Where the samples begin, how many bytes are announced, and where the number stands that says so."""

    start: int
    announced: int
    length_at: int
    length_format: str


def contents(file: BinaryIO) -> Contents | None:
    """The contents of a file of one of these kinds, None for others and where no samples are found."""
    magic, size = peek(file, 0, 4), size_of(file)
    if magic in (b".snd", b"dns."):
        return _au(file, ">" if magic == b".snd" else "<", size)
    kind = AMIGA if magic == b"FORM" and peek(file, 8, 4) in (b"8SVX", b"16SV") else KINDS.get(magic)
    samples = _samples(file, kind, magic, size) if kind else None
    if not kind or not samples:
        return None
    end = _true_end(file, kind, samples, size)
    there = end - samples.start
    is_known = 0 < samples.announced < kind.unknown
    fits = is_known and samples.announced == there
    patches = {samples.length_at: _packed(samples.length_format, there + kind.counted)}
    if magic in (b"RF64", b"BW64"):
        patches |= {0: b"RF64", samples.start - 4: b"\xff" * 4}
    if kind.outer and not (kind.tail and fits):
        patches[kind.outer_at] = _packed(kind.outer, end + kind.outer_counted)
    is_counted = magic == b"caff" and peek(file, 28, 4) not in PLAIN  # packets have a table that is not cut
    is_cut = is_known and samples.announced > there > 0 and not is_counted
    return Contents(
        (Part(View(file, _patched(patches, size if kind.tail and fits else end))),),
        announced=samples.announced / there if is_cut else 1.0,
        announces_less=samples.announced < there,
        left_over=unexplained(file, end, size) if fits and not _chunks_follow(file, kind, end, size) else 0,
    )


def _packed(layout: str, number: int) -> bytes:
    return struct.pack(layout, min(number, 0xFFFFFFFF) if layout[-1] == "I" else number)


def _patched(patches: dict[int, bytes], end: int) -> list[bytes | range]:
    """Pieces of a view up to `end`, with bytes replaced at some positions."""
    pieces: list[bytes | range] = []
    at = 0
    for position, data in sorted(patches.items()):
        pieces += [range(at, position), data]
        at = position + len(data)
    return [*pieces, range(at, max(at, end))]


def _chunks(file: BinaryIO, kind: Kind, at: int, size: int) -> Iterator[tuple[bytes, int, int]]:
    """(name, position of its contents, length) of chunks, end to end."""
    n = struct.calcsize(kind.header)
    for _ in range(MAX_CHUNKS):
        if at + n > size:
            return
        name, counted = struct.unpack(kind.header, peek(file, at, n))
        length = max(0, counted - kind.counted)  # some programs that write to pipes do not even count the header
        yield name, at + n, length
        at += n + length
        at += -at % kind.align


def _samples(file: BinaryIO, kind: Kind, magic: bytes, size: int) -> Samples | None:
    n = struct.calcsize(kind.header)
    number = kind.header[0] + kind.header[-1]
    sizes = None
    for name, start, length in _chunks(file, kind, kind.first, size):
        if name == b"ds64" and magic != b"RIFF" and length >= 16:
            sizes = start + 8, *struct.unpack("<Q", peek(file, start + 8, 8))
        if name == kind.samples:
            at = start - n + struct.calcsize(kind.header[:-1])
            if sizes and length in (0, 0xFFFFFFFF):
                return Samples(start, sizes[1], sizes[0], "<Q")
            return Samples(start, length, at, number)
    return None


def _true_end(file: BinaryIO, kind: Kind, samples: Samples, size: int) -> int:
    """Where the samples end: as announced where what follows confirms it, otherwise with the file."""
    start, length = samples.start, samples.announced
    if length >= size - start:
        return size
    end = start + length
    if length and not kind.outer:
        return end
    if length and kind.align > 1 and end <= _announced_end(file, kind) <= end + kind.align - 1:
        return end
    if _chunks_follow(file, kind, end, size) or (length and behind_tags(file, end, size) == size):
        return end
    return size


def _announced_end(file: BinaryIO, kind: Kind) -> int:
    """Where the file ends by the length in its own header; 0 where none is known."""
    n = struct.calcsize(kind.outer) if kind.outer else 0
    (outer,) = struct.unpack(kind.outer, peek(file, kind.outer_at, n).ljust(n, b"\0")) if n else (0,)
    return outer - kind.outer_counted if 0 < outer < kind.unknown else 0


def _chunks_follow(file: BinaryIO, kind: Kind, end: int, size: int) -> bool:
    """Whether chunks fill the file from the end of the samples on; the last may be cut off.

    A chunk that is cut off has a known name, or any if the announced length of the file has room for it. Where that is
    not known, or only counts what is there, such a chunk cannot be told from sound behind a wrong length. Some
    programs leave out the byte that fills an odd length up, others count it.
    """
    padded = end + -end % kind.align
    return end + 8 > size or any(_is_chain(file, kind, at, size) for at in {end, padded})


def _is_chain(file: BinaryIO, kind: Kind, at: int, size: int) -> bool:
    name, end = b"", at
    for name, start, length in _chunks(file, kind, at, size):
        if not all(32 <= byte < 127 for byte in name[:4]):
            return False
        end = start + length
    return name[:4].strip() in KNOWN or (end > at and abs(end - size) <= 1) or size < end <= _announced_end(file, kind)


def _au(file: BinaryIO, order: str, size: int) -> Contents | None:
    header = peek(file, 0, 12)
    if len(header) < 12:
        return None
    start, announced = struct.unpack(order + "II", header[4:12])
    there = min(size - start, announced) if 0 < announced < 0xFFFFFFFF else size - start
    if start < 24 or there <= 0:
        return None
    is_cut = 0 < announced < 0xFFFFFFFF and announced > there
    patches = {8: struct.pack(order + "I", min(there, 0xFFFFFFFE))}
    left_over = unexplained(file, start + there, size)
    view = View(file, _patched(patches, start + there))
    return Contents((Part(view),), announced=announced / there if is_cut else 1.0, left_over=left_over)
