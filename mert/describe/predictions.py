"""The prediction of a head for a recording, and files of predictions, CSV or JSON."""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mert.files import write_whole

TASKS = ("classification", "multilabel", "regression", "frames")
# Beside the file's, in a CSV file; else those of the values.
COLUMNS = {"classification": ("label", "probability"), "multilabel": ("tags", "probabilities"), "frames": ("time",)}


@dataclass(frozen=True)
class Prediction:
    """The prediction for one recording: `labels` are the class, or the tags that are probable enough; `scores` the
    probability of each class or tag, or the values; `times` the events in seconds. It is not `sure` of a class or of
    events whose probability is below the least that validation asked for. `warnings` are those of the recording, which
    is `damaged` if sound is missing.

    >>> Prediction("a.wav", "classification", ("oboe",), {"flute": 0.2, "oboe": 0.8}).rows()
    [('a.wav', 'oboe', '0.8000')]
    >>> Prediction("a.wav", "frames", times=(0.5, 1.0)).rows(), Prediction("b.wav", "frames", times=()).rows()
    ([('a.wav', '0.500'), ('a.wav', '1.000')], [('b.wav', '')])
    """

    source: str
    task: str
    labels: tuple[str, ...] = ()
    scores: dict[str, float] | None = None
    times: tuple[float, ...] | None = None
    sure: bool = True
    warnings: tuple[str, ...] = ()
    damaged: bool = False

    def rows(self) -> list[tuple[str, ...]]:
        """Rows of a CSV file: one, or one per event; a recording without events has a row without a time."""
        if self.times is not None:
            return [(self.source, f"{time:.3f}") for time in self.times] or [(self.source, "")]
        scores = self.scores or {}
        if self.task == "regression":
            return [(self.source, *(f"{value:.6g}" for value in scores.values()))]
        return [(self.source, ";".join(self.labels), ";".join(f"{scores[name]:.4f}" for name in self.labels))]

    def as_dict(self) -> dict[str, object]:
        """Plain containers, for JSON: all scores, not only those of the labels."""
        if self.times is not None:
            return {"file": self.source, "times": list(self.times), "sure": self.sure, "warnings": list(self.warnings)}
        tags = {"tags": list(self.labels)} if self.task == "multilabel" else {}
        named = {"label": self.labels[0], "sure": self.sure} if self.task == "classification" else tags
        return {"file": self.source, **named, "scores": self.scores, "warnings": list(self.warnings)}


def write(path: Path, task: str, classes: Sequence[str], predictions: Iterable[Prediction]) -> None:
    """Write predictions as CSV or JSON, by the suffix, whole or not at all."""
    with write_whole(path) as temporary:
        if path.suffix == ".json":
            text = json.dumps([prediction.as_dict() for prediction in predictions], indent=2, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8", errors="surrogateescape")
            return
        with open(temporary, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(("file", *COLUMNS.get(task, classes)))
            table.writerows(row for prediction in predictions for row in prediction.rows())
