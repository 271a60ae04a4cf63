"""What every kind of task is told, and what it gives back to the runner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mert.errors import UsageError
from mir_benchmarks.datasets.dataset import Dataset
from probes.features.clips import Clip
from probes.features.matrix import FeatureMatrix
from probes.features.stores import WEIGHTED
from probes.results import Outputs
from probes.sweep import LRS, SEEDS, Grid, Row

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Options:
    """How to run: layers (None: every one, and the weighted sum), rates and seeds of the grid, units of the head.

    `limit` items of each split are used at most, and mark the result. `heard` is called for each clip with True if it
    had to be embedded, `fitted` for each point of the grid, `say` with a line for people.
    """

    layers: tuple[str, ...] | None = None
    lrs: tuple[float, ...] = LRS
    seeds: tuple[int, ...] = SEEDS
    hidden: int = 512
    standardize: bool = True
    max_epochs: int | None = None
    limit: int | None = None
    protocol: dict[str, str] = field(default_factory=dict)
    device: str = "cpu"
    journal: Path | None = None
    heard: Callable[[bool, int], None] = lambda made, total: None
    fitted: Callable[[Row, int], None] = lambda row, total: None
    say: Callable[[str], None] = lambda line: None

    def epochs(self, published: int) -> int:
        """The task's own number of epochs, or fewer where that was asked for."""
        return min(published, self.max_epochs or published)

    def grid(self, layers: tuple[str, ...]) -> Grid:
        """The grid over a model's layers; UsageError for a layer it does not have, or a value given twice."""
        options = (*layers, WEIGHTED) if len(layers) > 2 else layers
        if unknown := [name for name in self.layers or () if name not in options]:
            raise UsageError("--layers", f"no layer {unknown[0]!r}", f"give some of {', '.join(options)}")
        try:
            return Grid(self.layers or options, self.lrs, self.seeds)
        except ValueError as error:
            raise UsageError("--layers, --lrs, --seeds", str(error), "name each once") from None


@dataclass
class Evaluated:
    """A task done: the grid, what validation chose, what each seed gave, and outputs for every test item.

    `waves` are the digests of recordings that the matrix does not know by their ids.
    """

    grid: list[dict[str, Any]]
    layer: str
    lr: float
    seeds: list[dict[str, Any]]
    outputs: Outputs
    head: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    waves: dict[str, str] = field(default_factory=dict)


def hear(dataset: Dataset, matrix: FeatureMatrix, options: Options) -> None:
    """Extract what is missing of a dataset's audio, and say beforehand what it takes."""
    clips = [Clip(item.id, item.audio) for item in dataset.items]
    options.say(f"{len(clips)} recordings to hear with {matrix.encoder.facts.name}; features in {matrix.folder}")
    matrix.extract(clips, lambda made: options.heard(made, len(clips)))
