"""Beat tracking: frames of every layer, a head on single frames, and two ways from its activation to beats."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mir_benchmarks.tasks.kind import TaskProbe, digest
from probes.beats.probe import BeatFit, fit_one
from probes.beats.tracking import BeatScores, Tracking
from probes.features.clips import Clip
from probes.features.stores import layer_number
from probes.fit import Policy, Setting
from probes.results import Outputs

TRACKERS = {"f_dbn": "dbn", "f_peak": "peak"}  # by column of the outputs


class BeatTask(TaskProbe[BeatFit]):
    """Heads are selected by F on valid; both trackers are scored on every test recording."""

    def clips(self) -> list[Clip]:
        size = self.matrix.bytes_for(30.0 * len(self.dataset.items))
        self.on_message(f"frames of all layers take {size / 2**20:.0f} MiB for clips of 30 s")
        return super().clips()

    def prepare(self) -> None:
        self.beats = {split: self.annotated(split) for split in ("train", "valid", "test")}
        self.rule = {"tolerance_s": float(self.protocol["beat_tol"]), "trim_s": float(self.protocol["beat_trim"])}
        self.tracking = Tracking(self.protocol["beat_post"], **self.rule)
        self.stores = self.frame_stores(self.beats["train"])
        self.policy = Policy(self.options.epochs(self.task.max_epochs), self.task.patience)

    def annotated(self, split: str) -> dict[str, np.ndarray]:
        """Beats of each clip within its audio: some annotations extend beyond its end."""
        beats = {}
        for item in self.dataset.split(split):
            assert isinstance(item.label, tuple)
            times = np.array(item.label, dtype=np.float64)
            beats[item.id] = times[times <= self.matrix.entries[item.id].seconds]
        return beats

    def fit(self, settings: Sequence[Setting]) -> list[BeatFit]:
        return [fit_one(
            self.stores[at.scaling], self.beats["train"], self.beats["valid"],
            layer=layer_number(self.matrix.layers, at.layer), lr=at.lr, seed=at.seed, tracking=self.tracking,
            policy=self.policy, device=self.options.device,
        ) for at in settings]  # fmt: skip

    def outputs(self, fitted: BeatFit) -> np.ndarray:
        scores = []
        for clip, reference in self.beats["test"].items():
            activation_T = fitted.head.activation(fitted.store.frames(clip, fitted.layer))
            times_T = fitted.store.times(clip)
            scores.append([Tracking(post, **self.rule).score(reference, activation_T, times_T)
                           for post in TRACKERS.values()])  # fmt: skip
        return columns(scores, self.protocol["beat_agg"])

    def score(self, fitted: BeatFit, outputs_nC: np.ndarray) -> dict[str, Any]:
        test = dict(zip(TRACKERS, (100 * outputs_nC.mean(axis=0)).tolist(), strict=True))
        return {"valid": {"f_measure": fitted.score}, "test": test}

    def fingerprint(self) -> dict[str, Any]:
        def parts() -> Iterator[bytes]:
            for split, clips in self.beats.items():
                for name, times in clips.items():
                    yield f"{split}:{name}:{self.matrix.entries[name].crc32};".encode() + times.tobytes()

        rules = repr((self.tracking, self.policy, 3))
        return {"data": digest(self.matrix, parts()), "rules": rules}

    @property
    def head(self) -> dict[str, Any]:
        return {
            "kind": "frame-wise mlp", "hidden": 512, "dropout": 0.2, "optimizer": "Adam", "crop_s": 10.0,
            "loss": "binary cross-entropy, targets 0.25 0.5 1 0.5 0.25 about a beat", "epoch_by": "validation loss",
            "batch_clips": "64, or an eighth of train if that is less",
            "max_epochs": self.policy.max_epochs, "patience": list(self.policy.patience),
        }  # fmt: skip

    def result_outputs(self, outputs_SnC: np.ndarray) -> Outputs:
        ids = list(self.beats["test"])
        return Outputs(np.array(ids), np.zeros(0), outputs_SnC, tuple(TRACKERS), self.groups(ids))

    def notes(self, outputs_SnC: np.ndarray) -> list[str]:
        pooled = self.protocol["beat_agg"] == "pooled"
        return ["F is pooled over all beats; its interval takes their number as given"] if pooled else []


def columns(scores: Sequence[Sequence[BeatScores]], aggregation: str) -> np.ndarray:
    """[n, 2]: F of each recording, or its share of the pooled F, so that the mean over recordings is the metric."""
    if aggregation == "mean":
        return np.array([[score.f_measure for score in row] for row in scores])
    counts = [[(score.matched, score.n_reference + score.n_estimate) for score in row] for row in scores]
    matched, beats = np.moveaxis(np.array(counts, dtype=float), 2, 0)
    return np.asarray(2 * matched / beats.mean(axis=0))
