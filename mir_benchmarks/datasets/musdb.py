"""MUSDB18: 150 songs with their four stems, as WAV folders or as .stem.mp4 files, with 14 fixed validation songs."""

from pathlib import Path

from mir_benchmarks.datasets.dataset import Dataset, Item, TaskError
from mir_benchmarks.datasets.reading import audio_at, find, leak_notes
from mir_benchmarks.datasets.splits import musdb_validation
from probes.metrics import STEMS
from probes.separation.stems import STREAMS

PACKED = ".stem.mp4"
GET = "get MUSDB18-HQ (Zenodo 3338373) or musdb18.zip (Zenodo 1117372) and unpack it there: train/, test/"


def read(home: Path, protocol: dict[str, str]) -> Dataset:
    """Songs by their mixture; its stems lie beside it, or are further streams of the same .stem.mp4."""
    root = find(home, ("train", "*/train"), GET).parent
    items = tuple(item for folder in ("train", "test") for item in _songs(root / folder))
    return Dataset(items, STEMS, tuple(leak_notes(items)))


def stem_files(item: Item) -> dict[str, Path]:
    """Where the mixture and the stems of a song are: five files, WAV as published, or five times the same .stem.mp4."""
    packed = item.audio.name.endswith(PACKED)
    return {stem: item.audio if packed else audio_at(item.audio.with_name(f"{stem}.wav")) for stem in STREAMS}


def _songs(folder: Path) -> list[Item]:
    if not folder.is_dir():
        raise TaskError(folder, "there is no such folder", GET)
    songs = {path.name.removesuffix(PACKED): path for path in folder.glob(f"*{PACKED}")}
    songs |= {path.name: audio_at(path / "mixture.wav") for path in folder.iterdir() if path.is_dir()}
    return [_song(name, audio, folder.name) for name, audio in sorted(songs.items()) if not name.startswith(".")]


def _song(name: str, audio: Path, part: str) -> Item:
    artist, dash, _ = name.partition(" - ")
    if not dash:
        raise TaskError(audio, f"{name!r} is not named '<Artist> - <Title>'", "give it its name back, or move it away")
    split = "valid" if part == "train" and name in musdb_validation() else part
    item = Item(name, audio, split, None, artist)
    if missing := [file.name for file in stem_files(item).values() if not file.exists()]:
        raise TaskError(audio.parent, f"there is no {', '.join(missing)}", GET)
    return item
