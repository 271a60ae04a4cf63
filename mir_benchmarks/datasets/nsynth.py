"""NSynth: the instrument family, or the pitch, of single notes, with the official split."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mir_benchmarks.datasets.dataset import SPLITS, Dataset, Item, TaskError
from mir_benchmarks.datasets.reading import audio_at, class_notes, leak_notes, read_json

FAMILIES = ("bass", "brass", "flute", "guitar", "keyboard", "mallet", "organ", "reed", "string", "synth_lead", "vocal")
PITCHES = tuple(map(str, range(128)))
GET = "get nsynth-{train,valid,test}.jsonwav.tar.gz (magenta.tensorflow.org) and unpack them there"


def _read(home: Path, protocol: dict[str, str], field: str, classes: Sequence[str]) -> Dataset:
    """Notes labelled with a field of theirs; no instrument of valid or test is in train."""
    items = tuple(item for split in SPLITS for item in _notes(home / f"nsynth-{split}", split, field, classes))
    notes = leak_notes(items, artists="instruments") + class_notes(items, classes)
    return Dataset(items, tuple(classes), tuple(notes))


read_instrument = partial(_read, field="instrument_family_str", classes=FAMILIES)
read_pitch = partial(_read, field="pitch", classes=PITCHES)  # the MIDI number


def _notes(folder: Path, split: str, field: str, classes: Sequence[str]) -> Iterator[Item]:
    path = folder / "examples.json"
    if not path.exists():
        raise TaskError(path, "there is no such file", GET)
    wanted = {field, "instrument_str"}

    def needed(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """The required fields of a note: the whole file would take gigabytes of memory."""
        values = dict(pairs)
        return {key: values[key] for key in wanted} if wanted <= values.keys() else values

    for note, facts in read_json(path, needed).items():
        if not isinstance(facts, dict) or not wanted <= facts.keys():
            raise TaskError(f"{path}, note {note}", f"there is no {field} or no instrument_str", GET)
        label = str(facts[field])
        if label not in classes:
            raise TaskError(f"{path}, note {note}", f"{field} is {label!r}", GET)
        yield Item(note, audio_at(folder / "audio" / f"{note}.wav"), split, label, str(facts["instrument_str"]))
