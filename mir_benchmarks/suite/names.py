"""Invented names, and the published rules by which the names of artists decide the split."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable, Iterator

import numpy as np

FIRST = ("Ada", "Bela", "Cleo", "Dario", "Edda", "Falk", "Gwen", "Hiro", "Ines", "Jorn", "Kaja", "Levi", "Mila", "Noor",
         "Oda", "Pavel", "Quin", "Runa", "Sami", "Tove", "Ugo", "Vera", "Wim", "Xenia", "Yara", "Zeno")  # fmt: skip
SYLLABLES = (
    "ba",
    "dor",
    "fen",
    "gal",
    "hol",
    "jin",
    "kar",
    "lun",
    "mer",
    "nov",
    "pel",
    "ros",
    "sil",
    "tam",
    "vin",
    "zel",
)
TITLES = ("Amber", "Brook", "Cinder", "Drift", "Ember", "Fathom", "Glass", "Harbour", "Island", "Juniper", "Kite",
          "Lantern", "Meadow", "North", "Orchard", "Paper", "Quarry", "River", "Signal", "Tide")  # fmt: skip


def sha1_mod(text: str, modulus: int) -> int:
    """The SHA-1 of a text as a number, modulo another.

    >>> sha1_mod("", 10)
    5
    """
    return int(hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), 16) % modulus


def giantsteps_split(artist: str) -> str:
    """GiantSteps-MTG-Key: 100 of 116 parts train."""
    return "train" if sha1_mod(artist.lower(), 116) < 100 else "valid"


def emomusic_split(artist: str) -> str:
    """emoMusic's development songs: 8 of 10 parts train; names count by their ASCII letters and spaces."""
    key = "".join(letter for letter in artist.lower() if letter in string.ascii_lowercase + " ")
    return "train" if sha1_mod(key, 10) < 8 else "valid"


def artists(rng: np.random.Generator) -> Iterator[str]:
    """Names without end, none twice."""
    seen = set()
    while True:
        syllables = rng.choice(SYLLABLES, size=int(rng.integers(2, 4)))
        name = f"{rng.choice(FIRST)} {''.join(syllables).title()}"
        if name not in seen:
            seen.add(name)
            yield name


def artist_for(names: Iterator[str], split: str, rule: Callable[[str], str]) -> str:
    """The next name that the rule puts into this split."""
    return next(name for name in names if rule(name) == split)


def title(rng: np.random.Generator) -> str:
    """Two words.

    >>> len(title(np.random.default_rng(0)).split())
    2
    """
    return " ".join(map(str, rng.choice(TITLES, size=2, replace=False)))


def slug(name: str) -> str:
    """As in file names.

    >>> slug("Ada Ros-Sil")
    'ada_ros_sil'
    """
    return "".join(letter if letter in string.ascii_lowercase else "_" for letter in name.lower())
