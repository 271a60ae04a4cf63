"""VocalSet 1.1: ten vocal techniques, split by singer, and twenty singers, split by recording (splits/NOTICE.md)."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mert.audio.find import SUFFIXES
from mir_benchmarks.datasets.dataset import Dataset, Item, TaskError, sha1_mod
from mir_benchmarks.datasets.reading import audio_at, class_notes, find, leak_notes
from mir_benchmarks.datasets.splits import vocalset, vocalset_singer_splits, vocalset_technique_splits

ROOTS = ("FULL", "*/FULL", "data_by_singer", "*/data_by_singer")
SINGER = re.compile(r"([fm])(?:emale|ale)?(\d+)")
COPY = re.compile(r" ?\(\d+\)(?=\.wav$)")  # what computers add to the name of a second copy
MISSPELT = {"vibrado": "vibrato"}  # folders
OF_M10 = ("vibrato/caro_vibrato.wav", "vibrato/dona_vibrato.wav", "vibrato/row_vibrato.wav")
GET = "get VocalSet11.zip (Zenodo 1203819) and unpack it there: FULL/<singer>/<context>/<technique>/"
OUR_SPLIT = "split by our own rule, for no lists have been published: MARBLE-like, not MARBLE's numbers"


@dataclass(frozen=True)
class VocalFile:
    """A recording of VocalSet; `id` is <singer>/<context>/<technique>/ and its corrected name without .wav."""

    id: str
    audio: Path
    technique: str
    singer: str


def read_technique(home: Path, protocol: dict[str, str]) -> Dataset:
    """Recordings labelled with one of ten techniques; no singer is in two splits."""
    files, notes = recordings(home)
    classes = tuple(vocalset()["task_techniques"])
    splits = vocalset_technique_splits()
    items = tuple(Item(file.id, file.audio, splits[file.singer], file.technique, file.singer)
                  for file in files if file.technique in classes)  # fmt: skip
    notes += leak_notes(items, artists="singers")
    return Dataset(items, classes, (OUR_SPLIT, *notes, *class_notes(items, classes)))


def read_singer(home: Path, protocol: dict[str, str]) -> Dataset:
    """All recordings labelled with one of twenty singers; no recording is in two splits."""
    files, notes = recordings(home)
    classes = tuple(vocalset_technique_splits())
    items = tuple(Item(file.id, file.audio, singer_split(file.id.rpartition("/")[2]), file.singer) for file in files)
    return Dataset(items, classes, (OUR_SPLIT, *notes, *class_notes(items, classes)))


def singer_split(name: str) -> str:
    """Split of a recording in the singer task, from its corrected name without .wav.

    >>> singer_split("f1_arpeggios_belt_c_a"), singer_split("m8_row_straight")
    ('train', 'test')
    """
    return vocalset_singer_splits()[sha1_mod(name.lower(), 25)]


def corrected(technique: str, file: str, singer: str | None = None) -> str | None:
    """The name a file should have; None for those that are duplicates or not of VocalSet.

    MARBLE deletes three recordings of m10 with them, which only lack his name; where they lie with m10 they are kept.

    >>> corrected("straight", "row_straight.wav"), corrected("vibrato", "caro_vibrato.wav")
    ('m8_row_straight.wav', None)
    >>> corrected("vibrato", "caro_vibrato.wav", "m10"), corrected("straight", "f2_scales_straight_u(1).wav")
    ('m10_caro_vibrato.wav', 'f2_scales_straight_u.wav')
    """
    key = f"{technique}/{file}"
    if singer == "m10" and key in OF_M10:
        return f"m10_{file}"
    return None if key in vocalset()["deletions"] else vocalset()["renames"].get(key, COPY.sub("", file))


def recordings(home: Path) -> tuple[list[VocalFile], list[str]]:
    """All recordings of the 17 techniques in order of their path, and notes on irregular names."""
    root = find(home, ROOTS, GET)
    files: dict[str, VocalFile] = {}
    odd: Counter[str] = Counter()
    for path in sorted(path for path in root.glob("*/*/*/*") if path.suffix.lower() in SUFFIXES):
        folder, technique, published = path.parent, MISSPELT.get(path.parent.name, path.parent.name), f"{path.stem}.wav"
        name = corrected(technique, published, _singer(path.relative_to(root).parts[0]))
        if name is None or name.startswith("._"):
            continue
        odd[f"recordings are taken from folders {path.parent.name}/, misspelt"] += technique != path.parent.name
        if technique not in vocalset()["techniques"]:
            odd["files of other techniques are left out"] += 1
        elif name != published and audio_at(folder / name).exists():
            odd["wrongly named duplicates are left out"] += 1
        else:
            file = _recording(path, technique, name.removesuffix(".wav"), root, odd)
            files[file.id] = file
    if not files:
        raise TaskError(root, "there is no <singer>/<context>/<technique>/<file>.wav", GET)
    return list(files.values()), [f"{n} {what}" for what, n in odd.items() if n]


def _recording(path: Path, technique: str, name: str, root: Path, odd: Counter[str]) -> VocalFile:
    """A file with its singer, whom the folder names or else the file: `m9_caro_vibrato` lies with m8, and is his."""
    folder = path.parent.relative_to(root)
    by_folder, by_name = _singer(folder.parts[0]), _singer(name.partition("_")[0])
    if not (singer := by_folder or by_name):
        raise TaskError(path, f"neither its name nor {folder.parts[0]!r} names one of the 20 singers", GET)
    if not by_name:
        odd["files do not name their singer: the folder's is taken"] += 1
    elif by_folder and by_name != by_folder:
        odd["files name another singer than their folder: the folder's is taken"] += 1
    return VocalFile(f"{folder.as_posix()}/{name}", path, technique, singer)


def _singer(word: str) -> str | None:
    match = SINGER.fullmatch(word)
    singer = "".join(match.groups()) if match else ""
    return singer if singer in vocalset_technique_splits() else None
