"""Filters of a query: functions over the named columns of an index that say which recordings may be found.

Shapes: N rows. A column that `mert.collection.table.COLUMNS` names can be filtered by; one that is added there, too.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import PurePosixPath

import numpy as np

from mert.collection.table import Table

Filter = Callable[[Table], np.ndarray]  # bool [N]


def under(folder: str) -> Filter:
    """Recordings below a folder, which is named relative to the folder of the index.

    >>> from mert.collection.table import Row
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
