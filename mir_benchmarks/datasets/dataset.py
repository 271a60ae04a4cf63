"""A dataset as readers return it: labelled recordings with their official split, and notes for the results."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mert.errors import MertError

SPLITS = ("train", "valid", "test")
VERY_SHORT_S = 0.1  # a recording below is most likely the rest of one

# One class | tags | targets of a regression, or beat times in seconds | nothing (the stems are the label).
Label = str | tuple[str, ...] | tuple[float, ...] | None


class TaskError(MertError):
    """A dataset is missing, incomplete or not what its task expects."""


@dataclass(frozen=True)
class Item:
    """One recording of a task: `id` is stable and unique within the corpus, no `artist` should be in two splits."""

    id: str
    audio: Path
    split: str
    label: Label
    artist: str = ""


@dataclass(frozen=True)
class Dataset:
    """All items of a task. `classes`: the labels, tags or target names, in the order of the head's outputs.

    `facts` are further numbers of a task (such as mean and deviation of targets); `notes` go into every result.

    >>> items = (Item("a", Path("a.wav"), "train", "C major", "X"), Item("b", Path("b.wav"), "test", "A minor", "X"))
    >>> Dataset(items, ("A minor", "C major")).counts
    {'train': 1, 'valid': 0, 'test': 1}
    """

    items: tuple[Item, ...]
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        counts = Counter(item.split for item in self.items)
        return {split: counts[split] for split in SPLITS}

    def split(self, name: str) -> list[Item]:
        """The items of one split, in the reader's order."""
        return [item for item in self.items if item.split == name]

    def checked(self, source: Path) -> Dataset:
        """This dataset; TaskError if two of its items have the same id."""
        if twice := [name for name, n in Counter(item.id for item in self.items).items() if n > 1]:
            raise TaskError(source, f"{len(twice)} items occur twice, {twice[0]!r} first", "copy or download it again")
        return self


def sha1_mod(text: str, modulus: int) -> int:
    """The SHA-1 of a text as a number, modulo another: how corpora without published lists are split.

    >>> sha1_mod("", 10)
    5
    """
    return int(hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), 16) % modulus


def synthetic_facts(home: Path) -> dict[str, Any] | None:
    """The facts in SYNTHETIC.json of a generated corpus: generator version, seed, size, counts; None for real data."""
    note = home / "SYNTHETIC.json"
    if not note.exists():
        return None
    try:
        facts = json.loads(note.read_text(encoding="utf-8"))
        return {"generator": facts["generator"], "seed": facts["seed"], "counts": dict(facts["counts"])} | facts
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TaskError(note, f"cannot be read ({error!r})", "generate the tree again") from None
