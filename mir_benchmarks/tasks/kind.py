"""What the kinds of task (clips, beats, separation) share: options, and the way from a feature matrix to a probe."""

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mir_benchmarks.datasets.dataset import Dataset
from mir_benchmarks.statistics import recording_of
from mir_benchmarks.tasks.registry import Switches, TaskSpec
from probes.features.clips import Clip
from probes.features.matrix import FeatureMatrix
from probes.features.scaling import StandardizedFrames
from probes.features.stores import FrameStore
from probes.results import Outputs
from probes.sweep import F, GridOptions, Probe


@dataclass(frozen=True)
class Options(GridOptions):
    """How to run a task: the grid of `GridOptions`, and how heads are fitted.

    `rules` is "hub" or "marble", which fixes seeds, features and switches (`tasks/protocols.py`). At most `limit`
    items of each split are used, which marks the result. `protocol` holds protocol switches by name; `max_epochs` may
    only lower a task's own number.
    """

    max_epochs: int | None = None
    limit: int | None = None
    protocol: dict[str, str] = field(default_factory=dict)
    rules: str = "hub"

    def epochs(self, published: int) -> int:
        """The task's own number of epochs, or fewer if asked for."""
        return min(published, self.max_epochs or published)


class TaskProbe(Probe[F]):
    """A task on the features of one encoder: a probe for `evaluate`, and what a result records besides.

    In this order: the features of `clips` are extracted, `prepare` reads them, `evaluate` fits and tests heads, and
    `head`, `result_outputs` and `notes` complete the result. `waves` are digests of recordings that the matrix does
    not hold by their ids, `contents` digests of what is in their files.
    """

    together = 1

    def __init__(
        self, task: TaskSpec, dataset: Dataset, matrix: FeatureMatrix, options: Options, protocol: Switches,
        on_message: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.task, self.dataset, self.matrix = task, dataset, matrix
        self.options, self.protocol, self.on_message = options, protocol, on_message
        self.waves: dict[str, str] = {}
        self.contents: dict[str, str] = {}

    def clips(self) -> list[Clip]:
        """What is to be extracted: the recordings of the dataset."""
        return [Clip(item.id, item.audio) for item in self.dataset.items]

    @abstractmethod
    def prepare(self) -> None:
        """Read labels and features; TaskError for labels that do not fit the task."""

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """What fits depend on: features, audio, targets and rules. If any of it changes, fits are repeated."""

    @property
    @abstractmethod
    def head(self) -> dict[str, Any]:
        """Facts on the head and its training, for the result."""

    @abstractmethod
    def result_outputs(self, outputs_SnC: np.ndarray) -> Outputs:
        """Outputs of all seeds with their ids, targets and columns."""

    def notes(self, outputs_SnC: np.ndarray) -> list[str]:
        """What a reader of the result should know."""
        return []

    def groups(self, ids: Iterable[str]) -> np.ndarray:
        """Which test items are not independent: the artist (or singer, instrument) of each, else the recording."""
        artists = {item.id: item.artist for item in self.dataset.items}
        return np.array([artists.get(name) or name for name in map(recording_of, ids)])

    def frame_stores(self, train: Iterable[str]) -> dict[str, FrameStore]:
        """Frames of the matrix by scaling: as they are, and standardised by those of the training clips."""
        return {"raw": self.matrix, "standardized": StandardizedFrames(self.matrix, tuple(train))}


def digest(matrix: FeatureMatrix, parts: Iterable[bytes]) -> str:
    """SHA-256 of a matrix's key and of further parts."""
    sha = hashlib.sha256(matrix.digest.encode())
    for part in parts:
        sha.update(part)
    return sha.hexdigest()
