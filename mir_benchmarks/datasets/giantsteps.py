"""GiantSteps key: trained on GiantSteps-MTG-Key, tested on the GiantSteps Key set, in the split of jukemir."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from mir_benchmarks.datasets.dataset import Dataset, Item, sha1_mod
from mir_benchmarks.datasets.reading import audio_at, bad_row, class_notes, find, leak_notes, read_table, read_text

TONICS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
KEYS = tuple(f"{tonic} {mode}" for mode in ("major", "minor") for tonic in TONICS)
FLATS = {"C#": "Db", "D#": "Eb", "F#": "Gb", "G#": "Ab", "A#": "Bb"}
CLONE_TEST = "clone GiantSteps/giantsteps-key-dataset (c8cb8aad) there"
CLONE_TRAIN = "clone GiantSteps/giantsteps-mtg-key-dataset (fd7b8c58) there"
SURE = "2"  # the confidence that annotations are used with
UNKNOWN_ARTISTS = "the artists of the test set are not in its annotations: overlap with train is not known"


def read(home: Path, protocol: dict[str, str]) -> Dataset:
    """One of 24 keys for each preview."""
    items = (*_mtg_items(home), *_test_items(home))
    return Dataset(items, KEYS, (UNKNOWN_ARTISTS, *leak_notes(items), *class_notes(items, KEYS)))


def key_name(text: str) -> str | None:
    """The class of a key as annotators write it; None for anything but a single key.

    >>> key_name("d# minor"), key_name("D major"), key_name("C minor / F# minor"), key_name("-")
    ('Eb minor', 'D major', None, None)
    """
    tonic, _, mode = " ".join(text.split()).partition(" ")
    tonic = tonic[:1].upper() + tonic[1:].lower()
    name = f"{FLATS.get(tonic, tonic)} {mode.lower()}"
    return name if name in KEYS else None


def artist_splits(cells: Sequence[str]) -> dict[str, str]:
    """Split of each artist, from the ARTIST cells of all tracks in their order; names are separated by commas.

    The SHA-1 of a name in lower case, modulo 116, is below 100 for train. Then, twice and track by track, all who
    play on a track with an artist of the validation set go there as well.
    """
    bands = [_names(cell) for cell in cells]
    splits = {name: hashed_split(name) for band in bands for name in band}
    for _ in range(2):
        for band in bands:
            if any(splits[name] == "valid" for name in band):
                splits.update(dict.fromkeys(band, "valid"))
    return splits


def _names(cell: str) -> list[str]:
    return [name.strip() for name in cell.split(",")]


def hashed_split(name: str) -> str:
    """Split of an artist before `artist_splits` looks at who plays with whom."""
    return "train" if sha1_mod(name.lower(), 116) < 100 else "valid"


def _mtg_items(home: Path) -> Iterator[Item]:
    root = find(home, ("giantsteps-mtg-key-dataset*/",), CLONE_TRAIN)
    metadata, path = (root / "annotations" / name for name in ("beatport_metadata.txt", "annotations.txt"))
    artists = {row["ID"]: row["ARTIST"] for _, row in read_table(metadata, ("ID", "ARTIST"), "\t", CLONE_TRAIN)}
    splits = artist_splits(list(artists.values()))
    for line, row in read_table(path, ("ID", "MANUAL KEY", "C"), "\t", CLONE_TRAIN):
        track, key = row["ID"], row["MANUAL KEY"]
        if row["C"] != SURE or "/" in key:
            continue
        if (label := key_name(key)) is None:
            raise bad_row(path, line, f"no key {key!r}", "write it like 'D# minor'")
        if track not in artists:
            raise bad_row(path, line, f"track {track} is not in beatport_metadata.txt", CLONE_TRAIN)
        of = {splits[name] for name in _names(artists[track])}
        audio = audio_at(root / "audio" / f"{track}.LOFI.mp3")
        yield Item(track, audio, "valid" if "valid" in of else "train", label, artists[track])


def _test_items(home: Path) -> Iterator[Item]:
    root = find(home, ("giantsteps-key-dataset*/",), CLONE_TEST)
    find(root, ("annotations/key/*.key",), CLONE_TEST)
    for path in sorted((root / "annotations" / "key").glob("*.key")):
        text = read_text(path, CLONE_TEST)
        if (label := key_name(text.partition("\t")[0])) is None:  # behind a tab: confidence and comment
            raise bad_row(path, 1, f"no key {text.strip()!r}", "write it like 'D major'")
        track = path.name.partition(".")[0]
        yield Item(track, audio_at(root / "audio" / f"{track}.LOFI.mp3"), "test", label)
