"""GTZAN: genres of 30-s excerpts, and their beats (GTZAN-Rhythm), with the fault-filtered split."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mir_benchmarks.datasets.dataset import Dataset, Item, TaskError
from mir_benchmarks.datasets.reading import audio_at, bad_row, class_notes, find, number, read_json, read_text
from mir_benchmarks.datasets.splits import gtzan_splits

GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
GENRE_FOLDERS = ("genres", "genres_original", "*/genres", "*/genres_original", ".")
BEAT_FOLDERS = ("beats", "*/beats", "jams", "*/jams")
CORRUPT = "jazz.00054"  # in the copy on Kaggle
KAGGLE = "; damaged in the copy on Kaggle: get another, or run with --set gtzan_jazz54=drop"
NO_ARTISTS = (
    "GTZAN names no artists; the fault-filtered split was made so that none is in two splits, by Sturm's index of it"
)


def read_genre(home: Path, protocol: dict[str, str]) -> Dataset:
    """One of ten genres for each excerpt of the split that is there; `facts["absent"]` names the others."""
    items, absent = _excerpts(home, protocol)
    return Dataset(tuple(items), GENRES, (NO_ARTISTS, *class_notes(items, GENRES)), {"absent": absent})


def read_beats(home: Path, protocol: dict[str, str]) -> Dataset:
    """Times of the beats in seconds; `facts["downbeats"]` has those of the downbeats, where they are annotated.

    `facts["unannotated"]` names excerpts that are there without beats.
    """
    folder = find(home, BEAT_FOLDERS, "get TempoBeatDownbeat/gtzan_tempo_beat and put its beats/ there")
    excerpts, absent = _excerpts(home, protocol)
    items, unannotated, downbeats = [], [], {}
    for item in excerpts:
        beats = _beats(folder, item.id)
        if beats is None:
            unannotated.append(item.id)
            continue
        items.append(Item(item.id, item.audio, item.split, tuple(time for time, _ in beats)))
        if any(position for _, position in beats):
            downbeats[item.id] = tuple(time for time, position in beats if position == 1)
    facts = {"absent": absent, "unannotated": unannotated, "downbeats": downbeats}
    return Dataset(tuple(items), (), (NO_ARTISTS,), facts)


def _excerpts(home: Path, protocol: dict[str, str]) -> tuple[list[Item], list[str]]:
    remedy = "put the excerpts at genres/<genre>/<genre>.000NN.wav"
    root = find(home, (f"{folder}/{genre}" for folder in GENRE_FOLDERS for genre in GENRES), remedy).parent
    items = []
    for name, split in gtzan_splits().items():
        genre = name.partition(".")[0]
        if name != CORRUPT or protocol.get("gtzan_jazz54") != "drop":
            items.append(Item(name, audio_at(root / genre / f"{name}.wav"), split, genre))
    there = [item for item in items if item.audio.exists()]
    return there, [item.id for item in items if not item.audio.exists()]


def _beats(folder: Path, name: str) -> list[tuple[float, int]] | None:
    """(time in s, position in the bar or 0) of each beat, in order; None if the excerpt is not annotated."""
    plain, jams = folder / f"gtzan_{name.replace('.', '_')}.beats", folder / f"{name}.wav.jams"
    if plain.exists():
        return sorted(_plain_beats(plain))
    return sorted(_jams_beats(jams)) if jams.exists() else None


def _plain_beats(path: Path) -> Iterator[tuple[float, int]]:
    """Rows of a time and, in most files, a position, separated by tabs or blanks."""
    for line, cells in enumerate(map(str.split, read_text(path).splitlines()), start=1):
        if not cells:
            continue
        if len(cells) > 2:
            raise bad_row(path, line, f"has {len(cells)} columns, not a time and a position")
        time_s = number(cells[0], path, line)
        if time_s < 0:
            raise bad_row(path, line, f"a beat at {time_s:g} s")
        yield time_s, int(number(cells[1], path, line)) if len(cells) == 2 else 0


def _jams_beats(path: Path) -> list[tuple[float, int]]:
    """Beats of a JAMS file, at position 1 where a downbeat is annotated within 10 ms."""
    times: dict[str, list[float]] = {}
    try:
        for annotation in read_json(path)["annotations"]:
            if annotation["namespace"] == "beat":
                kind = annotation.get("sandbox", {}).get("annotation_type", "beat")
                times.setdefault(kind, _times(annotation["data"]))
        beats = times["beat"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TaskError(path, f"holds no beats ({error!r})", "get GTZAN-Rhythm again") from None
    downbeats = times.get("downbeat", [])
    firsts = [any(abs(time - downbeat) <= 0.01 for downbeat in downbeats) for time in beats]
    return [(time, 1 if first else 2 if downbeats else 0) for time, first in zip(beats, firsts, strict=True)]


def _times(data: Any) -> list[float]:
    """JAMS writes observations as a list of objects, or as an object of lists."""
    return [float(time) for time in (data["time"] if isinstance(data, dict) else [row["time"] for row in data])]
