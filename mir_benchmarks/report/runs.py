"""The results of one model on several tasks, loaded from the folder that `mert bench run` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mir_benchmarks.datasets.dataset import TaskError
from mir_benchmarks.tasks.registry import TASKS
from probes.results import LayerCurve, Outputs, Result, load_outputs


@dataclass(frozen=True)
class Run:
    """The results of one model by task, in the order of the registry, and their outputs where there are any."""

    label: str
    results: dict[str, Result]
    outputs: dict[str, Outputs]

    @property
    def scores(self) -> dict[str, float]:
        return {name: float(result.score["mean"]) for name, result in self.results.items()}

    @property
    def synthetic(self) -> bool:
        """Whether any of the data are synthetic."""
        return any(result.task["data"] == "synthetic" for result in self.results.values())

    @property
    def layered(self) -> dict[str, LayerCurve]:
        """Validation by layer, of the tasks that were run on several layers."""
        curves = {name: LayerCurve.of(result.grid) for name, result in self.results.items()}
        return {name: curve for name, curve in curves.items() if len(curve.layers) > 1}

    @property
    def limited(self) -> bool:
        """Whether any number is not comparable with a full run."""
        return any(result.limit for result in self.results.values())


def load_runs(folders: Sequence[Path]) -> list[Run]:
    """All results in `folders`; TaskError for a folder without any. Equal names are told apart by folder."""
    if not folders:
        raise TaskError("report", "no folder was given", "name the folders that mert bench run wrote")
    runs = [_load(Path(folder)) for folder in folders]
    names = [run.label for run in runs]
    return [
        run if names.count(run.label) == 1 else Run(f"{run.label} ({folder})", run.results, run.outputs)
        for run, folder in zip(runs, folders, strict=True)
    ]


def _load(folder: Path) -> Run:
    paths = {name: folder / f"{name}.json" for name in TASKS}
    results = {name: Result.load(path) for name, path in paths.items() if path.exists()}
    if not results:
        raise TaskError(folder, "holds no result", "name a folder that mert bench run wrote")
    names = {str(result.model["name"]) for result in results.values()}
    if len(names) > 1:
        raise TaskError(folder, f"holds results of {' and '.join(sorted(names))}", "keep a folder for each model")
    outputs = {name: load_outputs(paths[name]) for name in results if paths[name].with_suffix(".npz").exists()}
    return Run(names.pop(), results, outputs)
