"""Invented names of artists and songs."""

import string
from collections.abc import Callable, Iterator

import numpy as np

FIRST = ("Ada", "Bela", "Cleo", "Dario", "Edda", "Falk", "Gwen", "Hiro", "Ines", "Jorn", "Kaja", "Levi", "Mila", "Noor",
         "Oda", "Pavel", "Quin", "Runa", "Sami", "Tove", "Ugo", "Vera", "Wim", "Xenia", "Yara", "Zeno")  # fmt: skip
SYLLABLES = ("ba", "dor", "fen", "gal", "hol", "jin", "kar", "lun", "mer", "nov", "pel", "ros", "sil", "tam", "vin",
             "zel")  # fmt: skip
TITLES = ("Amber", "Brook", "Cinder", "Drift", "Ember", "Fathom", "Glass", "Harbour", "Island", "Juniper", "Kite",
          "Lantern", "Meadow", "North", "Orchard", "Paper", "Quarry", "River", "Signal", "Tide")  # fmt: skip


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
