"""Shared by all readers: text, tables and JSON with errors that name file, line and remedy; paths; notes."""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from mert.audio.find import SUFFIXES
from mir_benchmarks.datasets.dataset import Item, TaskError

COPY_AGAIN = "copy or download it again"
COMPARED = ("train", "test")  # splits
COMMON = (".wav", ".flac", ".mp3", ".ogg", ".opus")
OTHER_FORMATS = (*COMMON, *sorted(SUFFIXES - set(COMMON)))


def bad_row(path: Path, line: int, reason: str, remedy: str = COPY_AGAIN) -> TaskError:
    """An error about one line of a file.

    >>> print(bad_row(Path("a.csv"), 3, "no key 'H minor'", "correct it"))
    a.csv, line 3: no key 'H minor'; correct it
    """
    return TaskError(f"{path}, line {line}", reason, remedy)


def read_text(path: Path, remedy: str = COPY_AGAIN, fallback: str | None = None) -> str:
    """A text file in UTF-8 with or without byte order mark, or in the `fallback` encoding; TaskError otherwise."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TaskError(path, f"cannot be read ({error.strerror})", remedy) from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if fallback:
            return data.decode(fallback)
        raise TaskError(path, f"is not UTF-8 text (byte {error.start})", remedy) from None


def read_table(
    path: Path, columns: Iterable[str], delimiter: str = ",", remedy: str = COPY_AGAIN, fallback: str | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, row) of a table with a header that has `columns`; stray blanks and tabs around cells are taken off."""
    text = read_text(path, remedy, fallback)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        if missing := [column for column in columns if column not in header]:
            raise bad_row(path, 1, f"there is no column {', '.join(map(repr, missing))}", remedy)
        for cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) < len(header):
                raise bad_row(path, reader.line_num, f"has {len(cells)} of {len(header)} cells", remedy)
            yield reader.line_num, {name: cell.strip() for name, cell in zip(header, cells, strict=False)}
    except csv.Error as error:
        raise bad_row(path, reader.line_num, f"is no table row ({error})", remedy) from None


def read_json(path: Path, hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> dict[str, Any]:
    """A JSON file that holds one object; `hook` replaces objects as they are read, which saves memory."""
    try:
        values = json.loads(read_text(path), object_pairs_hook=hook)
    except (ValueError, RecursionError) as error:
        raise TaskError(path, f"is not JSON ({error})", COPY_AGAIN) from None
    if not isinstance(values, dict):
        raise TaskError(path, "is not a JSON object", COPY_AGAIN)
    return values


def number(cell: str, path: Path, line: int) -> float:
    """A finite number in a cell."""
    try:
        value = float(cell)
    except ValueError:
        value = float("nan")
    if abs(value) == float("inf") or value != value:
        raise bad_row(path, line, f"{cell!r} is not a number")
    return value


def find(home: Path, patterns: Iterable[str], remedy: str) -> Path:
    """The first file or folder below `home` that matches one of the glob patterns, in their order."""
    patterns = tuple(patterns)
    if not (match := first_match(home, patterns)).exists():
        raise TaskError(home, f"there is no {' or '.join(patterns[:2])}", remedy)
    return match


def first_match(home: Path, patterns: Sequence[str]) -> Path:
    """As `find`; where nothing matches, the place of the first pattern."""
    return next((match for pattern in patterns for match in sorted(home.glob(pattern))), home / patterns[0])


def audio_at(path: Path, suffix: str | None = None) -> Path:
    """`path` or, if only that exists, the same recording in another format, or with its suffix in capitals.

    `suffix` is what is replaced, by default the last one.

    >>> audio_at(Path("no/such.LOFI.mp3"))
    PosixPath('no/such.LOFI.mp3')
    """
    if path.exists():
        return path
    stem = path.name.removesuffix(suffix or path.suffix)
    if not (there := _suffixes_in(path.parent).get(stem)):
        return path
    ends = (end for small in (path.suffix, *OTHER_FORMATS) for end in (small, small.upper()))
    found = (path.with_name(stem + end) for end in ends if end in there)
    return next((audio for audio in found if audio.exists()), path)  # a link may lead nowhere


def _suffixes_in(folder: Path) -> dict[str, set[str]]:
    """Suffixes of the files of each stem; to ask for every format of thousands of missing files would take minutes."""
    try:
        return _suffixes_at(folder, os.stat(folder).st_mtime_ns)
    except OSError:
        return {}


@lru_cache(maxsize=256)
def _suffixes_at(folder: Path, mtime_ns: int) -> dict[str, set[str]]:
    there: dict[str, set[str]] = {}
    for name in os.listdir(folder):
        stem, dot, suffix = name.rpartition(".")
        there.setdefault(stem, set()).add(dot + suffix)
    return there


def leak_notes(
    items: Sequence[Item], groups: Mapping[str, Mapping[str, str]] | None = None, artists: str = "artists"
) -> list[str]:
    """Notes on `artists` in both train and test, and likewise on other `groups`: name -> item id -> group."""
    notes = []
    for name, of in ({artists: {item.id: item.artist for item in items}} | dict(groups or {})).items():
        train, test = ({of.get(item.id) for item in items if item.split == split} - {None, ""} for split in COMPARED)
        if shared := train & test:
            notes.append(f"{len(shared)} of the {len(test)} test {name} also occur in train")
    return notes


def class_notes(items: Sequence[Item], classes: Sequence[str]) -> list[str]:
    """A note on classes or tags that train or test never shows."""
    notes = []
    for split in COMPARED:
        labels = (item.label for item in items if item.split == split)
        seen = Counter(name for label in labels for name in ((label,) if isinstance(label, str) else label or ()))
        if absent := [name for name in classes if not seen[name]]:
            named = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
            notes.append(f"{len(absent)} of the {len(classes)} classes have no {split} item: {named}")
    return notes
