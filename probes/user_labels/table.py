"""Tables of user labels: a CSV file whose first column names recordings, read for one of four kinds of task."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mert.audio.find import SUFFIXES
from mert.errors import MertError

NAMED = {"label": "classification", "tags": "multilabel", "time": "frames"}  # the column that determines the task
BESIDE = ("split", "group")
SPLIT_NAMES = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
EXAMPLE = "see `mert probe fit --help` for the columns"


class LabelError(MertError):
    """A file of labels cannot be read, contradicts itself, or does not fit the features."""


@dataclass(frozen=True)
class LabelledFile:
    """One recording and its label: a class, a frozenset of tags, or a tuple of values or of event times in seconds.

    `group` (an artist, say) must not be in two splits; `line` is where the recording is first named. `probabilities` of
    tags, where they are known, are what a head learns in place of 0 and 1.
    """

    file: str
    label: Any
    split: str = ""
    group: str = ""
    line: int = 0
    probabilities: Mapping[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class LabelTable:
    """Labelled recordings for one task; `classes` are the names of the head's outputs, in their order.

    >>> table = LabelTable.of("classification", {"a.wav": "oboe", "b.wav": "flute"})
    >>> table.classes, table.items[0]
    (('flute', 'oboe'), LabelledFile(file='a.wav', label='oboe', split='', group='', line=0, probabilities={}))
    """

    source: str
    task: str
    classes: tuple[str, ...]
    items: tuple[LabelledFile, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, task: str, labels: dict[str, Any], classes: Sequence[str] | None = None) -> LabelTable:
        """A table from labels by file; `classes` are needed where labels are values."""
        items = tuple(LabelledFile(file, label) for file, label in labels.items())
        return cls("labels", task, tuple(classes or classes_of(task, items)), items)

    def error(self, reason: str, remedy: str) -> LabelError:
        """An error about this table."""
        return LabelError(self.source, reason, remedy)


@dataclass(frozen=True)
class Sheet:
    """A CSV file: columns besides the first, and of each row its file, still without a label, and cells by column."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[LabelledFile, dict[str, str]], ...]

    @property
    def targets(self) -> list[str]:
        """Columns that may hold values or tags."""
        return [name for name in self.columns if name not in BESIDE]

    def error(self, reason: str, remedy: str, line: int | None = None) -> LabelError:
        return LabelError(self.path, reason if line is None else f"line {line}: {reason}", remedy)


def read_labels(path: Path, task: str | None = None) -> LabelTable:
    """The labels of a CSV file; LabelError names the line that is wrong.

    Columns: the file first; then `label` (classification), `tags` separated by ; or | (multi-label), several columns
    of 0 and 1 (multi-label) or of numbers (regression), or `time` (frames: a row per event, an empty cell where there
    is none). Columns `split` (train, valid, test) and `group` are optional. Beside `tags`, a column with the name of a
    tag holds its probability: heads are trained to give it, and scored by the tags.
    """
    sheet = read_sheet(path)
    task = task or inferred(sheet)
    column = next((name for name, named in NAMED.items() if named == task), "")
    if column not in sheet.columns and task in ("classification", "frames"):
        raise sheet.error(f"{task} needs a column named {column}", EXAMPLE)
    used = [column] if column in sheet.columns else sheet.targets
    if not used:
        raise sheet.error("has no column besides the file's", EXAMPLE)
    items = tuple(events(sheet) if task == "frames" else single_rows(sheet, task, used))
    classes = classes_of(task, items) if column in used else tuple(used)
    likely = sorted(set(classes) & set(sheet.targets)) if used == ["tags"] else []
    if likely:
        items = tuple(with_probabilities(sheet, items, likely))
    read = {*used, *likely}
    unused = [name for name in sheet.targets if name not in read]
    notes = [f"columns not used: {', '.join(unused)}"] if unused else []
    if task == "classification" and 2 * len(classes) > len(items) and all(map(is_number, classes)):
        notes.append("the labels are many numbers: for values, not classes, give --task regression")
    return LabelTable(str(path), task, classes, items, tuple(notes))


