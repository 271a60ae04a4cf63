"""Filters of a query: functions over the named columns of an index that say which recordings may be found.

Shapes: N rows. A column that `mert.collection.columns.COLUMNS` names can be filtered by; one that is added there, too.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mert.collection.columns import Table
from mert.describe.description import MADE_BY
from mert.errors import CheckpointError, UsageError
from mert.files import read_json

log = logging.getLogger("mert")
Filter = Callable[[Table], np.ndarray]  # bool [N]


def under(folder: str) -> Filter:
    """Recordings below a folder, which is named relative to the folder of the index.

    >>> from mert.collection.columns import Row
    >>> under("a")(Table.of({}, [Row("a/x.wav"), Row("ab/x.wav"), Row("a/b/y.wav")])).tolist()
    [True, False, True]
    """
    path = PurePosixPath(folder)
    beginning = os.fsencode(f"{path}/") if path.parts else b""

    def below(table: Table) -> np.ndarray:
        rows = np.flatnonzero(table.name_lengths > len(beginning))
        starts_N = table.columns["name_end"] - table.name_lengths
        for i, byte in enumerate(beginning):
            rows = rows[table.name_bytes[starts_N[rows] + i] == byte]
        found_N = np.zeros(len(table), bool)
        found_N[rows] = True
        return found_N

    return below


def within(column: str, least: float = -np.inf, most: float = np.inf) -> Filter:
    """Recordings whose value in a column lies in [least, most]; those without a value (NaN) are left out."""

    def between(table: Table) -> np.ndarray:
        values_N = table.columns[column]
        return (values_N >= least) & (values_N <= most)

    return between


def described(
    folder: Path, key: str | None = None, tempo_bpm: tuple[float, float] | None = None, tags: Collection[str] = ()
) -> Filter:
    """Recordings of a key, a tempo and with all of some tags, by the files that `mert describe -o` wrote of them.

    `folder` mirrors the folder of the index. Recordings without a description, and those of which the heads were not
    sure, are left out; so are those whose names were too long for the file of a description. UsageError if nothing is
    described there.
    """
    suffix, names = ".json", set[str]()
    files = [path for path in folder.rglob(f"*{suffix}") if path.is_file()] if folder.is_dir() else []
    if not files:
        raise UsageError(folder, "holds no descriptions", "write them first: mert describe FOLDER -o this folder")
    for path in files:
        try:
            description = read_json(path)
        except CheckpointError as error:
            log.warning("%s: not counted as a description", error)
            continue
        if MADE_BY in description and agrees(description, key, tempo_bpm, tags):
            names.add(path.relative_to(folder).as_posix().removesuffix(suffix))

    def held(table: Table) -> np.ndarray:
        found_N = np.zeros(len(table), bool)
        for name in names:
            if (row := table.row_of_name(name)) is not None:
                found_N[row] = True
        return found_N

    return held


def agrees(
    description: dict[str, Any], key: str | None, tempo_bpm: tuple[float, float] | None, tags: Collection[str]
) -> bool:
    """Whether a description, as plain values, has this key, a tempo in this range, and all of these tags in any head.

    >>> agrees({"key": {"value": "C major"}, "tempo_bpm": 99.0, "genre": {"rock": 0.7}}, "c major", (90, 100), ["rock"])
    True
    >>> agrees({"key": {"value": None}, "tempo_bpm": None}, "C major", None, [])
    False
    """
    found = description.get("key")
    value = found.get("value") if isinstance(found, dict) else None
    tempo = description.get("tempo_bpm")
    if key is not None and (value is None or value.lower() != key.lower()):
        return False
    if tempo_bpm is not None and not (isinstance(tempo, int | float) and tempo_bpm[0] <= tempo <= tempo_bpm[1]):
        return False
    others = ({"value", "confidence"}, {"values"})  # classes, and values of a regression
    found_tags = (scores for name, scores in description.items()
                  if name != MADE_BY and isinstance(scores, dict) and scores.keys() not in others)  # fmt: skip
    named = {tag.lower() for scores in found_tags for tag in scores}
    return all(tag.lower() in named for tag in tags)
