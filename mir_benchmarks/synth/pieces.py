"""Real compositions: music21's free scores as plain notes, read once into the user's cache, split by piece.

Shapes: N notes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mert.errors import MertError, need
from mert.files import read_rows, write_whole

log = logging.getLogger("mert")
FORMAT = 1  # of the cache
SPLITS = {"test": range(0, 1), "valid": range(1, 2), "train": range(2, 10)}  # by the digest of a tune, modulo 10
HELD_OUT_FROM: dict[str, tuple[str, ...]] = {"train": (), "test": ("train",), "valid": ("train", "test")}
BEGINNING, UPBEATS = 10, 4  # intervals that tell a tune from others; notes at which it may begin
MIN_NOTES, MIN_BEATS = 12, 8
LOWEST, HIGHEST = 21, 108
DOUBT = 0.1  # by which another key may correlate better with the notes than that of the signature


@dataclass(frozen=True)
class Group:
    """Files of music21's corpus below a folder; those whose name begins as a key of `left_out` says are not used."""

    folder: str
    what: str
    left_out: dict[str, str] = field(default_factory=dict)
    pattern: str = "**/*"


UT_ORPHEUS = "(c) Ut Orpheus Edizioni 2003"
# All are in the public domain as music, and their encodings state no restriction.
GROUPS = {
    group.folder: group
    for group in (
        Group("ryansMammoth", "fiddle tunes of 1883"),
        Group("oneills1850", "Irish tunes of 1903"),
        Group("airdsAirs", "airs for fife and violin, 1778 to 1801"),
        Group("nottingham-dataset", "British dance tunes"),
        Group("trecento", "polyphony of the 14th century", {
            "PMFC_12_4-Gloria Rvat 1419_bak": "a copy", "PMFC_13_01-Kyrie-Summe-Clementissime.xml": "a copy",
        }),
        Group("monteverdi", "madrigals, books 3 to 5", {
            "madrigal.3.1_old": "a copy", "madrigal.5.4": UT_ORPHEUS, "madrigal.5.5": UT_ORPHEUS,
        }, "*.mxl"),
        Group("beethoven", "string quartets", pattern="**/*.mxl"),
        Group("haydn", "string quartets"),
        Group("mozart", "string quartets, a sonata"),
        Group("schumann_robert", "a string quartet, songs", {"dichterliebe_no2": "a copy"}),
        Group("handel", "an aria"),
        Group("joplin", "a rag"),
    )
}  # fmt: skip
# Groups that were read and are not used: forbidden, or free under conditions that a trained model would inherit.
LEFT_OUT = {
    "palestrina": '"Rights to all derivative electronic formats reserved" (each file; J. Miller, 2000)',
    "essenFolksong": "permission for non-commercial use alone (license.txt)",
    "josquin": "GPL-2.0-or-later (each file; L. Conrad, 1999)",
    "schumann_clara": "CC BY-SA 4.0 (polonaises), (c) without a licence (opus 17)",
    "corelli": "CC BY (2014)",
}
TUNES = ("ryansMammoth", "oneills1850", "airdsAirs", "nottingham-dataset")  # of one part
MAJOR = (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88)  # Krumhansl and Kessler's probe tones
MINOR = (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17)


@dataclass(frozen=True, eq=False)
class Piece:
    """A score as notes, with onsets and durations in quarters, sorted by onset.

    `tune` is what versions of the same music share. `key_is_sure` where key signature, final note and the notes
    themselves say the same; otherwise the key is an estimate. `beats` holds (quarter, position in the bar from 1).
    """

    name: str
    group: str
    tune: str
    metre: tuple[int, int]
    tonic: int
    mode: str
    key_is_sure: bool
    beats: tuple[tuple[float, int], ...]
    part_N: np.ndarray
    onset_N: np.ndarray
    duration_N: np.ndarray
    midi_N: np.ndarray

    @property
    def split(self) -> str:
        """The split of all versions of this music."""
        return split_of(self.tune)

    @property
    def n_parts(self) -> int:
        return int(self.part_N.max()) + 1


def split_of(tune: str) -> str:
    """The split of a tune, by its name alone.

    >>> [split_of(name) for name in ("opus132", "ravens", "gloria")]
    ['train', 'train', 'train']
    """
    number = int(hashlib.sha256(tune.encode()).hexdigest(), 16) % 10
    return next(split for split, numbers in SPLITS.items() if number in numbers)


KINDS = r"reel|jig|hornpipe|strathspey|waltz|clog|fling|march|quickstep|polka|air|no|or|a|b|\d+"


