"""Published results of the 14 tasks, read from CSV files with one row per number and its source."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from statistics import fmean

from mir_benchmarks.datasets.dataset import TaskError
from mir_benchmarks.tasks.registry import TASKS
from probes.metrics import score_parts

STATUSES = ("found", "quoted", "doubtful")


@dataclass(frozen=True)
class Cell:
    """One published number. `task` is a name of the registry, or "average" with the metric "score".

    `status`: found (read in the table itself), quoted (read where another source repeats it), doubtful (quoted, and
    at odds with other sources).
    """

    table: str
    model: str
    task: str
    metric: str
    value: float
    source: str
    status: str


@cache
def cells() -> tuple[Cell, ...]:
    """All published numbers, by table in order of publication; TaskError for a row of unknown task or metric.

    >>> next(cell.value for cell in cells() if cell.model == "MERT-v1-95M" and cell.task == "gtzan_genre")
    74.8
    """
    published: list[Cell] = []
    known = {(name, metric) for name, task in TASKS.items() for metric in task.metrics} | {("average", "score")}
    for name in ("marble_2023", "mert_2024", "muq_2025", "mert2_2026"):
        text = files(__package__).joinpath(f"{name}.csv").read_text(encoding="utf-8")
        for row in csv.DictReader(text.splitlines()):
            if (row["task"], row["metric"]) not in known or row["status"] not in STATUSES:
                raise TaskError(f"{name}.csv", f"an unknown task, metric or status: {row}", "fix the row")
            published.append(Cell(**(row | {"value": float(row["value"])})))  # type: ignore[arg-type]
    return tuple(published)


def published_scores() -> dict[tuple[str, str], dict[str, float]]:
    """Task scores by (table, model), of the tasks for which all metrics of the score are published.

    >>> round(published_scores()["MARBLE 2023", "MERT-v1-95M"]["mtt"], 2)
    65.15
    """
    values: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for cell in cells():
        values.setdefault((cell.table, cell.model), {})[cell.task, cell.metric] = cell.value
    parts = {name: [(name, part) for part in score_parts(task.metrics)] for name, task in TASKS.items()}
    return {
        system: {name: fmean(known[key] for key in keys) for name, keys in parts.items() if set(keys) <= known.keys()}
        for system, known in values.items()
    }
