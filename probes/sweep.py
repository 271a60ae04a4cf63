"""A grid of layers, learning rates and seeds: every point fitted once, chosen by validation alone, and resumable."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from mert.errors import MertError
from mert.files import writing
from probes.fit import Setting

LRS = (5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2)  # MARBLE, appendix A
SEEDS = (0, 1, 2)


class Fitted(Protocol):
    """What a sweep asks of a fitted head."""

    @property
    def score(self) -> float: ...

    @property
    def epoch(self) -> int: ...


F = TypeVar("F", bound=Fitted)


@dataclass(frozen=True)
class Row:
    """One fit: where on the grid, its best validation score and when that was."""

    layer: str
    lr: float
    seed: int
    valid: float
    epoch: int

    def as_json(self) -> dict[str, Any]:
        """Plain values; JSON knows no infinity: None for a fit that did not converge."""
        return asdict(self) | {"valid": self.valid if math.isfinite(self.valid) else None}


@dataclass(frozen=True)
class Grid:
    """All points, layers outermost: features of a layer are loaded once.

    >>> len(list(Grid(("layer01", "all"), (1e-3, 1e-2), (0, 1, 2)).settings()))
    12
    """

    layers: tuple[str, ...]
    lrs: tuple[float, ...] = LRS
    seeds: tuple[int, ...] = SEEDS

    def __post_init__(self) -> None:
        for name, values in asdict(self).items():
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} of a grid are none, or hold one twice: {values}")

    def settings(self) -> Iterator[Setting]:
        """Points in the order in which they are fitted."""
        return (Setting(layer, lr, seed) for layer in self.layers for lr in self.lrs for seed in self.seeds)


class Journal:
    """Rows of fits already done, kept while their fingerprint (features, targets, protocol) is the same."""

    def __init__(self, path: Path | None, fingerprint: dict[str, Any]) -> None:
        self._path = path
        self._key = hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()
        self._rows: dict[Setting, Row] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path and path.exists() else ():
            try:
                values = json.loads(line)
                if values.pop("key") == self._key:
                    row = Row(**values)
                    self._rows[Setting(row.layer, row.lr, row.seed)] = row
            except (ValueError, TypeError, KeyError):
                continue  # a line that was cut off: its fit is done again

    def get(self, setting: Setting) -> Row | None:
        return self._rows.get(setting)

    def rows(self, grid: Grid) -> list[Row]:
        """All rows of a grid there are, in its order."""
        return [found for setting in grid.settings() if (found := self.get(setting))]

    def add(self, row: Row) -> None:
        self._rows[Setting(row.layer, row.lr, row.seed)] = row
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with writing(self._path), open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"key": self._key} | asdict(row)) + "\n")
                file.flush()
                os.fsync(file.fileno())


@dataclass(frozen=True)
class Swept(Generic[F]):
    """A finished sweep: all rows, the point that validation chose, and its heads, one for each seed."""

    rows: list[Row]
    layer: str
    lr: float
    heads: dict[int, F]


def sweep(
    grid: Grid,
    fit_many: Callable[[Sequence[Setting]], Iterable[F]],
    journal: Journal,
    together: int = 1,
    tell: Callable[[Row], None] | None = None,
) -> Swept[F]:
    """Fit every point that has no row yet, `together` at a time within one layer.

    The heads of the chosen point are kept from the sweep, or, where it was resumed, fitted again: the same, bit for
    bit, on a CPU.
    """
    leading: dict[Setting, F] = {}
    for waiting in groups(grid, journal, together, tell):
        for done, fitted in zip(waiting, fit_many(waiting), strict=True):
            row = Row(done.layer, done.lr, done.seed, float(fitted.score), fitted.epoch)
            journal.add(row)
            leading[done] = fitted
            if tell:
                tell(row)
        layer, lr = select(journal.rows(grid))
        leading = {at: fitted for at, fitted in leading.items()
                   if (at.layer, at.lr) in ((layer, lr), (waiting[-1].layer, waiting[-1].lr))}  # fmt: skip
    rows = journal.rows(grid)
    layer, lr = select(rows)
    heads = {}
    for chosen in (Setting(layer, lr, seed) for seed in grid.seeds):
        heads[chosen.seed] = leading[chosen] if chosen in leading else next(iter(fit_many([chosen])))
    return Swept(rows, layer, lr, heads)


def groups(grid: Grid, journal: Journal, together: int, tell: Callable[[Row], None] | None) -> Iterator[list[Setting]]:
    """Settings without a row, in the order of the grid, never of two layers at once."""
    waiting: list[Setting] = []
    for setting in grid.settings():
        known = journal.get(setting)
        if waiting and (setting.layer != waiting[0].layer or len(waiting) == together):
            yield waiting
            waiting = []
        if known is None:
            waiting.append(setting)
        elif tell:
            tell(known)
    if waiting:
        yield waiting


def select(rows: Sequence[Row]) -> tuple[str, float]:
    """(layer, learning rate) with the best validation score, mean over seeds; the first of equals.

    >>> select([Row("a", 0.1, 0, 0.5, 3), Row("a", 0.1, 1, 0.9, 2), Row("b", 0.1, 0, 0.6, 1), Row("b", 0.1, 1, 0.7, 1)])
    ('a', 0.1)
    """
    scores: dict[tuple[str, float], list[float]] = defaultdict(list)
    for row in rows:
        scores[row.layer, row.lr].append(row.valid)
    means = {point: np.mean(values) for point, values in scores.items()}
    if not any(np.isfinite(list(means.values()))):
        raise MertError("probe", "no fit has a finite validation score", "lower the learning rates")
    return max(means, key=lambda point: means[point] if np.isfinite(means[point]) else -np.inf)
