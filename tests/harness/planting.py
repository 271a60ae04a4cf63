"""Small dataset trees typed by hand, and what tests ask of readers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from mir_benchmarks.datasets.dataset import SPLITS, Dataset, TaskError


def plant(home: Path, texts: Mapping[str, str]) -> Path:
    """plant(home, {"a/b.csv": text}) writes files as they are, with the line ends given, and returns `home`."""
    for name, text in texts.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_bytes(text.encode())
    return home


def by_split(dataset: Dataset) -> dict[str, list[tuple[str, object]]]:
    """(id, label) of the items of each split."""
    return {split: [(item.id, item.label) for item in dataset.split(split)] for split in SPLITS}


def refused(read: Callable[[Path, dict[str, str]], Dataset], home: Path, *words: str, **protocol: str) -> None:
    """The reader refuses the tree with an error that holds all words, a reason and a remedy."""
    with pytest.raises(TaskError) as caught:
        read(home, protocol)
    assert all(word in str(caught.value) for word in words), caught.value
    assert caught.value.remedy and caught.value.reason
