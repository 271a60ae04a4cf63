"""Which files of a folder are recordings."""

import os
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from mert.errors import install

# What libsndfile decodes, and m4a and aac: everybody has them, and an error says what decodes them.
COMMON = frozenset(
    {
        ".wav",
        ".wave",
        ".bwf",
        ".rf64",
        ".w64",
        ".flac",
        ".ogg",
        ".oga",
        ".opus",
        ".mp3",
        ".mp2",
        ".mpga",
        ".m4a",
        ".aac",
    }
    | {".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".voc", ".sph", ".nist", ".ircam", ".sf", ".8svx", ".avr"}
)
# What FFmpeg decodes beside it. Not .ts, which is more often a program than a film.
BY_FFMPEG = frozenset(
    {".mp4", ".m4b", ".m4p", ".m4r", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4a", ".f4v", ".webm", ".weba", ".mkv"}
    | {".mka", ".ogv", ".ogx", ".spx", ".wma", ".wmv", ".asf", ".xwma", ".avi", ".flv", ".nut", ".mxf", ".m2ts", ".mts"}
    | {".mpg", ".mpeg", ".vob", ".wv", ".tta", ".tak", ".ape", ".mpc", ".mp+", ".dsf", ".ac3", ".eac3", ".ec3", ".dts"}
    | {".dtshd", ".mlp", ".thd", ".amr", ".awb", ".ra", ".rm", ".oma", ".aa3", ".at3", ".shn", ".qoa", ".mp1", ".adts"}
    | {".loas", ".latm", ".gsm", ".adx", ".hca"}
)
SUFFIXES = COMMON | BY_FFMPEG
INDEX = ".mert-index"  # the folder in which `mert similar` keeps vectors beside recordings


def decodable() -> frozenset[str]:
    """The suffixes of what the decoders that are installed can decode."""
    return SUFFIXES if find_spec("av") else COMMON


def listed(passed_over: Counter[str]) -> str:
    """The files of a folder that are not taken, by suffix, and what would decode them.

    >>> listed(Counter({".txt": 2, "pipes": 1}))
    '2 .txt, 1 pipes'
    """
    counted = ", ".join(
        f"{n} {suffix}" for suffix, n in sorted(passed_over.items(), key=lambda item: (-item[1], item[0]))
    )
    lacking = sorted(BY_FFMPEG & set(passed_over))
    return counted + (f" (for {' '.join(lacking)}: {install('codecs')})" if lacking else "")


def audio_under(folder: Path, passed_over: Counter[str]) -> Iterator[Path]:
    """Audio files below a folder, sorted; links to folders are followed once, so that loops end."""
    seen: set[str] = set()
    suffixes = decodable()

    def unreadable(error: OSError) -> None:
        passed_over["unreadable folders"] += 1

    for root, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            passed_over["linked folders seen before"] += 1
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name != INDEX)
        for path in (Path(root, name) for name in sorted(files)):
            suffix = os.path.splitext(path.name)[1].lower()
            if suffix not in suffixes:
                passed_over[suffix or "no suffix"] += 1
            elif path.name.startswith("._"):  # a Mac's notes on the file without these two characters
                passed_over["AppleDouble files"] += 1
            elif _is_pipe(path):  # opening it would wait for ever
                passed_over["pipes"] += 1
            else:
                yield path


def _is_pipe(path: Path) -> bool:
    """Whether a path is a named pipe; one that cannot be looked at is tried later, when its error has a row."""
    try:
        return path.is_fifo()
    except OSError:
        return False
