"""emoMusic: arousal and valence of 45-s clips, with the MediaEval 2013 test set and jukemir's validation artists."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mir_benchmarks.datasets.dataset import Dataset, Item, TaskError, sha1_mod, synthetic_facts
from mir_benchmarks.datasets.reading import audio_at, bad_row, find, first_match, leak_notes, number, read_table

TARGETS = ("arousal", "valence")
CLIP_FOLDERS = ("clips_45seconds", "clips_45sec", "*/clips_45seconds", "*/clips_45sec")
GET = "get annotations.tar.gz of emoMusic (cvml.unige.ch/databases/emoMusic) and unpack it there"
SET, SET_SPLITS = "Mediaeval 2013 set", {"evaluation": "test", "development": ""}
START, END = "start of the segment (min.sec)", "end of the segment (min.sec)"
CLIP_S = 45.0
# Of the 619 songs of the development set, population deviation: they identify the real data.
DEVELOPMENT_SONGS, MEAN, STD = 619, (4.7561, 4.9739), (1.3860, 1.2546)


def read(home: Path, protocol: dict[str, str]) -> Dataset:
    """(arousal, valence) of each song as rated; `facts` has mean and std of the development songs, to z-score with."""
    info, ratings = (
        find(home, (f"annotations/{name}", name, f"*/{name}", f"*/*/{name}"), GET)
        for name in ("songs_info.csv", "static_annotations.csv")
    )
    folder, rated = first_match(home, CLIP_FOLDERS), _ratings(ratings)
    items, other_lengths = [], 0
    for line, row in read_table(info, ("song_id", "Artist", SET), remedy=GET, fallback="latin-1"):
        song = _song(row, info, line)
        if row[SET] not in SET_SPLITS:
            raise bad_row(info, line, f"{SET} is {row[SET]!r}, neither evaluation nor development")
        if song not in rated:
            raise bad_row(info, line, f"song {song} is not rated in {ratings.name}", GET)
        other_lengths += _seconds(row, info, line) != CLIP_S
        split = SET_SPLITS[row[SET]] or hashed_split(row["Artist"])
        items.append(Item(song, audio_at(folder / f"{song}.mp3"), split, rated.pop(song), row["Artist"]))
    if rated:
        raise TaskError(ratings, f"rates {len(rated)} songs that {info.name} does not know", GET)
    notes = leak_notes(items) + ([f"{other_lengths} clips are not of {CLIP_S:g} s"] if other_lengths else [])
    facts = statistics(items)
    _check_published(facts, items, home)
    return Dataset(tuple(items), TARGETS, tuple(notes), facts)


def hashed_split(artist: str) -> str:
    """By the SHA-1 of the artist's ASCII letters, in lower case with single blanks, modulo 10: train below 8.

    >>> hashed_split("Kevin MacLeod"), hashed_split("Jahzzar")
    ('valid', 'train')
    """
    kept = "".join(c for c in artist.lower() if c.isascii() and (c.isalpha() or c.isspace()))
    return "train" if sha1_mod(" ".join(kept.split()), 10) < 8 else "valid"


def minutes(cell: str) -> float:
    """Seconds of a time written as minutes.seconds, where spreadsheets have cut off zeros.

    >>> minutes("0.48"), minutes("1.05"), minutes(".5"), minutes("2")
    (48.0, 65.0, 50.0, 120.0)
    """
    whole, _, seconds = cell.partition(".")
    return 60.0 * int(whole or "0") + int(seconds.ljust(2, "0"))


def _song(row: dict[str, str], path: Path, line: int) -> str:
    if not row["song_id"].isdecimal():
        raise bad_row(path, line, f"song_id {row['song_id']!r} is no number", GET)
    return str(int(row["song_id"]))


def _seconds(row: dict[str, str], path: Path, line: int) -> float:
    if not row.get(START) or not row.get(END):
        return CLIP_S
    try:
        return minutes(row[END]) - minutes(row[START])
    except ValueError:
        raise bad_row(path, line, f"{row[START]!r} to {row[END]!r} is no segment in min.sec", GET) from None


def _ratings(path: Path) -> dict[str, tuple[float, ...]]:
    rated = {}
    columns = tuple(f"mean_{target}" for target in TARGETS)
    for line, row in read_table(path, ("song_id", *columns), remedy=GET, fallback="latin-1"):
        rated[_song(row, path, line)] = tuple(number(row[column], path, line) for column in columns)
    return rated


def statistics(items: Sequence[Item]) -> dict[str, Any]:
    """Mean and population deviation of each target over train and valid."""
    values_NC = np.array([item.label for item in items if item.split != "test"], dtype=float).reshape(-1, 2)
    if not len(values_NC):
        raise TaskError("emomusic", "there is no development song", GET)
    return {"mean": tuple(values_NC.mean(axis=0).tolist()), "std": tuple(values_NC.std(axis=0).tolist())}


def _check_published(facts: dict[str, Any], items: Sequence[Item], home: Path) -> None:
    """Refuse ratings that are complete but not the published ones."""
    complete = sum(item.split != "test" for item in items) == DEVELOPMENT_SONGS and synthetic_facts(home) is None
    if complete and not np.allclose([*facts["mean"], *facts["std"]], [*MEAN, *STD], rtol=0, atol=1e-3):
        raise TaskError(home, f"ratings of mean {facts['mean']} and std {facts['std']} are not emoMusic's", GET)
