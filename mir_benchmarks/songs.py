"""Clips that are parts of one song, as MARBLE's JSONL has them: each is heard by itself, the song is what is scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from mir_benchmarks.items import TaskError
from probes.clip_probe import Labelled, Source


class Songs:
    """A source whose ids are songs, with the windows of all their clips; other ids stay what they are."""

    def __init__(self, source: Source, song_of: Mapping[str, str]) -> None:
        self._source, self.layers = source, source.layers
        self._clips: dict[str, list[str]] = {}
        for clip, song in song_of.items():
            self._clips.setdefault(song, []).append(clip)

    def rows(self, ids: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """(row numbers, number of the song each belongs to), for songs in this order."""
        found = [self._source.rows(self._clips.get(name, [name]))[0] for name in ids]
        return np.concatenate(found), np.repeat(np.arange(len(found)), [len(rows) for rows in found])

    def windows(self, rows: np.ndarray, layer: int | slice) -> np.ndarray:
        """As the source gives them."""
        return self._source.windows(rows, layer)


def by_song(splits: Mapping[str, Labelled], song_of: Mapping[str, str]) -> dict[str, Labelled]:
    """Splits of songs, each with the target of its clips; TaskError where they differ, and for a song in two splits.

    >>> clips = Labelled(("x1", "x2", "y1"), np.array([3, 3, 5]))
    >>> by_song({"train": clips}, {"x1": "x", "x2": "x", "y1": "y"})["train"]
    Labelled(ids=('x', 'y'), targets=array([3, 5]))
    """
    home: dict[str, str] = {}
    made = {}
    for split, clips in splits.items():
        first: dict[str, int] = {}
        for i, clip in enumerate(clips.ids):
            song = song_of.get(clip, clip)
            at = first.setdefault(song, i)
            if not np.array_equal(clips.targets[at], clips.targets[i], equal_nan=clips.targets.dtype.kind == "f"):
                reason = f"its clips {clips.ids[at]} and {clip} have different labels"
                raise TaskError(song, reason, "correct them, or leave out ori_uid")
            if home.setdefault(song, split) != split:
                raise TaskError(song, f"has clips in {home[song]} and in {split}", "correct ori_uid, or the splits")
        made[split] = Labelled(tuple(first), clips.targets[list(first.values())])
    return made
