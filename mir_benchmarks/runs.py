"""Folders of results, read for a report: a folder is one model's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mir_benchmarks.items import TaskError
from mir_benchmarks.registry import TASKS
from probes.result import Outputs, Result, load_outputs


@dataclass(frozen=True)
class Run:
    """The results of one model by task, in the order of the registry, and the outputs of those that have them."""

    label: str
    results: dict[str, Result]
    outputs: dict[str, Outputs]

    @property
    def scores(self) -> dict[str, float]:
        """Task scores."""
        return {name: float(result.score["mean"]) for name, result in self.results.items()}

    @property
    def synthetic(self) -> bool:
        """Whether any of the data are synthetic."""
        return any(result.task["data"] == "synthetic" for result in self.results.values())

    @property
    def layered(self) -> dict[str, LayerCurve]:
        """Validation by layer, of the tasks where there was a choice of layers."""
        curves = {name: LayerCurve.of(result) for name, result in self.results.items()}
        return {name: curve for name, curve in curves.items() if len(curve.layers) > 1}

    @property
    def limited(self) -> bool:
        """Whether any number is not comparable with a full run."""
        return any(result.limit for result in self.results.values())


def load_runs(folders: Sequence[Path]) -> list[Run]:
    """All results in `folders`; TaskError for a folder without any. Equal names are told apart by their folders."""
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


def layer_order(layers: Sequence[str]) -> list[str]:
    """Layer names from the input upwards, then what is no single layer ("all").

    >>> layer_order(["all", "layer10", "embed", "layer2"])
    ['embed', 'layer2', 'layer10', 'all']
    """

    def place(name: str) -> tuple[int, int, str]:
        number = re.fullmatch(r"layer(\d+)", name)
        return (0, 0, "") if name == "embed" else (1, int(number[1]), "") if number else (2, 0, name)

    return sorted(set(layers), key=place)


@dataclass(frozen=True)
class LayerCurve:
    """Validation by layer, at the best learning rate of each: mean over seeds, lowest and highest seed."""

    layers: list[str]
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, result: Result) -> LayerCurve:
        """From the grid of a result; fits that did not converge have no value and are left out."""
        found: dict[str, dict[float, list[float]]] = {}
        for row in result.grid:
            if row["valid"] is not None and np.isfinite(row["valid"]):
                found.setdefault(row["layer"], {}).setdefault(row["lr"], []).append(float(row["valid"]))
        layers = layer_order(list(found))
        best = [max(found[layer].values(), key=lambda seeds: float(np.mean(seeds))) for layer in layers]
        columns = [np.array([reduce(seeds) for seeds in best]) for reduce in (np.mean, np.min, np.max)]
        return cls(layers, *columns)
