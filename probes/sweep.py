"""A grid of layers, scalings, learning rates and seeds: validation selects, test is scored once.

Every point is fitted once; of several scalings of the features, a layer's heads of further seeds are fitted on the one
that was best on validation with the first seed. With three seeds that costs a third more than a single scaling.
"""

import hashlib
import json
import math
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from mert.errors import MertError, UsageError
from mert.files import append_lines, lines_of, writing
from probes.features.scaling import SCALINGS
from probes.features.stores import layer_options
from probes.fit import Setting
from probes.heads import HIDDEN

LRS = (5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2)  # MARBLE, appendix A
SEEDS = (0, 1, 2)


class FittedHead(Protocol):
    """A fitted head, as a sweep reads it: its best validation score and the epoch of it."""

    @property
    def score(self) -> float: ...

    @property
    def epoch(self) -> int: ...


F = TypeVar("F", bound=FittedHead)


@dataclass(frozen=True)
class GridRow(Setting):
    """One fit: its point of the grid, its best validation score and the epoch of it."""

    valid: float
    epoch: int

    @property
    def setting(self) -> Setting:
        return Setting(self.layer, self.lr, self.seed, scaling=self.scaling)

    @property
    def converged(self) -> float:
        """The validation score; -inf for a fit that did not converge."""
        return self.valid if math.isfinite(self.valid) else -math.inf

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON, which has no infinity: None for a fit that did not converge."""
        return asdict(self) | {"valid": self.valid if math.isfinite(self.valid) else None}


@dataclass(frozen=True)
class Grid:
    """All points, layers and then scalings outermost, so that features of a layer are loaded once for each."""

    layers: tuple[str, ...]
    lrs: tuple[float, ...] = LRS
    seeds: tuple[int, ...] = SEEDS
    scalings: tuple[str, ...] = SCALINGS[:1]

    def __post_init__(self) -> None:
        for name, values in asdict(self).items():
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} of a grid are none, or hold one twice: {values}")
        if not all(0 <= number < math.inf for number in (*self.lrs, *self.seeds)):
            raise ValueError(f"learning rates {self.lrs} or seeds {self.seeds} are negative or not finite")

    def __len__(self) -> int:
        return len(self.layers) * len(self.lrs) * (len(self.seeds) + len(self.scalings) - 1)

    def settings(self) -> Iterator[Setting]:
        """All points, with those of scalings that are left after the first seed."""
        for layer, scaling in product(self.layers, self.scalings):
            yield from self.points(layer, scaling, self.seeds)

    def points(self, layer: str, scaling: str, seeds: Sequence[int]) -> list[Setting]:
        """Those of one layer and scaling."""
        return [Setting(layer, lr, seed, scaling=scaling) for lr in self.lrs for seed in seeds]


@dataclass(frozen=True)
class GridOptions:
    """The grid to search (`layers` None: every layer, and their weighted sum), hidden units, and the device."""

    layers: tuple[str, ...] | None = None
    lrs: tuple[float, ...] = LRS
    seeds: tuple[int, ...] = SEEDS
    hidden: int = HIDDEN
    device: str = "cpu"

    def grid(self, layers: tuple[str, ...], scalings: tuple[str, ...] = SCALINGS[:1]) -> Grid:
        """The grid over the layers of a model; UsageError for a layer it does not have, or a value given twice."""
        options = layer_options(layers)
        if unknown := [name for name in self.layers or () if name not in options]:
            raise UsageError("--layers", f"no layer {unknown[0]!r}", f"give some of {', '.join(options)}")
        try:
            return Grid(self.layers or options, self.lrs, self.seeds, scalings)
        except ValueError as error:
            raise UsageError("--layers, --lrs, --seeds", str(error), "give each once") from None


class Journal:
    """Rows of finished fits in a file of JSON lines, valid for one fingerprint of features, targets and protocol."""

    def __init__(self, path: Path | None, fingerprint: dict[str, Any]) -> None:
        self._path = path
        self._key = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()
        self.fits: dict[Setting, GridRow] = {}
        self.fits |= {row.setting: row for key, row in journal_rows(path) if key == self._key}

    def rows(self, grid: Grid) -> list[GridRow]:
        """The rows of a grid so far, in its order."""
        return [self.fits[setting] for setting in grid.settings() if setting in self.fits]

    def add(self, row: GridRow) -> None:
        self.fits[row.setting] = row
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with writing(self._path):
                append_lines(self._path, [{"key": self._key} | asdict(row)])


def journal_rows(path: Path | None) -> Iterator[tuple[str, GridRow]]:
    """The fingerprint and the row of each line of a journal; the fit of a line that was cut off is repeated."""
    for line in lines_of(path, "replace") if path and path.exists() else ():
        try:
            values = json.loads(line)
            yield values.pop("key"), GridRow(**values)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue


@dataclass(frozen=True)
class Swept(Generic[F]):
    """A finished sweep: all rows, the point that validation selected, and its head per seed."""

    rows: list[GridRow]
    layer: str
    lr: float
    scaling: str
    heads: dict[int, F]


def sweep(
    grid: Grid,
    fit_many: Callable[[Sequence[Setting]], Iterable[F]],
    journal: Journal,
    together: int = 1,
    on_fit: Callable[[GridRow], None] = lambda row: None,
) -> Swept[F]:
    """Fit every point that has no row yet, `together` at a time within one layer; `on_fit` is called per point.

    The heads of the selected point are kept from the sweep or, if it was resumed, fitted again: on a CPU they are the
    same, bit for bit.
    """
    leading: dict[Setting, F] = {}
    for row in journal.rows(grid):
        on_fit(row)
    for waiting in groups(grid, journal, together):
        for done, fitted in zip(waiting, fit_many(waiting), strict=True):
            row = GridRow(done.layer, done.lr, done.seed, float(fitted.score), fitted.epoch, scaling=done.scaling)
            journal.add(row)
            leading[done] = fitted
            on_fit(row)
        best = select(journal.rows(grid))
        leading = {at: fitted for at, fitted in leading.items()
                   if (at.layer, at.lr, at.scaling) == best or at.layer == waiting[-1].layer}  # fmt: skip
    rows = journal.rows(grid)
    layer, lr, scaling = select(rows)
    chosen = [Setting(layer, lr, seed, scaling=scaling) for seed in grid.seeds]
    heads = {at.seed: leading[at] if at in leading else next(iter(fit_many([at]))) for at in chosen}
    return Swept(rows, layer, lr, scaling, heads)


class Probe(Protocol[F]):
    """One kind of task on one set of features: heads for settings, and the test of those that validation selected."""

    together: int  # settings of a layer that `fit` takes at a time

    @abstractmethod
    def fit(self, settings: Sequence[Setting]) -> Iterable[F]:
        """Heads for settings of one layer option, in their order; they never depend on the test split."""

    @abstractmethod
    def outputs(self, fitted: F) -> np.ndarray:
        """[n, C]: outputs of a head for the test items."""

    @abstractmethod
    def score(self, fitted: F, outputs_nC: np.ndarray) -> dict[str, Any]:
        """`valid` and `test`, each a number per metric, and other facts of this head."""


@dataclass(frozen=True)
class Evaluation(Swept[F]):
    """What a probe measured: besides the sweep, the scores of each selected head, and its outputs for test items."""

    seeds: list[dict[str, Any]]
    outputs_SnC: np.ndarray

    def selection(self) -> dict[str, Any]:
        """The fields that a Result takes as they are."""
        grid = [row.as_json() for row in self.rows]
        return {"grid": grid, "layer": self.layer, "lr": self.lr, "scaling": self.scaling, "seeds": self.seeds}


def evaluate(
    probe: Probe[F], grid: Grid, journal: Journal, on_fit: Callable[[GridRow, int], None] = lambda row, total: None
) -> Evaluation[F]:
    """Fit the grid, select layer and rate on validation, and test the heads of all seeds there, once.

    `on_fit` is called per point of the grid, with the number of all points.
    """
    swept = sweep(grid, probe.fit, journal, probe.together, lambda row: on_fit(row, len(grid)))
    outputs, seeds = [], []
    for seed, fitted in swept.heads.items():
        outputs.append(np.asarray(probe.outputs(fitted)))
        seeds.append({"seed": seed, "epoch": fitted.epoch} | probe.score(fitted, outputs[-1]))
    return Evaluation(**vars(swept), seeds=seeds, outputs_SnC=np.stack(outputs))


def groups(grid: Grid, journal: Journal, together: int) -> Iterator[list[Setting]]:
    """Settings without a row, as they are to be fitted; those of a group share their layer and scaling."""
    for layer in grid.layers:
        for stage in stages(grid, layer, journal):
            waiting = [setting for setting in stage if setting not in journal.fits]
            for first in range(0, len(waiting), together):
                yield waiting[first : first + together]


def stages(grid: Grid, layer: str, journal: Journal) -> Iterator[list[Setting]]:
    """All points of a layer; of several scalings the first seed, and then, when these are fitted, the best one's."""
    if len(grid.scalings) == 1:
        yield grid.points(layer, grid.scalings[0], grid.seeds)
        return
    for scaling in grid.scalings:
        yield grid.points(layer, scaling, grid.seeds[:1])
    best = {scaling: max(journal.fits[at].converged for at in grid.points(layer, scaling, grid.seeds[:1]))
            for scaling in grid.scalings}  # fmt: skip
    yield grid.points(layer, max(best, key=lambda scaling: best[scaling]), grid.seeds[1:])


def select(rows: Sequence[GridRow]) -> tuple[str, float, str]:
    """(layer, learning rate, scaling) with the best validation score, mean over seeds; the first of equals.

    Points that were not fitted with all seeds do not count.

    >>> rows = [("a", 0.1, 0, 0.5, 3), ("a", 0.1, 1, 0.9, 2), ("b", 0.1, 0, 0.6, 1), ("b", 0.1, 1, 0.7, 1)]
    >>> select([GridRow(*row) for row in rows])
    ('a', 0.1, 'standardized')
    """
    scores: dict[tuple[str, float, str], list[float]] = defaultdict(list)
    for row in rows:
        scores[row.layer, row.lr, row.scaling].append(row.valid)
    n_seeds = max(map(len, scores.values()), default=0)
    means = {point: np.mean(values) for point, values in scores.items() if len(values) == n_seeds}
    if not any(np.isfinite(list(means.values()))):
        raise MertError("probe", "no fit has a finite validation score", "lower the learning rates")
    return max(means, key=lambda point: means[point] if np.isfinite(means[point]) else -np.inf)
