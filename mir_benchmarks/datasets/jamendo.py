"""MTG-Jamendo: tags of full tracks in four subsets, with the artist-disjoint split-0 of the user's clone."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from mir_benchmarks.datasets.dataset import Dataset, Item
from mir_benchmarks.datasets.reading import audio_at, bad_row, class_notes, find, first_match, leak_notes, read_text

FILES = {"train": "train", "valid": "validation", "test": "test"}
COLUMNS = ("TRACK_ID", "ARTIST_ID", "ALBUM_ID", "PATH", "DURATION", "TAGS")
GET = "clone MTG/mtg-jamendo-dataset there: the splits are in its data/splits/split-0"
AUDIO_FOLDERS = ("audio-low", "audio", "*/audio-low", "*/audio")


def _read(home: Path, protocol: dict[str, str], subset: str) -> Dataset:
    """Tags are spelled as in the files, `genre---rock`, and are classes in alphabetical order."""
    name = f"autotagging_{subset}-train.tsv"
    folders = ("data/splits/split-0", "*/data/splits/split-0", "split-0", "*/split-0", ".")
    splits = find(home, (f"{folder}/{name}" for folder in folders), GET).parent
    audio = first_match(home, AUDIO_FOLDERS)
    paths = {split: splits / f"autotagging_{subset}-{of}.tsv" for split, of in FILES.items()}
    tracks = [track for split, path in paths.items() for track in _tracks(path, split, audio)]
    items = [item for item, _ in tracks]
    tags = tuple(sorted({str(tag) for item in items for tag in item.label or ()}))
    notes = leak_notes(items, {"albums": {item.id: album for item, album in tracks}}) + class_notes(items, tags)
    return Dataset(tuple(items), tags, tuple(notes))


read_instrument = partial(_read, subset="instrument")  # 40 instruments
read_moodtheme = partial(_read, subset="moodtheme")  # 56 moods and themes
read_genre = partial(_read, subset="genre")  # 87 genres
read_top50 = partial(_read, subset="top50tags")  # the 50 most frequent tags of all kinds


def _tracks(path: Path, split: str, audio: Path) -> Iterator[tuple[Item, str]]:
    """Tracks and their albums; all cells from the sixth on are tags."""
    lines = read_text(path, GET).replace("\r\n", "\n").split("\n")
    if tuple(lines[0].split("\t")) != COLUMNS:
        raise bad_row(path, 1, f"does not begin with the columns {' '.join(COLUMNS)}", GET)
    for number, line in enumerate(lines[1:], start=2):
        track, artist, album, place, _, *tags = (*line.split("\t"), "", "", "", "", "")
        label = tuple(tag.strip() for tag in tags if tag.strip())
        if not line.strip():
            continue
        if not label:
            raise bad_row(path, number, "has no tags", GET)
        yield Item(track, _audio(audio, place), split, label, artist), album


def _audio(folder: Path, place: str) -> Path:
    """48/948.mp3 is 48/948.low.mp3 in the low quality, which may also lie below audio/."""
    full, low = folder / place, folder / f"{place.removesuffix('.mp3')}.low.mp3"
    places = (low, full) if folder.name == "audio-low" else (full, low)
    return next((audio for path in places if (audio := audio_at(path)).exists()), places[0])
