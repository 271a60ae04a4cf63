"""The JSONL of MARBLE v2, the exchange format for any task: one recording per line, one file per split."""

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mir_benchmarks.datasets import emomusic, giantsteps, gtzan, nsynth
from mir_benchmarks.datasets.dataset import SPLITS, Dataset, Item, Label, TaskError
from mir_benchmarks.datasets.reading import audio_at, bad_row, class_notes, leak_notes, number, read_text
from mir_benchmarks.datasets.splits import mtt_tags, vocalset, vocalset_technique_splits

# File names of MARBLE v2; the name of the task works as well.
NAMES = {
    "mtt": "MTT", "giantsteps_key": "GS", "gtzan_genre": "GTZANGenre", "gtzan_beats": "GTZANBeatTracking",
    "emomusic": "EMO", "mtg_instrument": "MTGInstrument", "mtg_moodtheme": "MTGMood", "mtg_genre": "MTGGenre",
    "mtg_top50": "MTGTop50",
}  # fmt: skip
ENDS = {"train": ("train",), "valid": ("val", "valid", "validation"), "test": ("test",)}
WANTED = 'a line is {"audio_path": ..., "label": ...}'


def files(home: Path, task: str) -> dict[str, Path]:
    """The JSONL file of each split of a task; empty if there are none, TaskError if some are missing."""
    paths: dict[str, Path] = {}
    for split, ends in ENDS.items():
        places = [home / f"{name}.{end}.jsonl" for name in (NAMES.get(task, task), task) for end in ends]
        if place := next((place for place in places if place.exists()), None):
            paths[split] = place
    if paths and (missing := [split for split in SPLITS if split not in paths]):
        remedy = f"put {NAMES.get(task, task)}.{ENDS[missing[0]][0]}.jsonl there, or move the others away"
        raise TaskError(home, f"{paths.popitem()[1].name} has no {missing[0]} beside it", remedy)
    return paths


def read(home: Path, task: str, kind: str) -> Dataset:
    """The items of the files, with the labels of the corpus reader; splits and their sizes are those of the files.

    Where recordings are clips of songs (`ori_uid`), `facts["songs"]` names the song of each item.
    """
    classes = _classes(task)
    items, songs, downbeats = [], {}, {}
    for split, path in files(home, task).items():
        for line, row in _rows(path):
            place = PurePosixPath(row["audio_path"])
            label = _label(row["label"], kind, classes, path, line)
            artist, song = row.get("artist"), row.get("ori_uid")  # null is not known, as a missing key is
            item = Item(
                _id(place), _audio(home, place, path, line), split, label, "" if artist is None else str(artist)
            )
            items.append(item)
            if song is not None:
                songs[item.id] = str(song)
            if kind == "beats" and isinstance(row["label"], dict) and row["label"].get("downbeat"):
                downbeats[item.id] = _times(row["label"]["downbeat"], path, line)
    if kind == "multilabel" and not classes:
        classes = tuple(sorted({str(tag) for item in items for tag in item.label or ()}))
    facts: dict[str, Any] = {"songs": songs, "downbeats": downbeats}
    facts |= emomusic.statistics(items) if kind == "regression" else {}
    notes = [f"read from {path.name} and its like: the splits are those of the files", *leak_notes(items)]
    notes += class_notes(items, classes) if kind not in ("beats", "regression") else []
    if 0 < (n_songs := len(set(songs.values()))) < len(items):
        notes.append(f"{len(items)} clips of {n_songs} songs, scored song by song")
    return Dataset(tuple(items), classes, tuple(notes), facts)


def _classes(task: str) -> tuple[str, ...]:
    known = {
        "gtzan_genre": gtzan.GENRES, "giantsteps_key": giantsteps.KEYS, "mtt": mtt_tags(), "emomusic": emomusic.TARGETS,
        "nsynth_instrument": nsynth.FAMILIES, "nsynth_pitch": nsynth.PITCHES,
        "vocalset_technique": tuple(vocalset()["task_techniques"]),
        "vocalset_singer": tuple(vocalset_technique_splits()),
    }  # fmt: skip
    return known.get(task, ())


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(read_text(path).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise bad_row(path, line, f"is not JSON ({error})", WANTED) from None
        if not isinstance(row, dict) or not isinstance(row.get("audio_path"), str) or "label" not in row:
            raise bad_row(path, line, "has no audio_path or no label", WANTED)
        yield line, row


def _label(label: Any, kind: str, classes: tuple[str, ...], path: Path, line: int) -> Label:
    if kind == "beats":
        return _times(label.get("beat") if isinstance(label, dict) else label, path, line)
    if kind == "regression":
        values = [label.get(name) for name in classes] if isinstance(label, dict) else label
        if not isinstance(values, list) or len(values) != len(classes):
            raise bad_row(path, line, f"label {label!r} is not {' and '.join(classes)}", WANTED)
        return _times(values, path, line)
    if kind == "multilabel":
        tags = {_class(tag, classes, path, line) for tag in (label if isinstance(label, list) else [label])}
        return tuple(sorted(tags, key=classes.index if classes else str))
    return _class(label, classes, path, line)


def _class(label: Any, classes: tuple[str, ...], path: Path, line: int) -> str:
    """Our spelling of a class: blanks, hyphens and capitals do not matter, nor sharps for the flats of keys."""
    if not classes and isinstance(label, str):
        return label
    if classes is giantsteps.KEYS:
        name = giantsteps.key_name(str(label))
    else:
        name = {_letters(name): name for name in classes}.get(_letters(str(label)))
    if name is None:
        raise bad_row(path, line, f"unknown label {label!r}", f"give one of {', '.join(classes[:12])} ...")
    return name


def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _times(values: Any, path: Path, line: int) -> tuple[float, ...]:
    if not isinstance(values, list):
        raise bad_row(path, line, f"{values!r} is no list of numbers", WANTED)
    return tuple(number(str(value), path, line) for value in values)


def _id(place: PurePosixPath) -> str:
    """The path without data/<corpus>/ before it and without suffix."""
    parts = place.with_suffix("").parts
    return "/".join(parts[2:] if parts[0] == "data" and len(parts) > 2 else parts)


def _audio(home: Path, place: PurePosixPath, path: Path, line: int) -> Path:
    """Where the recording is: paths count from MARBLE's folder, of which `home` may be any part."""
    if ".." in place.parts or place == PurePosixPath():
        raise bad_row(path, line, f"audio_path {str(place)!r} is no place below this folder", WANTED)
    ways = [audio_at(home.joinpath(*place.parts[start:])) for start in range(len(place.parts))]
    return next((way for way in ways if way.exists()), ways[min(2, len(ways) - 1)])