def read_sheet(path: Path) -> Sheet:
    """Header and rows of a CSV file in UTF-8, with or without a byte-order mark, of any line ends."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except OSError as error:
        raise LabelError(path, f"cannot be read ({error.strerror})", "check the path") from None
    except UnicodeDecodeError as error:
        raise LabelError(path, f"is not UTF-8 (byte {error.start})", "save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise LabelError(path, f"is not CSV ({error})", "save it as CSV, separated by commas") from None
    lines = [(line, row) for line, row in lines if any(row)]
    if not lines:
        raise LabelError(path, "is empty", EXAMPLE)
    header = [name.lower() if name.lower() in (*NAMED, *BESIDE) else name for name in lines[0][1]]
    if Path(header[0]).suffix.lower() in {*SUFFIXES, ".npz"} or any(map(is_number, header)):
        raise LabelError(path, f"the first line is no header ({','.join(header[:3])})", "begin with file,label")
    if len(header) == 1:
        raise LabelError(path, f"has one column ({header[0]})", "separate columns by commas: file,label")
    if "" in header or len(set(header)) < len(header):
        raise LabelError(path, "two columns of the header have one name, or none", "name each column")
    rows = []
    for line, row in lines[1:]:
        if len(row) != len(header) or not row[0]:
            what = f"{len(row)} cells, not {len(header)}" if row[0] else "names no file"
            raise LabelError(path, f"line {line}: {what}", "give every row the columns of the header")
        cells = dict(zip(header[1:], row[1:], strict=True))
        split = SPLIT_NAMES.get(cells["split"].lower()) if "split" in cells else ""
        if split is None:
            raise LabelError(path, f"line {line}: split is {cells['split']!r}", "give train, valid or test")
        rows.append((LabelledFile(row[0], None, split, cells.get("group", ""), line), cells))
    if not rows:
        raise LabelError(path, "has a header and no rows", EXAMPLE)
    return Sheet(path, tuple(header[1:]), tuple(rows))


def inferred(sheet: Sheet) -> str:
    """The task that the columns determine."""
    for column, task in reversed(NAMED.items()):
        if column in sheet.columns:
            return task
    cells = {name: [row[name] for _, row in sheet.rows] for name in sheet.targets}
    if cells and all(cell in ("0", "1") for column in cells.values() for cell in column):
        return "multilabel"
    for name, texts in cells.items():
        if not all(map(is_number, texts)):
            raise sheet.error(f"no column is named label, tags or time, and {name} is not numbers", EXAMPLE)
    return "regression"


def single_rows(sheet: Sheet, task: str, used: list[str]) -> Iterator[LabelledFile]:
    """Items of a table with one row per file."""
    seen: dict[str, int] = {}
    for item, row in sheet.rows:
        if item.file in seen:
            raise sheet.error(f"{item.file} stands on line {seen[item.file]}, too", "keep one of the two", item.line)
        seen[item.file] = item.line
        yield replace(item, label=label_of(sheet, task, used, row, item.line))


def label_of(sheet: Sheet, task: str, used: list[str], row: dict[str, str], line: int) -> Any:
    """The label of a row, of any task but frames."""
    if task == "classification":
        if not row["label"]:
            raise sheet.error("the label is empty", "give it a label, or remove the row", line)
        return row["label"]
    if task == "regression":
        for name in used:
            if not is_number(row[name]):
                raise sheet.error(f"{name} is {row[name]!r}, not a number", "give a number, or remove the row", line)
        return tuple(float(row[name]) for name in used)
    if used == ["tags"]:
        return frozenset(tag.strip() for tag in row["tags"].replace("|", ";").split(";") if tag.strip())
    for name in used:
        if row[name] not in ("0", "1"):
            raise sheet.error(f"{name} is {row[name]!r}, neither 0 nor 1", "give 0 or 1", line)
    return frozenset(name for name in used if row[name] == "1")


def with_probabilities(sheet: Sheet, items: Sequence[LabelledFile], tags: Sequence[str]) -> Iterator[LabelledFile]:
    """Items with the probabilities that columns of a table give to some tags."""
    for item, (_, row) in zip(items, sheet.rows, strict=True):
        for tag in tags:
            if not is_number(row[tag]) or not 0 <= float(row[tag]) <= 1:
                reason = f"{tag} is {row[tag]!r}, no probability from 0 to 1 of the tag of this name"
                raise sheet.error(reason, "correct it, or give the column another name", item.line)
        yield replace(item, probabilities={tag: float(row[tag]) for tag in tags})


def events(sheet: Sheet) -> Iterator[LabelledFile]:
    """Items of a table with a row per event; an empty time is a file without events."""
    files: dict[str, tuple[LabelledFile, dict[float, int]]] = {}  # its first row, and the line of each event
    for item, row in sheet.rows:
        text, line, (before, lines) = row["time"], item.line, files.setdefault(item.file, (item, {}))
        if (item.split, item.group) != (before.split, before.group):
            raise sheet.error(f"{item.file} has another split or group on line {before.line}", "give it one", line)
        if text:
            if not is_number(text) or float(text) < 0:
                raise sheet.error(f"time is {text!r}, not seconds", "give a number from 0 on", line)
            if float(text) in lines:
                raise sheet.error(f"the same event stands on line {lines[float(text)]}", "keep one of the two", line)
            lines[float(text)] = line
    for item, lines in files.values():
        yield replace(item, label=tuple(sorted(lines)))


def classes_of(task: str, items: Sequence[LabelledFile]) -> tuple[str, ...]:
    """Names of the outputs: the classes or tags of all labels, sorted.

    >>> classes_of("multilabel", [LabelledFile("a", frozenset({"loud", "fast"})), LabelledFile("b", frozenset())])
    ('fast', 'loud')
    """
    return ("event",) if task == "frames" else tuple(sorted({name for item in items for name in names_in(item.label)}))


def names_in(label: Any) -> tuple[str, ...]:
    """The classes or tags of a label; empty for values and times."""
    if isinstance(label, str):
        return (label,)
    return tuple(sorted(label)) if isinstance(label, frozenset) else ()


def is_number(text: str) -> bool:
    """Whether a cell is a finite number.

    >>> is_number("1e-3"), is_number("nan"), is_number("")
    (True, False, False)
    """
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
