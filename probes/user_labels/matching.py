"""Which features belong to which label: files below a folder, by every name they may go by in a table."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mert.audio.find import SUFFIXES
from mert.errors import OutputError
from probes.user_labels.table import LabelError, LabelledFile, LabelTable, classes_of


def matched(table: LabelTable, folder: Path, partial: bool = False) -> tuple[LabelTable, dict[str, Path]]:
    """The table with the features of each file; LabelError where one has no other, unless `partial` leaves it out."""
    names = found(folder)
    paths: dict[str, Path] = {}
    missing: list[LabelledFile] = []
    by_path: dict[Path, str] = {}
    for item in table.items:
        of = names.get(plain(item.file), [])
        if len(of) > 1:
            raise table.error(f"{item.file} may be {of[0].name} or {of[1].name}", "write its suffix, too")
        if not of:
            missing.append(item)
        elif of[0] in by_path:
            raise table.error(f"{item.file} and {by_path[of[0]]} are one recording", "keep one of the two")
        else:
            paths[item.file], by_path[of[0]] = of[0], item.file
    unlabelled = sorted({path for of in names.values() for path in of} - set(paths.values()))
    if missing and not (partial and paths):
        first = f"{missing[0].file} (line {missing[0].line})"
        raise table.error(f"{len(missing)} labelled files have no features in {folder}, {first} first",
                          "embed them, correct the names, or leave them out with --partial")  # fmt: skip
    if unlabelled and not partial:
        raise LabelError(folder, f"{len(unlabelled)} features have no label in {table.source}, {unlabelled[0].name} "
                         "first", "label them, or leave them out with --partial")  # fmt: skip
    notes = [f"{len(missing)} labelled files without features are left out"] if missing else []
    notes += [f"{len(unlabelled)} features without a label are left out"] if unlabelled else []
    kept = tuple(item for item in table.items if item.file in paths)
    classes = table.classes
    if missing and table.task in ("classification", "multilabel"):  # some may be of those left out alone
        held = set(classes_of(table.task, kept))
        classes = tuple(name for name in classes if name in held)
    return replace(table, items=kept, classes=classes, notes=(*table.notes, *notes)), paths


def found(folder: Path) -> dict[str, list[Path]]:
    """Features below a folder by each name a label may use: `a/b.flac.npz`, `a/b.flac`, and `a/b`, of several maybe."""
    if not folder.is_dir():
        raise OutputError(folder, "is no folder", "give what `mert embed -o` wrote")
    paths = [path for path in sorted(folder.rglob("*.npz")) if not is_hidden(path.relative_to(folder))]
    if not paths:
        raise OutputError(folder, "holds no features", "give what `mert embed -o` wrote")
    names: dict[str, list[Path]] = {}
    for path in paths:
        for name in names_of(path.relative_to(folder).as_posix()):
            names.setdefault(name, []).append(path)
    return names


def names_of(relative: str) -> Iterator[str]:
    """The names a features file goes by.

    >>> list(names_of("a/b.flac.npz"))
    ['a/b.flac.npz', 'a/b.flac', 'a/b']
    """
    relative = plain(relative)
    yield relative
    stem = relative.removesuffix(".npz")
    yield stem
    if Path(stem).suffix.lower() in SUFFIXES:
        yield stem.removesuffix(Path(stem).suffix)


def plain(name: str) -> str:
    """A relative path in one spelling: composed letters (some systems write them decomposed), no `./`."""
    return unicodedata.normalize("NFC", Path(name).as_posix())


def is_hidden(relative: Path) -> bool:
    """Whether a file is hidden or in a hidden folder, as unfinished outputs are."""
    return any(part.startswith(".") for part in relative.parts)
