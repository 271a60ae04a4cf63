"""Tables of labels from the scores of rendered music, as `mert probe fit` reads them."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mert.files import write_whole
from mir_benchmarks.synth.programs import FAMILIES

# Names of what plays: of the programs of General MIDI, by family, and of the instruments and voices of our own.
OF_PROGRAMS = {
    "piano": "piano", "mallet": "mallets", "organ": "organ", "guitar": "guitar", "bass": "bass", "strings": "strings",
    "ensemble": "strings", "brass": "brass", "reed": "reeds", "pipe": "flute", "lead": "synthesizer",
    "pad": "synthesizer", "plucked": "plucked strings",
}  # fmt: skip
CHOIR = range(52, 55)  # programs of the family "ensemble" that sing
OF_OWN = {
    "bass": "bass", "brass": "brass", "flute": "flute", "guitar": "guitar", "keyboard": "piano", "mallet": "mallets",
    "organ": "organ", "reed": "reeds", "string": "strings", "synth_lead": "synthesizer", "vocal": "choir",
    "voice": "voice",
}  # fmt: skip
SINGING = frozenset({"voice", "choir"})
LEAST_SHARE = 0.1  # of the clip for which something sounds, to count


def instruments(row: Mapping[str, Any]) -> frozenset[str]:
    """The instruments of a clip, a row of scores.jsonl, that sound in a tenth of it or more; drums by a stroke.

    >>> part, note = {"family": "voice"}, {"part": 0, "duration_s": 2.0}
    >>> sorted(instruments({"seconds": 9.0, "band": None, "parts": [part], "notes": [note], "hits": [{}]}))
    ['drums', 'voice']
    """
    sounding = [0.0] * len(row["parts"])
    for note in row["notes"]:
        sounding[note["part"]] += note["duration_s"]
    players = row["band"]["instruments"] if row["band"] else [None] * len(row["parts"])
    found = {
        OF_OWN[part["family"]] if player is None else of_program(player["program"])
        for part, player, seconds in zip(row["parts"], players, sounding, strict=True)
        if seconds >= LEAST_SHARE * row["seconds"]
    }
    return frozenset(found | ({"drums"} if row["hits"] else set()))


def of_program(program: int) -> str:
    """The name of what a program of General MIDI plays.

    >>> of_program(0), of_program(52), of_program(48)
    ('piano', 'choir', 'strings')
    """
    family = next(name for name, programs in FAMILIES.items() if program in programs)
    return "choir" if program in CHOIR else OF_PROGRAMS[family]


def write_labels(rows: Iterable[Mapping[str, Any]], folder: Path) -> dict[str, int]:
    """Write key.csv, instruments.csv, voice.csv, beats.csv and downbeats.csv; returns the clips in each.

    Clips of single notes, which have no beats, are in none but that of instruments. Pieces and their transpositions
    form a `group`, which no split tears apart.
    """
    tables: dict[str, list[Sequence[str]]] = {
        "key": [("file", "label", "group")], "instruments": [("file", "tags", "group")],
        "voice": [("file", "label", "group")], "beats": [("file", "time", "group")],
        "downbeats": [("file", "time", "group")],
    }  # fmt: skip
    counts = dict.fromkeys(tables, 0)
    for row in rows:
        file, group, playing = row["path"], row["piece"] or row["path"], instruments(row)
        tables["instruments"].append((file, ";".join(sorted(playing)), group))
        counts["instruments"] += 1
        if not row["beats"]:
            continue
        tables["key"].append((file, row["key"], group))
        tables["voice"].append((file, "voice" if playing & SINGING else "instrumental", group))
        for name, times in events(row).items():
            tables[name] += [(file, time, group) for time in times or [""]]
        for name in ("key", "voice", "beats", "downbeats"):
            counts[name] += 1
    for name, lines in tables.items():
        with (
            write_whole(folder / f"{name}.csv") as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            csv.writer(file, lineterminator="\n").writerows(lines)
    return counts


def events(row: Mapping[str, Any]) -> dict[str, list[str]]:
    """Beats and downbeats of a clip in seconds."""
    beats = [(time, position) for time, position in row["beats"] if 0 <= time < row["seconds"]]
    return {
        "beats": [f"{time:.4f}" for time, _ in beats],
        "downbeats": [f"{time:.4f}" for time, position in beats if position == 1],
    }
