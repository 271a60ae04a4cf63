"""Split lists and facts of datasets that come with the package; NOTICE.md names the source of each."""

import csv
import json
import re
from functools import cache
from importlib.resources import files
from typing import Any


def _text(name: str) -> str:
    return (files(__name__) / name).read_text(encoding="utf-8")


def gtzan_splits() -> dict[str, str]:
    """Split of each of the 930 fault-filtered excerpts of GTZAN, in the lists' order.

    >>> gtzan_splits()["blues.00029"], len(gtzan_splits())
    ('train', 930)
    """
    names = ((split, line) for split in ("train", "valid", "test") for line in _text(f"gtzan_{split}.txt").split())
    return {line.rpartition("/")[2].removesuffix(".wav"): split for split, line in names}


def mtt_tags() -> tuple[str, ...]:
    """The top 50 tags of MagnaTagATune, by frequency, as annotations_final.csv spells them.

    >>> mtt_tags()[:2], mtt_tags()[21]
    (('guitar', 'classical'), 'no vocals')
    """
    return tuple(re.sub("([A-Z])", r" \1", tag).lower() for tag in _text("mtt_top50_tags.txt").split())


def musdb_validation() -> frozenset[str]:
    """The 14 training tracks of MUSDB18 that validate.

    >>> "Triviul - Angelsaint" in musdb_validation()
    True
    """
    return frozenset(_text("musdb18_valid.txt").splitlines())


@cache
def vocalset() -> dict[str, Any]:
    """Techniques, singers, corrected names and deletions of VocalSet 1.1.

    >>> vocalset()["renames"]["straight/row_straight.wav"], len(vocalset()["deletions"])
    ('m8_row_straight.wav', 5)
    """
    facts: dict[str, Any] = json.loads(_text("vocalset.json"))
    return facts


@cache
def vocalset_technique_splits() -> dict[str, str]:
    """Split of each singer in the technique task.

    >>> [vocalset_technique_splits()[singer] for singer in ("f1", "f2", "f3")]
    ['train', 'test', 'valid']
    """
    rows = list(csv.reader(_text("vocalset_technique.csv").splitlines()))[1:]
    return {singer: split for singer, split in rows}


@cache
def vocalset_singer_splits() -> tuple[str, ...]:
    """Split for each remainder of the singer task: 12 train, 8 valid, 5 test.

    >>> [vocalset_singer_splits()[i] for i in (11, 12, 20)]
    ['train', 'valid', 'test']
    """
    return tuple(split for _, split in list(csv.reader(_text("vocalset_singer.csv").splitlines()))[1:])
