"""Events of one's own (beats, onsets): the frame-wise head, fitted on frames that are scaled by the training files.

Shapes: L layers, T frames, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from probes.beat_head import BeatFit, fit_one, mean_f
from probes.beats import Tracking
from probes.clip_probe import Scaling
from probes.feature_files import FeatureFiles
from probes.fit import Setting
from probes.own_labels import LabelTable
from probes.own_splits import Split
from probes.sequence import ALL, Layer, Policy
from probes.sweep import WEIGHTED

NAMES = {"layers.logits_L": "layers", "hidden.0.weight": "w1", "hidden.0.bias": "b1",
         "out.weight": "w2", "out.bias": "b2"}  # fmt: skip
BEHIND_S = 0.05  # an event at the very end may lie behind the centre of the last frame


class FrameFit:
    """A fit of the frame-wise head as a sweep sees it: `score` in points."""

    def __init__(self, fit: BeatFit) -> None:
        self.head, self.score, self.epoch = fit.head, 100 * fit.valid, fit.epoch

    def parameters(self) -> dict[str, Tensor]:
        """By the names that the heads on whole recordings give theirs: it is the same network."""
        return {NAMES[name]: value for name, value in self.head.state_dict().items()}


class FrameProbe:
    """Fits heads on the frames of train, watches valid, and scores test: what ClipProbe is for whole recordings."""

    def __init__(
        self, features: FeatureFiles, table: LabelTable, parts: Split, tracking: Tracking, policy: Policy, device: str
    ) -> None:
        self._features, self._parts, self._device = features, parts, device
        self._tracking, self._policy = tracking, policy
        events = {item.file: np.array(item.label, np.float64) for item in table.items}
        self._events = {name: {file: events[file] for file in files} for name, files in parts.files.items()}
        self._stores: dict[str, ScaledFrames] = {}

    def fit(self, settings: Sequence[Setting]) -> list[FrameFit]:
        """Heads for settings of one layer option."""
        return [FrameFit(fit_one(
            self.store(at.layer), self._events["train"], self._events["valid"], layer=self._number(at.layer), lr=at.lr,
            seed=at.seed, tracking=self._tracking, policy=self._policy, device=self._device,
        )) for at in settings]  # fmt: skip

    def test(self, fitted: FrameFit, layer: str) -> float:
        """Mean F over the test recordings, in points."""
        number = self._number(layer)
        return 100 * mean_f(fitted.head, self.store(layer), self._events["test"], number, self._tracking)

    def store(self, layer: str) -> ScaledFrames:
        """Scaled frames of a layer option; only the last one's scaling is kept."""
        if layer not in self._stores:
            self._stores = {layer: ScaledFrames(self._features, self._parts.files["train"], self._number(layer))}
        return self._stores[layer]

    def _number(self, layer: str) -> Layer:
        return ALL if layer == WEIGHTED else self._features.layers.index(layer)


class ScaledFrames:
    """Frames of one layer option, each dimension scaled by its mean and deviation over the training recordings."""

    def __init__(self, features: FeatureFiles, train: Sequence[str], layer: Layer) -> None:
        self._features = features
        rows, _ = features.rows(train)
        self.scaling = Scaling.of(torch.from_numpy(features.windows(rows, layer)))
        both = (self.scaling.mean, self.scaling.deviation)
        self._mean, self._deviation = (value.unsqueeze(-2).numpy() for value in both)

    def frames(self, clip_id: str, layer: Layer) -> np.ndarray:
        """[T, D], or [L, T, D] where layers are summed."""
        scaled: np.ndarray = (self._features.frames(clip_id, layer) - self._mean) / self._deviation
        return scaled

    def times(self, clip_id: str) -> np.ndarray:
        """Seconds of a recording's frames."""
        return self._features.times(clip_id)


def heard(table: LabelTable, features: FeatureFiles) -> LabelTable:
    """The table without events behind the end of a recording; LabelError if most are, as milliseconds would be."""
    items = []
    for item in table.items:
        end_s = features.times(item.file)[-1] + BEHIND_S
        items.append(replace(item, label=tuple(time for time in item.label if time <= end_s)))
    n = sum(len(item.label) for item in table.items)
    lost = n - sum(len(item.label) for item in items)
    if 2 * lost > n:
        raise table.error(f"{lost} of {n} events lie behind the end of their recordings", "give times in seconds")
    notes = (*table.notes, f"{lost} events behind the end of a recording are left out") if lost else table.notes
    return replace(table, items=tuple(items), notes=notes)
