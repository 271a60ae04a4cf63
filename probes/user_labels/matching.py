"""Match labelled files with features below a folder, by any name that a table may use for them."""

import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mert.audio.find import SUFFIXES
from mert.errors import OutputError
from probes.user_labels.table import LabelError, LabelledFile, LabelTable, classes_of


def match_features(table: LabelTable, folder: Path, partial: bool = False) -> tuple[LabelTable, dict[str, Path]]:
    """The table, and the features of each of its files.

    LabelError for files without features, and for features without a label, unless `partial` leaves them out.
    """
    names = paths_by_name(folder)
    paths: dict[str, Path] = {}
    missing: list[LabelledFile] = []
    by_path: dict[Path, str] = {}
    for item in table.items:
        candidates = names.get(normalized(item.file), [])
        if len(candidates) > 1:
            raise table.error(f"{item.file} may be {candidates[0].name} or {candidates[1].name}",
                              "write its suffix, too")  # fmt: skip
        if not candidates:
            missing.append(item)
        elif (path := candidates[0]) in by_path:
            raise table.error(f"{item.file} and {by_path[path]} are one recording", "keep one of the two")
        else:
            paths[item.file], by_path[path] = path, item.file
    unlabelled = sorted({path for candidates in names.values() for path in candidates} - set(paths.values()))
    if missing and not (partial and paths):
        first = f"{missing[0].file} (line {missing[0].line})"
        raise table.error(f"{len(missing)} labelled files have no features in {folder}, {first} first",
                          "embed them, correct the names, or leave them out with --partial")  # fmt: skip
    if unlabelled and not partial:
        first = unlabelled[0].relative_to(folder).as_posix()
        raise LabelError(folder, f"{len(unlabelled)} features have no label in {table.source}, {first} first",
                         "label them, or leave them out with --partial")  # fmt: skip
    notes = [f"{len(missing)} labelled files without features are left out"] if missing else []
    notes += [f"{len(unlabelled)} features without a label are left out"] if unlabelled else []
    kept, classes = tuple(item for item in table.items if item.file in paths), table.classes
    if missing and table.task in ("classification", "multilabel"):  # without classes of missing files only
        remaining = classes_of(table.task, kept)
        classes = tuple(name for name in classes if name in remaining)
    return replace(table, items=kept, classes=classes, notes=(*table.notes, *notes)), paths


def paths_by_name(folder: Path) -> dict[str, list[Path]]:
    """Features below a folder by each name a table may use: `a/b.flac.npz`, `a/b.flac` and, if not unique, `a/b`."""
    if not folder.is_dir():
        raise OutputError(folder, "is not a folder", "give what `mert embed -o` wrote")
    names: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.npz")):
        relative = path.relative_to(folder)
        if not any(part.startswith(".") for part in relative.parts):  # as unfinished outputs, or their folders, are
            for name in names_of(relative.as_posix()):
                names.setdefault(name, []).append(path)
    if not names:
        raise OutputError(folder, "holds no features", "give what `mert embed -o` wrote")
    return names


def names_of(relative: str) -> Iterator[str]:
    """The names of a features file that a table may use.

    >>> list(names_of("a/b.flac.npz"))
    ['a/b.flac.npz', 'a/b.flac', 'a/b']
    """
    relative = normalized(relative)
    stem = relative.removesuffix(".npz")
    yield from (relative, stem)
    if Path(stem).suffix.lower() in SUFFIXES:
        yield stem.removesuffix(Path(stem).suffix)


def normalized(name: str) -> str:
    """A relative path in one spelling: composed letters (some systems decompose them), no `./`."""
    return unicodedata.normalize("NFC", Path(name).as_posix())
