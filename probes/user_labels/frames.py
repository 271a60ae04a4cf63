"""Events of one's own (beats, onsets): the frame-wise head, fitted on frames that are scaled by the training files.

Shapes: L layers, T frames, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from torch import Tensor

from probes.beats.probe import BeatFit, fit_one, mean_f
from probes.beats.tracking import Tracking
from probes.features.files import FeatureFiles
from probes.features.scaling import ScaledFrames, Scaling
from probes.features.stores import layer_number
from probes.fit import Policy, Setting
from probes.heads import BeatHead
from probes.user_labels.splits import Split
from probes.user_labels.table import LabelTable

NAMES = {"layers.logits_L": "layers", "hidden.0.weight": "w1", "hidden.0.bias": "b1",
         "out.weight": "w2", "out.bias": "b2"}  # fmt: skip
BEHIND_S = 0.05  # an event at the very end may lie behind the centre of the last frame


def parameters(head: BeatHead) -> dict[str, Tensor]:
    """By the names that the heads on whole recordings give theirs: it is the same network."""
    return {NAMES[name]: value for name, value in head.state_dict().items()}


class FrameProbe:
    """Fits heads on the frames of train, watches valid, and scores test: what ClipProbe is for whole recordings."""

    def __init__(
        self, features: FeatureFiles, table: LabelTable, parts: Split, tracking: Tracking, policy: Policy, device: str
    ) -> None:
        self._layers, self._device = features.layers, device
        self._tracking, self._policy = tracking, policy
        events = {item.file: np.array(item.label, np.float64) for item in table.items}
        self._events = {name: {file: events[file] for file in files} for name, files in parts.files.items()}
        self._store = ScaledFrames(features, parts.files["train"])

    def fit(self, settings: Sequence[Setting]) -> list[BeatFit]:
        """Heads for settings of one layer option."""
        return [fit_one(
            self._store, self._events["train"], self._events["valid"], layer=layer_number(self._layers, at.layer),
            lr=at.lr, seed=at.seed, tracking=self._tracking, policy=self._policy, device=self._device,
        ) for at in settings]  # fmt: skip

    def test(self, fitted: BeatFit) -> float:
        """Mean F over the test recordings, in points."""
        return 100 * mean_f(fitted.head, self._store, self._events["test"], fitted.layer, self._tracking)

    def scaling(self, layer: str) -> Scaling:
        """How frames of a layer option are scaled before the head."""
        return self._store.scaling(layer_number(self._layers, layer))


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
