"""Published numbers are complete enough to give the averages they were printed with; averages refuse gaps."""

from __future__ import annotations

import math

import pytest

from mir_benchmarks.datasets.dataset import TaskError
from mir_benchmarks.published import cells, published_scores
from mir_benchmarks.report.runs import average, mean_of_present, mean_ranks
from mir_benchmarks.tasks.registry import TASKS

MARBLE = "MARBLE 2023"
RECOMPUTED = {"MAP-Music2Vec": 59.94, "MERT-v0-95M": 62.28, "MERT-v0-public": 62.98, "MERT-v1-95M": 63.26,
              "MERT-v1-330M": 64.20, "previous SOTA": 64.54}  # fmt: skip


@pytest.mark.parametrize(("model", "wanted"), RECOMPUTED.items())
def test_the_average_of_the_shipped_cells_is_the_printed_one(model: str, wanted: float) -> None:
    found = average(published_scores()[MARBLE, model])
    assert found == pytest.approx(wanted, abs=0.005 + 1e-9)
    printed = next(c.value for c in cells() if (c.table, c.model, c.task) == (MARBLE, model, "average"))
    assert abs(found - printed) <= 0.05 + 1e-9


def test_the_mert_papers_last_row_is_whole_and_gives_its_average() -> None:
    assert round(average(published_scores()["MERT 2024", "MERT-330M RVQ-VAE"]), 2) == 64.67


def test_an_average_with_a_gap_is_refused_and_names_it() -> None:
    scores = published_scores()[MARBLE, "MULE"]
    with pytest.raises(TaskError, match=r"2 of 14 tasks are missing \(gtzan_beats, musdb18\).*mean_of_present"):
        average(scores)
    value, count = mean_of_present(scores)
    assert count == 12 and value == pytest.approx(math.fsum(scores.values()) / 12)
    for bad in ({"mtt": math.nan}, {"chords": 50.0}, {}):
        with pytest.raises(TaskError):
            mean_of_present(bad)
        with pytest.raises(TaskError):
            average(bad)
    whole = published_scores()[MARBLE, "MERT-v1-95M"]
    with pytest.raises(TaskError, match="no task chords"):
        average(whole | {"chords": 50.0})


def test_ranks_are_of_the_shared_tasks() -> None:
    scores = {model: published_scores()[MARBLE, model] for model in ("MERT-v1-330M", "MERT-v1-95M", "MULE")}
    ranks, shared = mean_ranks(scores)
    assert len(shared) == 12 and sum(ranks.values()) == pytest.approx(6.0)
    best = {"a": dict.fromkeys(TASKS, 2.0), "b": dict.fromkeys(TASKS, 1.0), "c": dict.fromkeys(TASKS, 1.0)}
    assert mean_ranks(best)[0] == {"a": 1.0, "b": 2.5, "c": 2.5}
    with pytest.raises(TaskError, match="no task in common"):
        mean_ranks({"a": {"mtt": 1.0}, "b": {"musdb18": 1.0}})


def test_cells_typed_from_the_tables_by_hand() -> None:
    found = {(c.table, c.model, c.task, c.metric): c for c in cells()}
    assert len(found) == len(cells())
    for table, model, task, metric, value in (
        (MARBLE, "MERT-v1-330M", "emomusic", "r2_valence", 59.0),
        (MARBLE, "MERT-v1-330M", "emomusic", "r2_arousal", 75.8),
        (MARBLE, "Jukebox-5B", "giantsteps_key", "weighted_score", 63.8),
        (MARBLE, "MERT-v0-95M", "musdb18", "sdr_bass", 4.0),
        ("MERT 2024", "MERT-330M RVQ-VAE", "gtzan_genre", "accuracy", 79.3),
        ("MuQ 2025", "MuQ (160 kh)", "vocalset_singer", "accuracy", 95.8),
        ("MERT2 2026", "MERT2-30s 632M", "mtg_top50", "ap", 32.17),
    ):
        assert found[table, model, task, metric].value == value
    assert {c.status for c in cells()} == {"found", "quoted", "doubtful"} and all(c.source for c in cells())
    assert ("MERT 2024", "MERT-95M RVQ-VAE", "emomusic", "r2_valence") not in found  # from memory only
    assert ("MERT 2024", "HuBERT-base music", "gtzan_genre", "accuracy") not in found


def test_of_the_mert_paper_only_cells_that_a_second_source_confirms_are_shipped() -> None:
    assert sum(cell.table == "MERT 2024" for cell in cells()) == 172
