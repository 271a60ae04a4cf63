"""The results of one model on several tasks, from the folder that `mert bench run` wrote, and averages over tasks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from mert.errors import OutputError
from mir_benchmarks.conditions import differences, signs
from mir_benchmarks.datasets.dataset import TaskError
from mir_benchmarks.statistics import Sample, compare, group_notes
from mir_benchmarks.tasks.registry import TASKS
from probes.results import LayerCurve, Outputs, Result, load_outputs


@dataclass(frozen=True)
class Run:
    """The results of one model by task, in the order of the registry, and their outputs where there are any."""

    label: str
    results: dict[str, Result]
    outputs: dict[str, Outputs]
    _samples: dict[str, Sample] = field(default_factory=dict, repr=False, compare=False)

    def sample(self, name: str) -> Sample:
        """The score of a task, ready to be compared; computed once."""
        if name not in self._samples:
            self._samples[name] = Sample.of(self.results[name], self.outputs[name])
        return self._samples[name]

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
    def signs(self) -> str:
        """The signs of all results, for numbers that sum them up."""
        return signs(*self.results.values())


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
        below = sorted({str(path.parent) for name in TASKS for path in folder.glob(f"*/{name}.json")})
        remedy = f"name its folders: {' '.join(below)}" if below else "name a folder that mert bench run wrote"
        raise TaskError(folder, "holds no result", remedy)
    for name, result in results.items():
        if result.task["name"] != name or set(result.metrics) != set(TASKS[name].metrics):
            raise OutputError(paths[name], f"is not a result of {name}", "keep the names of the files")
    names = {str(result.model["name"]) for result in results.values()}
    if len(names) > 1:
        raise TaskError(folder, f"holds results of {' and '.join(sorted(names))}", "keep a folder for each model")
    outputs = {name: load_outputs(paths[name]) for name in results if paths[name].with_suffix(".npz").exists()}
    for name in outputs:
        if outputs[name].groups is None:
            results[name].notes += group_notes(outputs[name])
    return Run(names.pop(), results, outputs)


def unlike(runs: Sequence[Run], name: str) -> list[str]:
    """The facts in which any two results of a task differ, so that they may not be ranked or averaged together."""
    present = [run.results[name] for run in runs if name in run.results]
    return list(dict.fromkeys(fact for pair in combinations(present, 2) for fact in differences(*pair)))


def clear_best(runs: Sequence[Run], name: str) -> int | None:
    """The number of the best run on a task, if its paired interval over the next best excludes 0; else None."""
    having = sorted((i for i, run in enumerate(runs) if name in run.results), key=lambda i: -runs[i].scores[name])
    if len(having) < 2 or unlike(runs, name) or any(name not in runs[i].outputs for i in having[:2]):
        return None
    try:
        first, second = (runs[i].sample(name) for i in having[:2])
        interval = compare(first, second).ci95
        return having[0] if interval and interval[0] > 0 else None
    except TaskError:  # of other test items
        return None


def averages(runs: Sequence[Run]) -> dict[str, float]:
    """By label, the average of each run that has all tasks; none if these are not all comparable."""
    whole = [run for run in runs if set(run.results) == set(TASKS)]
    return {run.label: average(run.scores) for run in whole if not any(unlike(whole, name) for name in TASKS)}


def shared_scores(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """By label, the scores on the tasks that all runs have and on which all are comparable."""
    fair = [name for name in TASKS if all(name in run.results for run in runs) and not unlike(runs, name)]
    return {run.label: {name: run.scores[name] for name in fair} for run in runs}


def average(scores: Mapping[str, float]) -> float:
    """Mean of the 14 task scores (SDR in dB as if it were points); TaskError while a task is missing.

    >>> average(dict.fromkeys(TASKS, 50.0))
    50.0
    """
    _known(scores)
    if missing := [name for name in TASKS if name not in scores]:
        reason = f"{len(missing)} of {len(TASKS)} tasks are missing ({', '.join(missing)})"
        raise TaskError("average", reason, "run them, or ask for mean_of_present, which is another number")
    return mean_of_present(scores)[0]


def mean_of_present(scores: Mapping[str, float]) -> tuple[float, int]:
    """Mean of the task scores present, and their number; comparable only between models with the same tasks.

    >>> mean_of_present({"gtzan_genre": 70.0, "mtt": 65.0})
    (67.5, 2)
    """
    _known(scores)
    if not scores:
        raise TaskError("mean", "there is no task score", "run a task")
    return math.fsum(scores.values()) / len(scores), len(scores)


def mean_ranks(scores: Mapping[str, Mapping[str, float]]) -> tuple[dict[str, float], tuple[str, ...]]:
    """Mean rank of each model over the tasks that all of them have, and these tasks; 1 is best, ties share a rank.

    >>> mean_ranks({"a": {"mtt": 60.0, "musdb18": 5.0}, "b": {"mtt": 60.0, "musdb18": 4.0, "gtzan_genre": 70.0}})
    ({'a': 1.25, 'b': 1.75}, ('mtt', 'musdb18'))
    """
    for of_model in scores.values():
        _known(of_model)
    shared = tuple(name for name in TASKS if scores and all(name in of_model for of_model in scores.values()))
    if not shared:
        raise TaskError("ranks", "the models have no task in common", "run the same tasks for all")
    ranks = {model: math.fsum(_rank(scores, model, name) for name in shared) / len(shared) for model in scores}
    return ranks, shared


def _rank(scores: Mapping[str, Mapping[str, float]], model: str, task: str) -> float:
    own, others = scores[model][task], [of_model[task] for of_model in scores.values()]
    return sum(other > own for other in others) + (1 + sum(other == own for other in others)) / 2


def _known(scores: Mapping[str, float]) -> None:
    if unknown := sorted(set(scores) - set(TASKS)):
        raise TaskError("scores", f"there is no task {unknown[0]}", f"the tasks are {', '.join(TASKS)}")
    if bad := [name for name, value in scores.items() if not math.isfinite(value)]:
        raise TaskError(bad[0], "its score is not finite", "run the task again")
