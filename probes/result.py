"""The result of a probe: one JSON file that says what was measured and how, and the outputs beside it as arrays."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from mert.errors import OutputError
from mert.files import read_json, write_json
from mert.npz import read_npz, write_npz

SCHEMA = 1
LIBRARIES = ("mert-hub", "torch", "numpy", "scikit-learn", "mir_eval", "soxr", "soundfile")


@dataclass
class Outputs:
    """What a fitted head gave for each test item, so that intervals and comparisons can be computed afterwards.

    `ids` [n]; `targets` [n] class numbers, [n, C] tags or values, or empty; `outputs` [seeds, n, C] (logits, values,
    or, for beats and separation, a metric's value of each item: `columns` then names them).
    """

    ids: np.ndarray
    targets: np.ndarray
    outputs: np.ndarray
    columns: tuple[str, ...]


@dataclass
class Result:
    """One model on one task. `metrics` maps a name to {"mean", "ci95", "seeds", "n"}, in points of 0 to 100 (SDR: dB).

    `score` is the task score, in the same form. `seeds` holds the validation and test metrics of each seed at the
    selected configuration, `grid` a row per fit: layer, lr, seed, valid, epoch. `limit` is not None where the number is
    not comparable with a full run, and says why.
    """

    model: dict[str, Any]
    task: dict[str, Any]
    protocol: dict[str, str]
    head: dict[str, Any]
    layer: str
    lr: float
    seeds: list[dict[str, Any]]
    metrics: dict[str, dict[str, Any]]
    score: dict[str, Any]
    grid: list[dict[str, Any]]
    notes: list[str] = field(default_factory=list)
    limit: str | None = None
    seconds: float = 0.0
    device: str = "cpu"
    versions: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    def save(self, folder: Path, outputs: Outputs) -> Path:
        """Write `folder`/<task>.json, and <task>.npz with the outputs before it."""
        name = self.task["name"]
        arrays = {"ids": outputs.ids, "targets": outputs.targets, "outputs": outputs.outputs}
        write_npz(folder / f"{name}.npz", arrays | {"columns": np.array(outputs.columns)})
        write_json(folder / f"{name}.json", dataclasses.asdict(self))
        return folder / f"{name}.json"

    @classmethod
    def load(cls, path: Path) -> Result:
        """The inverse of `save`, for the JSON; OutputError for files of another schema."""
        values = read_json(path)
        try:
            result = cls(**values)
        except TypeError as error:
            raise OutputError(path, f"is not a result ({error})", "run the task again") from None
        if result.schema != SCHEMA:
            raise OutputError(path, f"has schema {result.schema}, not {SCHEMA}", "run the task again")
        return result


def load_outputs(path: Path) -> Outputs:
    """The arrays beside a result: `path` is that of its JSON."""
    arrays = read_npz(path.with_suffix(".npz"), required=("ids", "targets", "outputs", "columns"))
    columns = tuple(str(name) for name in arrays["columns"])
    return Outputs(arrays["ids"], arrays["targets"], arrays["outputs"], columns)


def library_versions(names: Sequence[str] = LIBRARIES) -> dict[str, str]:
    """Versions of what made the numbers, and of Python.

    >>> "torch" in library_versions()
    True
    """
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