def tune_of(group: str, name: str) -> str:
    """What versions of a tune have in common: the title without articles, kinds and numbers; of a work its folder.

    >>> tune_of("ryansMammoth", "Fisher's Hornpipe No. 2"), tune_of("oneills1850", "The Fisher's")
    ('fishers', 'fishers')
    >>> tune_of("haydn", "opus1no1/movement2"), tune_of("trecento", "PMFC_12_10a-Credo PMFC12.10a")
    ('haydnopus1no1', 'credopmfc1210')
    """
    if "/" in name:
        return group + re.sub(r"[^a-z0-9]", "", name.rpartition("/")[0].lower())
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    plain = re.sub(r"^pmfc_[\d_]+[ab]?-?", "", plain.replace("pmfc12.", "pmfc12"))
    plain = re.sub(r"\(.*?\)|['.,]", "", re.sub(r"[-_]+", " ", plain))
    words = re.sub(r"(\d)[ab]\b", r"\1", plain).split()
    if words and words[0] in ("the", "a", "an"):
        words = words[1:]
    if group in TUNES:
        while len(words) > 1 and re.fullmatch(KINDS, words[-1]):
            words = words[:-1]
    return re.sub(r"[^a-z0-9]", "", "".join(words)) or group + name


def cache_folder() -> Path:
    """Where scores are kept that were read once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "mert" / f"scores-{FORMAT}-music21-{version('music21')}"


@lru_cache(maxsize=4)
def pieces(groups: tuple[str, ...] = tuple(GROUPS)) -> tuple[Piece, ...]:
    """The pieces of some groups. They are read with music21 on the first call (minutes), from the cache afterwards.

    MertError if music21 is not installed and the cache holds nothing.
    """
    if unknown := set(groups) - set(GROUPS):
        raise ValueError(f"no group {', '.join(sorted(unknown))}: give some of {', '.join(GROUPS)}")
    need("music21", "sounds", "sampled music")
    found: list[Piece] = []
    for group in groups:
        path = cache_folder() / f"{group}.jsonl"
        if not path.exists():
            log.info("reading the scores of %s once, into %s", group, path)
            rows = [row for file in files_of(group) for row in read_file(group, file)]
            with write_whole(path) as temporary:
                temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found += map(piece_of, read_rows(path))
    return tuple(found)


@lru_cache(maxsize=32)
def pieces_of(split: str, tunes: bool, groups: tuple[str, ...] = tuple(GROUPS)) -> tuple[Piece, ...]:
    """The pieces of a split: tunes of one part, or music in several parts.

    Tunes of valid and test that begin like one of train, or of each other, under another title are left out.
    """
    wanted = [piece for piece in pieces(groups) if piece.split == split and (piece.group in TUNES) == tunes]
    if tunes:
        elsewhere = {beginning for other in HELD_OUT_FROM[split] for beginning in beginnings_of(other)}
        wanted = [piece for piece in wanted if not beginnings(piece) & elsewhere]
    if not wanted:
        raise MertError(cache_folder(), f"no piece of {split} in {', '.join(groups)}", "name more groups")
    return tuple(wanted)


@cache
def beginnings_of(split: str) -> frozenset[tuple[int, ...]]:
    """How all tunes of a split begin."""
    return frozenset().union(*(beginnings(piece) for piece in pieces(TUNES) if piece.split == split))


def beginnings(piece: Piece) -> frozenset[tuple[int, ...]]:
    """The first intervals of a tune, from its first notes on: versions differ in upbeats and key."""
    steps = tuple(int(step) for step in np.diff(piece.midi_N[: BEGINNING + UPBEATS]))
    return frozenset(steps[i : i + BEGINNING] for i in range(UPBEATS) if len(steps) >= i + BEGINNING)


def piece_of(row: dict[str, Any]) -> Piece:
    """The piece in a row of the cache."""
    arrays = {name: np.array(row[name], kind) for name, kind in
              (("part", np.int16), ("onset", np.float64), ("duration", np.float64), ("midi", np.int16))}  # fmt: skip
    beats = tuple((float(quarter), int(position)) for quarter, position in row["beats"])
    return Piece(
        row["name"], row["group"], tune_of(row["group"], row["title"]), tuple(row["metre"]), row["tonic"], row["mode"],
        row["key_is_sure"], beats, *(arrays[name] for name in ("part", "onset", "duration", "midi")),
    )  # fmt: skip


def files_of(group: str) -> list[Path]:
    """The files of a group, without those that are left out."""
    music21 = need("music21", "sounds", "sampled music")
    home, about = Path(music21.__file__).parent / "corpus" / group, GROUPS[group]
    files = sorted(path for path in home.glob(about.pattern) if path.suffix in (".abc", ".xml", ".mxl"))
    return [path for path in files
            if not any(path.relative_to(home).as_posix().startswith(start) for start in about.left_out)]  # fmt: skip


def read_file(group: str, path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file, one for each of its scores; scores without bars or with too few notes give none."""
    music21 = need("music21", "sounds", "sampled music")
    name = path.relative_to(Path(music21.__file__).parent / "corpus" / group).with_suffix("").as_posix()
    try:
        read = music21.converter.parse(path, forceSource=True, storePickle=False)
    except Exception as error:  # of many kinds; one score less is no reason to stop
        log.warning("%s: music21 cannot read it (%s): left out", path, error)
        return
    scores = list(read.scores) if isinstance(read, music21.stream.Opus) else [read]
    for number, score in enumerate(scores):
        title = (score.metadata and score.metadata.title) if group in TUNES else None
        row = flatten(music21, score)
        if row is not None:
            place = f"{group}/{name}" + (f"#{number}" if len(scores) > 1 else "")
            yield {"name": place, "group": group, "title": str(title or name), **row}


