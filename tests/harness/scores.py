"""Invented scores in the place of those that music21 has, and what tests of sampled music need to be installed."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from mir_benchmarks.synth.banks import BANKS, how_to_install, is_installed
from mir_benchmarks.synth.pieces import GROUPS, beginnings_of, cache_folder, pieces, pieces_of

TUNES, POLYPHONY = "nottingham-dataset", "handel"
HAS_MUSIC21 = importlib.util.find_spec("music21") is not None
with_banks = pytest.mark.skipif(not is_installed(*BANKS), reason=f"no sound fonts: {how_to_install()}")
with_scores = pytest.mark.skipif(not HAS_MUSIC21, reason="music21 is not installed: the extra sounds")
with_sounds = pytest.mark.skipif(
    not (is_installed(*BANKS) and HAS_MUSIC21), reason=f"no sound fonts or no music21: {how_to_install()}"
)


@contextmanager
def invented_scores(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user's cache in `home` with tunes and trios of all splits; the other groups are empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    folder = cache_folder()
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    parts = {TUNES: 1, "ryansMammoth": 1, POLYPHONY: 3}
    for group in GROUPS:
        rows = [made_row(group, number, parts[group], rng) for number in range(60)] if group in parts else []
        (folder / f"{group}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    forget()
    yield
    forget()


def forget() -> None:
    """Pieces are read anew."""
    for cache in (pieces, pieces_of, beginnings_of):
        cache.cache_clear()


def made_row(group: str, number: int, n_parts: int, rng: np.random.Generator) -> dict[str, object]:
    """Sixteen bars of quavers in C major or A minor, every other one on its chord, an octave between the parts."""
    scale, tonic, mode = ((60, 62, 64, 65, 67, 69, 71, 72), 0, "major") if number % 2 else (
        (57, 59, 60, 62, 64, 65, 67, 69), 9, "minor")  # fmt: skip
    notes = sorted((i / 2, part, int(scale[2 * (i % 4 // 2)] if i % 16 >= 8 else rng.choice(scale)) - 12 * part)
                   for part in range(n_parts) for i in range(128))  # fmt: skip
    onset, part_of, midi = (list(column) for column in zip(*notes, strict=True))
    return {"name": f"{group}/{number}", "group": group, "title": f"tune n{number} {group}", "metre": [4, 4],
            "tonic": tonic, "mode": mode, "key_is_sure": True, "beats": [[i, i % 4 + 1] for i in range(64)],
            "part": part_of, "onset": onset, "duration": [0.5] * len(notes), "midi": midi}  # fmt: skip
