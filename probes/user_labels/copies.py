"""Copies of recordings among labelled ones: no two splits may share them.

Shapes: K recordings, P width of a row of features.
"""

from dataclasses import replace

import numpy as np

from probes.features.files import FeatureFiles
from probes.user_labels.table import LabelTable

TOLERANCE = 0.02  # of the deviation over recordings, root mean square: what rounding and batches make of equal sounds
BLOCK = 1024  # recordings that are compared with all before them at once


def copies(features: FeatureFiles) -> list[list[str]]:
    """Recordings with equal features, in groups of two or more; silent ones, which are all alike, are left out."""
    names, mean_KP = features.means()
    deviation_P = mean_KP.std(axis=0)
    scaled_KP = ((mean_KP - mean_KP.mean(axis=0)) / np.where(deviation_P, deviation_P, 1)).astype(np.float32)
    if not deviation_P.any():
        return []
    square_K, limit = np.square(scaled_KP).sum(axis=1), TOLERANCE**2 * np.count_nonzero(deviation_P)
    first_K = np.arange(len(names))  # the first recording that each is equal to
    for start in range(0, len(names), BLOCK):
        end = min(start + BLOCK, len(names))
        distances = square_K[start:end, None] + square_K[:end] - 2 * scaled_KP[start:end] @ scaled_KP[:end].T
        distances[np.arange(end - start), np.arange(start, end)] = 0
        first_K[start:end] = (distances < limit).argmax(axis=1)
    groups: dict[int, list[str]] = {}
    for name, first in zip(names, first_K.tolist(), strict=True):
        groups.setdefault(int(first_K[first]), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def keep_together(table: LabelTable, groups: list[list[str]]) -> LabelTable:
    """The table with each group of copies, and the groups of the table that they join, as one group.

    Where the table names the splits these stay, and a note says which copies are in two of them.
    """
    items = {item.file: item for item in table.items}
    groups = [known for group in groups if len(known := [name for name in group if name in items]) > 1]
    if not groups:
        return table
    if any(item.split for item in table.items):
        torn = [group for group in groups if len({items[name].split for name in group}) > 1]
        if not torn:
            return table
        pair = " and ".join(sorted({items[name].split: name for name in torn[0]}.values())[:2])
        note = f"copies of one recording are in two splits, {pair} first (of {len(torn)}): scores are too high"
        return replace(table, notes=(*table.notes, note))
    owner: dict[str, str] = {}  # group or file: what it was joined to

    def root(key: str) -> str:
        while key in owner:
            key = owner[key]
        return key

    key_of = {item.file: f"group {item.group}" if item.group else f"file {item.file}" for item in table.items}
    for group in groups:
        first, *others = dict.fromkeys(root(key_of[name]) for name in group)
        owner |= dict.fromkeys(others, first)
    joined = {root(key_of[name]) for group in groups for name in group}
    n = sum(len(group) - 1 for group in groups)
    note = f"copies are kept in one split ({n}, such as {' and '.join(sorted(groups[0])[:2])})"
    kept = (replace(item, group=key) if (key := root(key_of[item.file])) in joined else item for item in table.items)
    return replace(table, items=tuple(kept), notes=(*table.notes, note))
