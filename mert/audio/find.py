"""Which files of a folder are recordings."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = frozenset(
    {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".aac", ".aif", ".aiff", ".aifc"}
    | {".au", ".snd", ".caf", ".w64", ".rf64"}
)


def audio_under(folder: Path, passed_over: Counter[str]) -> Iterator[Path]:
    """Audio files below a folder, sorted; links to folders are followed once, so that loops end."""
    seen: set[str] = set()

    def unreadable(error: OSError) -> None:
        passed_over["unreadable folders"] += 1

    for root, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            passed_over["linked folders seen before"] += 1
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for path in (Path(root, name) for name in sorted(files)):
            suffix = os.path.splitext(path.name)[1].lower()
            if suffix not in SUFFIXES:
                passed_over[suffix or "no suffix"] += 1
            elif path.name.startswith("._"):  # a Mac's notes on the file without these two characters
                passed_over["AppleDouble files"] += 1
            elif path.is_fifo():  # opening it would wait for ever
                passed_over["pipes"] += 1
            else:
                yield path