def flatten(music21: Any, score: Any) -> dict[str, Any] | None:
    """Notes, beats and key of a score; None where there is too little of them."""
    parts = list(score.parts) or [score]
    notes = sorted((start, i, midi, length) for i, part in enumerate(parts)
                   for start, midi, length in notes_of(music21, part))  # fmt: skip
    beats, metre = beats_of(parts[0])
    if len(notes) < MIN_NOTES or len(beats) < MIN_BEATS:
        return None
    onset, part_of, midi, duration = (list(column) for column in zip(*notes, strict=True))
    if min(midi) < LOWEST or max(midi) > HIGHEST:
        return None
    signature = next(iter(parts[-1].flatten().getElementsByClass("KeySignature")), None)
    end = max(start + length for start, _, _, length in notes)
    final = min(key for start, _, key, length in notes if start + length > end - 0.01) % 12
    tonic, mode, sure = key_of(np.array(midi), np.array(duration), signature and signature.sharps, final)
    return {"metre": metre, "tonic": tonic, "mode": mode, "key_is_sure": sure, "beats": beats,
            "part": part_of, "onset": onset, "duration": duration, "midi": midi}  # fmt: skip


def notes_of(music21: Any, part: Any) -> list[tuple[float, int, float]]:
    """(onset, pitch, duration) of the notes of a part; tied notes are one, grace notes and chord symbols none."""
    notes: list[tuple[float, int, float]] = []
    tied: dict[int, int] = {}  # the place among the notes of one that the next of its pitch may go on
    for element in part.flatten().notes:
        if element.quarterLength == 0 or isinstance(element, music21.harmony.Harmony):
            continue
        start, length = round(float(element.offset), 4), round(float(element.quarterLength), 4)
        for note in element.notes if element.isChord else [element]:
            if not hasattr(note, "pitch"):  # percussion
                continue
            midi, tie = int(note.pitch.midi), note.tie.type if note.tie else ""
            before = tied.pop(midi, None)
            if tie in ("stop", "continue") and before is not None:
                notes[before] = (notes[before][0], midi, round(start + length - notes[before][0], 4))
            else:
                before = len(notes)
                notes.append((start, midi, length))
            if tie in ("start", "continue"):
                tied[midi] = before
    return notes


def beat_quarters(numerator: int, denominator: int) -> float:
    """The length of a felt beat.

    >>> beat_quarters(4, 4), beat_quarters(6, 8), beat_quarters(3, 2)
    (1.0, 1.5, 2.0)
    """
    compound = denominator >= 8 and numerator % 3 == 0 and numerator > 3
    return (12.0 if compound else 4.0) / denominator


def beats_of(part: Any) -> tuple[list[tuple[float, int]], tuple[int, int]]:
    """(quarter, position) of all beats, and the first metre. Bars that a repeat cuts in two are one."""
    beats: list[tuple[float, int]] = []
    first: tuple[int, int] | None = None
    signature, grid, filled = None, 0.0, 0.0
    for measure in part.getElementsByClass("Measure"):
        signature = measure.timeSignature or signature
        if signature is None:
            return [], (4, 4)
        metre = int(signature.numerator), int(signature.denominator)
        first = first or metre
        start, length, full = float(measure.offset), float(measure.quarterLength), 4 * metre[0] / metre[1]
        if length > full - 0.01 or not (beats and filled + length < full + 0.01):
            # A short bar at the beginning is an upbeat: its end is a bar line.
            grid, filled = (start + length - full if length < full - 0.01 and not beats else start), 0.0
        filled = start + length - grid
        step = beat_quarters(*metre)
        for i in range(round(full / step)):
            if start - 0.01 <= grid + i * step < start + length - 0.01:
                beats.append((round(grid + i * step, 4), i + 1))
    return beats, first or (4, 4)


def key_of(midi_N: np.ndarray, duration_N: np.ndarray, sharps: int | None, final: int) -> tuple[int, str, bool]:
    """Tonic, mode, and whether key signature, final note and the notes themselves agree about them.

    Where they do not, it is the better one of the two keys of the signature, or the best of all if there is none.
    """
    classes = np.bincount(midi_N % 12, duration_N, 12)
    match = {(tonic, mode): float(np.corrcoef(classes, np.roll(tones, tonic))[0, 1])
             for mode, tones in (("major", MAJOR), ("minor", MINOR)) for tonic in range(12)}  # fmt: skip
    best = max(match, key=lambda key: match[key])
    if sharps is None:
        return *best, False
    written = [(7 * sharps % 12, "major"), ((7 * sharps + 9) % 12, "minor")]
    found = max(written, key=lambda key: match[key])
    return *found, found[0] == final and match[found] > match[best] - DOUBT
