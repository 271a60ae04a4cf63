"""The result of a probe as one JSON file with its outputs as arrays beside it, and validation curves by layer."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import platform
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from mert.describe.head import WEIGHTED
from mert.embedding.npz import read_npz, write_npz
from mert.errors import MertError, OutputError, UsageError
from mert.files import read_json, write_json
from mert.plots import ACCENT, COLOURS, FAINT, GRID, new_axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCHEMA = 3  # 1 had no `command`; 2 no `date`, no `scaling`, no groups of items and no seal: intervals by a bootstrap
WITH_GROUPS = 3  # the first schema with groups of items
NAMES = {str: "text", float: "number", int: "whole number", float | None: "number", str | None: "text"}
SUMMARY = {"mean": float, "ci95": (float, float), "seeds": [float], "n": int, "groups?": int}
SHAPE: dict[str, Any] = {  # of the JSON: a type, a list or a pair of such (or null), an object; ? may lack
    "model": {"name": str, "layer_names?": [str]}, "protocol": {...: str}, "head": {}, "layer": str, "lr": float,
    "task": {"name": str, "data": str, "classes?": [str], "counts?": {...: int}}, "scaling": str,
    "seeds": [{"seed": int, "epoch?": int, "valid?": {...: float}, "test?": {...: float}}],
    "metrics": {...: SUMMARY}, "score": SUMMARY,
    "grid": [{"layer": str, "lr": float, "seed": int, "valid": float | None, "epoch?": int, "scaling?": str}],
    "notes": [str], "limit": str | None, "seconds": float, "device": str, "command": [str], "versions": {...: str},
    "date": str, "schema": int,
}  # fmt: skip
LIBRARIES = ("mert-hub", "torch", "numpy", "scikit-learn", "mir_eval", "soxr", "soundfile")


@dataclass
class Outputs:
    """The outputs of a fitted head on each test item, from which intervals and comparisons can be computed later.

    `ids` [n]; `targets` [n] class numbers, [n, C] tags or values, or empty; `outputs` [seeds, n, C] (logits, values,
    or, for beats and separation, a metric's value of each item); `columns` names the last axis. `groups` [n]: items of
    the same artist, song, singer or instrument are not independent; None where they are not on record.
    """

    ids: np.ndarray
    targets: np.ndarray
    outputs: np.ndarray
    columns: tuple[str, ...]
    groups: np.ndarray | None = None


@dataclass
class Result:
    """One model on one task. `metrics` maps a name to {"mean", "ci95", "seeds", "n", "groups"}, in points (SDR: dB).

    `score` is the task score, in the same form. `seeds` holds the validation and test metrics of each seed at the
    selected configuration, `grid` one row per fit: layer, lr, seed, scaling, valid, epoch. `limit` is the reason why
    the score is not comparable with a full run, or None. `command` is the command that was run, word by word with
    `portable` paths; it is empty for results of Python calls and of schema 1. `scaling` of the features, "standardized"
    or "raw", is selected on validation, too, or given by the switch `features`. `date` is when it was written, in UTC,
    as in ISO 8601.
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
    command: list[str] = field(default_factory=list)
    scaling: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    date: str = ""
    schema: int = SCHEMA

    def save(self, folder: Path, outputs: Outputs) -> Path:
        """Write `folder`/<task>.npz with the outputs, then <task>.json, whose path is returned.

        The outputs hold a seal, the digest of the JSON, by which later changes of either are found.
        """
        path, values = folder / f"{self.task['name']}.json", dataclasses.asdict(self)
        arrays = {name: array for name, array in vars(outputs).items() if array is not None}
        arrays |= {"columns": np.array(outputs.columns), "seal": np.array(seal(values))}
        write_npz(path.with_suffix(".npz"), arrays)
        write_json(path, values)
        return path

    @classmethod
    def load(cls, path: Path) -> Result:
        """Read the JSON that `save` wrote; OutputError for what is none, and for files of a newer schema."""
        values = read_json(path)
        try:
            result = cls(**values)
        except TypeError as error:
            raise OutputError(path, f"is not a result ({error})", "run the task again") from None
        if wrong := mismatch(values, {f"{name}?": shape for name, shape in SHAPE.items()}):
            raise OutputError(path, f"is not a result ({wrong})", "run the task again")
        if result.schema not in range(1, SCHEMA + 1):
            raise OutputError(path, f"has schema {result.schema}, not 1 to {SCHEMA}", "run the task again")
        result.scaling = result.scaling or str(result.protocol.get("features", ""))
        return result


def load_outputs(path: Path) -> Outputs:
    """The outputs beside a result, whose JSON is `path`."""
    arrays = read_npz(path.with_suffix(".npz"), required=("ids", "targets", "outputs", "columns"))
    columns = tuple(map(str, np.atleast_1d(arrays["columns"])))
    groups = arrays.get("groups")
    outputs = Outputs(arrays["ids"], arrays["targets"], arrays["outputs"], columns, groups)
    n_items = outputs.ids.shape
    fits = outputs.targets.shape[:1] in (n_items, (0,)) and outputs.outputs.shape[1:] == (*n_items, len(columns))
    fits &= groups is None or groups.shape == n_items
    if not (fits and len(outputs.outputs) and outputs.outputs.dtype.kind in "fiu"):
        raise OutputError(path.with_suffix(".npz"), "its arrays do not belong together", "run the task again")
    return outputs


def mismatch(value: Any, shape: Any, where: str = "") -> str:
    """The first place where a value of JSON has not the form of SHAPE, in words; "" where it has.

    >>> mismatch({"grid": [{"layer": "embed"}, 3]}, {"grid": [{"layer": str}]})
    'grid 1 is no object'
    """
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{where} is no object"
        shapes = {name: shape[...] for name in value} if ... in shape else shape
        optional = {name for name in shapes if name.endswith("?") and name not in value}
        shapes = {name.removesuffix("?" * (name in optional)): each for name, each in shapes.items()
                  if name not in optional or name[:-1] in value}  # fmt: skip
        if missing := [name for name in shapes if name not in value]:
            return f"{where} has no {missing[0]}"
        inner = ((value[name], each, f"{where} {name}".strip()) for name, each in shapes.items())
    elif isinstance(shape, tuple) and value is None:
        return ""
    elif isinstance(shape, list | tuple):
        if not isinstance(value, list) or (isinstance(shape, tuple) and len(value) != len(shape)):
            return f"{where} is no {'list' if isinstance(shape, list) else 'pair'}"
        inner = ((each, shape[0], f"{where} {i}") for i, each in enumerate(value))
    else:
        kinds = shape | int if shape in (float, float | None) else shape
        return "" if isinstance(value, kinds) and not isinstance(value, bool) else f"{where} is no {NAMES[shape]}"
    return next((wrong for each in inner if (wrong := mismatch(*each))), "")


def seal(values: Mapping[str, Any]) -> str:
    """SHA-256 of what a JSON file holds, however it is laid out."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def portable(word: str) -> str:
    """An absolute path as its last name, which means something on other machines too; other words as they are.

    >>> portable("/data/music/gtzan"), portable("results/log-mel"), portable("1e-3")
    ('gtzan', 'results/log-mel', '1e-3')
    """
    return PurePath(word).name if PurePath(word).is_absolute() else word


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that determine the numbers."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


NAME_RESULTS = "name the JSON, or the folder, that `mert bench run` wrote"


def layer_order(layers: Iterable[str]) -> list[str]:
    """Layer names from the input upwards, then combinations of layers ("all").

    >>> layer_order(["all", "layer10", "embed", "layer2"])
    ['embed', 'layer2', 'layer10', 'all']
    """

    def position(name: str) -> tuple[int, int, str]:
        number = re.fullmatch(r"layer(\d+)", name)
        return (0, 0, "") if name == "embed" else (1, int(number[1]), "") if number else (2, 0, name)

    return sorted(set(layers), key=position)


def layer_label(name: str) -> str:
    """A layer as the label of an axis: its number, 7 for layer07; other names as they are."""
    number = re.fullmatch(r"layer(\d+)", name)
    return str(int(number[1])) if number else name


def is_single(layer: str) -> bool:
    """Whether it is a single layer, not a weighted sum of several."""
    return layer != WEIGHTED


@dataclass(frozen=True)
class LayerCurve:
    """Validation by layer, at the best rate and scaling of each: mean over seeds, lowest and highest seed."""

    layers: list[str]
    lrs: list[float]
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, grid: Iterable[Mapping[str, Any]]) -> LayerCurve:
        """The curve of rows of layer, lr, seed, valid and scaling; fits that did not converge are left out.

        So are points that were fitted with fewer seeds than others of their layer.

        >>> rows = [("layer01", 1e-3, 0, 70.0), ("layer01", 1e-2, 0, 60.0), ("layer02", 1e-3, 0, None)]
        >>> curve = LayerCurve.of(dict(zip(("layer", "lr", "seed", "valid"), row)) for row in rows)
        >>> curve.layers, curve.mean
        (['layer01'], array([70.]))
        """
        fits: dict[str, dict[tuple[float, str], list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in grid:
            valid = math.nan if row["valid"] is None else float(row["valid"])
            fits[row["layer"]][row["lr"], row.get("scaling", "")].append(valid)
        scores: dict[str, list[tuple[float, list[float]]]] = defaultdict(list)
        for layer, points in fits.items():
            n_seeds = max(map(len, points.values()))
            for (lr, _), values in points.items():
                if len(values) == n_seeds and (finite := list(filter(math.isfinite, values))):
                    scores[layer].append((lr, finite))
        layers = layer_order(scores)
        best = [max(scores[layer], key=lambda point: float(np.mean(point[1]))) for layer in layers]
        columns = [np.array([reduce(seeds) for _, seeds in best]) for reduce in (np.mean, np.min, np.max)]
        return cls(layers, [lr for lr, _ in best], *columns)


def plot_layer_curve(
    curve: LayerCurve, chosen: str, axes: Axes | None = None, colour: str = COLOURS[0], size_pt: float = 9.0
) -> Axes:
    """Draw mean and range over seeds, with a ring around the selected layer."""
    axes = plain(axes or new_axes(6.4, 4.2))
    positions = np.arange(len(curve.layers))
    single = np.array([is_single(layer) for layer in curve.layers], dtype=bool)
    axes.fill_between(positions[single], curve.low[single], curve.high[single], color=colour, alpha=0.18, lw=0)
    axes.plot(positions[single], curve.mean[single], color=colour, lw=1.4)
    errors = np.abs(np.stack((curve.low, curve.high)) - curve.mean)[:, ~single]
    axes.errorbar(positions[~single], curve.mean[~single], errors, fmt="D", ms=4, color=colour, lw=1.2)
    if chosen in curve.layers:
        at = curve.layers.index(chosen)
        axes.plot(at, curve.mean[at], "o", ms=9, mfc="none", mec=ACCENT, mew=2)
        offset = (0, 9) if curve.mean[at] < np.nanmax(curve.high) else (0, -15)
        axes.annotate(
            layer_label(chosen), (at, curve.mean[at]), offset, textcoords="offset points", ha="center",
            fontsize=size_pt, color=ACCENT, fontweight="bold",
        )  # fmt: skip
    step = -(-len(positions) // (9 if size_pt < 9 else 26))
    shown = [i for i in positions if not single[i] or (i % step == 0 and (step == 1 or single[i : i + 2].all()))]
    axes.set_xticks(shown, [layer_label(curve.layers[i]).replace("embed", "e") for i in shown])
    axes.grid(axis="y", color=GRID, lw=0.6)
    axes.margins(y=0.2)
    axes.tick_params(labelsize=size_pt - 1)
    return axes


def draw_chance(axes: Axes, level: float | None) -> None:
    """A dotted line at the level of chance, where there is one and it is not far from the curve."""
    low, high = axes.get_ylim()
    if level is not None and low - (high - low) <= level <= high + (high - low):
        margin = 0.05 * (high - low)
        axes.axhline(level, color=FAINT, lw=1, ls=":")
        axes.set_ylim(min(low, level - margin), max(high, level + margin))


def read_results(path: Path) -> list[dict[str, Any]]:
    """Results over several layers, from one JSON or all of a folder; UsageError if there are none."""
    paths = sorted(path.glob("*.json")) if path.is_dir() else [path]
    results = [values for file in paths if "grid" in (values := read_json(file)) or file == path]
    for values in results:
        if wrong := mismatch(values, {"grid": SHAPE["grid"], "model?": {}, "seeds?": [{"valid?": {}}]}):
            raise MertError(path, f"is no result ({wrong})", NAME_RESULTS)
    layered = [values for values in results if len(LayerCurve.of(values["grid"]).layers) > 1]
    if not layered:
        reason = "its results know one layer only" if results else "holds no result"
        raise UsageError(path, reason, "run the benchmark over several layers" if results else NAME_RESULTS)
    return layered


def plot_results(results: Sequence[Mapping[str, Any]]) -> list[Axes]:
    """Draw one panel per result on one figure."""
    columns = min(len(results), 3)
    rows = -(-len(results) // columns)
    alone = len(results) == 1
    figure: Any = new_axes(*((6.4, 4.4) if alone else (3.3 * columns, 0.5 + 2.3 * rows))).figure
    figure.clear()
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for spare in panels[len(results) :]:
        spare.set_axis_off()
    models = sorted({str(dict(result.get("model") or {}).get("name", "")) for result in results})
    for result, axes in zip(results, panels, strict=False):
        task = result.get("task") or {}
        task = task if isinstance(task, Mapping) else {"title": task}
        size_pt = 9.5 if alone else 8.0
        plot_layer_curve(LayerCurve.of(result["grid"]), str(result.get("layer", "")), axes, size_pt=size_pt)
        metric = next((str(name) for seed in result.get("seeds", ()) for name in seed.get("valid", ())), "score")
        axes.set_ylabel("-loss" if metric == "loss" else f"{metric.replace('_', ' ')}, points", fontsize=size_pt)
        axes.set_xlabel("layer (e: the encoder's input)", fontsize=size_pt)
        synthetic = ", synthetic data" if task.get("data") == "synthetic" else ""
        axes.set_title(f"{task.get('title') or task.get('name', '')}{synthetic}", fontsize=size_pt + 0.5, loc="left")
    figure.suptitle(f"{', '.join(models)}: validation by layer, mean and range over seeds", fontsize=10)
    return list(panels[: len(results)])
