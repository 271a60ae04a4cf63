"""Tables of labels from scores: what sounds, keys and beats, as `mert probe fit` reads them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from mir_benchmarks.synth.compose import compose
from mir_benchmarks.synth.labels import instruments, write_labels
from probes.user_labels.table import read_labels


def row(seed: int, **changes: Any) -> dict[str, Any]:
    """A clip of our composer with synthetic instruments, as a row of scores.jsonl."""
    score = dataclasses.replace(compose(seed, 10.0), **changes)
    return {"path": f"audio/{seed}.wav", "piece": "", "band": None, **score.as_dict()}


def test_what_is_written_is_read_as_tables_of_the_right_kinds(tmp_path: Path) -> None:
    rows = [row(seed) for seed in range(6)]
    counts = write_labels([*rows, row(6, beats=(), hits=())], tmp_path)
    assert counts == {"key": 6, "instruments": 7, "voice": 6, "beats": 6, "downbeats": 6}
    tables = {name: read_labels(tmp_path / f"{name}.csv") for name in counts}
    assert {name: table.task for name, table in tables.items()} == {
        "key": "classification", "instruments": "multilabel", "voice": "classification", "beats": "frames",
        "downbeats": "frames",
    }  # fmt: skip
    for i, item in enumerate(tables["beats"].items):
        wanted = [time for time, _ in rows[i]["beats"] if 0 <= time < 10]
        assert list(item.label) == pytest.approx(wanted, abs=5.1e-5)  # written with four decimals
    for i, item in enumerate(tables["downbeats"].items):
        assert set(item.label) <= set(tables["beats"].items[i].label)
    assert [item.label for item in tables["key"].items] == [each["key"] for each in rows]
    assert all(item.group for table in tables.values() for item in table.items)


def test_an_instrument_counts_once_it_sounds_for_a_tenth_of_the_clip() -> None:
    part, players = {"family": "guitar"}, {"instruments": [{"program": 40}]}
    clip: dict[str, Any] = {"seconds": 10.0, "band": players, "parts": [part], "hits": []}
    assert instruments(clip | {"notes": [{"part": 0, "duration_s": 0.9}]}) == frozenset()
    assert instruments(clip | {"notes": [{"part": 0, "duration_s": 1.1}]}) == {"strings"}  # the violin that plays it
    assert instruments(clip | {"band": None, "notes": [{"part": 0, "duration_s": 9.0}]}) == {"guitar"}
