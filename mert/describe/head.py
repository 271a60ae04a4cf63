"""A fitted head as a folder, head.json (labels, encoder, fit and scores) and tensors: saved, loaded, applied.

Shapes: L layers, T frames, P width, C outputs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from mert.audio.recording import ArrayRecording, Recording
from mert.describe.beats import pick_beats, strength
from mert.describe.predictions import TASKS, Prediction
from mert.embedding.batching import Settings
from mert.embedding.embedder import Embedder
from mert.embedding.features import Features, Provenance, differences
from mert.errors import AudioError, CheckpointError, MertError, OutputError
from mert.files import read_json, sha256_file, write_folder, write_json
from mert.weights.arrays import write_arrays
from mert.weights.heads import CARD, TENSORS

SCHEMA = 2
READ_AS_IT_IS = 1  # the schema before: its heads have no `least`
WEIGHTED = "all"  # a softmax-weighted sum of layer01 and up
AGAIN = "fit it again, or restore the folder"


class HeadError(MertError):
    """A saved head is damaged, or was not fitted on features like those given."""


@dataclass(frozen=True)
class HeadCard:
    """The contents of head.json: outputs (`task`, `classes`), inputs (`layers` of `encoder`, embedded as in
    `features`), fit and scores. `layer` is one of `layers`, or "all": then they are summed.

    `scores` are means over seeds in points, with numbers of files; the head is that of one seed. `least` is the
    confidence below which the head is not sure, chosen on validation: one number, or one for each tag.
    """

    task: str
    classes: list[str]
    layer: str
    layers: list[str]
    encoder: dict[str, Any]
    features: dict[str, Any]
    head: dict[str, Any]
    scores: dict[str, Any]
    tracking: dict[str, Any] | None
    split: dict[str, Any]
    counts: dict[str, Any]
    grid: list[dict[str, Any]]
    least: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    versions: dict[str, Any] = field(default_factory=dict)
    weights_sha256: str = ""
    schema: int = SCHEMA

    @classmethod
    def load(cls, path: Path) -> HeadCard:
        """Read head.json; HeadError for what is damaged or of another schema."""
        try:
            values = read_json(path)
        except CheckpointError as error:
            raise HeadError(path, error.reason, "give a folder that `mert probe fit` wrote") from None
        if values.get("schema") == READ_AS_IT_IS:
            values |= {"schema": SCHEMA, "least": []}
        if values.get("schema") != SCHEMA:
            raise HeadError(path, f"has schema {values.get('schema')!r}, not {SCHEMA}", AGAIN)
        if unexpected := sorted(values.keys() ^ {part.name for part in dataclasses.fields(cls)}):
            raise HeadError(path, f"{unexpected[0]} is missing or unknown", AGAIN)
        card = cls(**values)
        if wrong := card.invalid():
            raise HeadError(path, f"{wrong} is invalid", AGAIN)
        return card

    @property
    def provenance(self) -> Provenance:
        """How the features were extracted that the head was fitted on."""
        return Provenance.of(self.features | {"weights_sha256": self.encoder["sha256"]})

    def invalid(self) -> str | None:
        """The first entry needed for predictions that has a wrong type; None if there is none."""
        types: dict[str, dict[str, type]] = {
            "encoder": {"name": str, "sha256": str}, "features": {"normalize": bool, "dtype": str},
        }  # fmt: skip
        if self.task == "frames":
            types["tracking"] = {"post": str, "tolerance_s": float}
        for name in ("classes", "layers"):
            value = getattr(self, name)
            if not (isinstance(value, list) and value and all(isinstance(text, str) for text in value)):
                return name
        for name, parts in types.items():
            value = getattr(self, name)
            if not isinstance(value, dict):
                return name
            if wrong := [part for part, kind in parts.items() if not isinstance(value.get(part), kind)]:
                return f"{name}.{wrong[0]}"
        expected = len(self.classes) if self.task == "multilabel" else 1
        numbers = isinstance(self.least, list) and all(isinstance(value, int | float) for value in self.least)
        if not numbers or len(self.least) not in (0, expected):
            return "least"
        facts = self.features | {"weights_sha256": ""}
        if Provenance.missing(facts) or not {"sample_rate", "window", "hop", "pool"} <= facts.keys():
            return "features"
        return None if self.task in TASKS else "task"


class SavedHead:
    """A head with its card. `predict` takes Features, a features file, an audio file, or (array, rate).

    >>> import tempfile
    >>> import mert
    >>> from probes.features.files import FeatureFiles
    >>> from probes.user_labels.fit import FitOptions, fit_head
    >>> from probes.user_labels.table import LabelTable
    >>> m = mert.random_model("nano")
    >>> random = np.random.default_rng(0)
    >>> def hiss(): return random.normal(0, 0.1, 6_000)
    >>> def tone(): return np.sin(np.arange(6_000) * 0.1 + random.uniform(0, 6)) + 0.1 * hiss()
    >>> features = {f"{i}.wav": m.embed((tone, hiss)[i % 2](), sr=24_000, pool="mean") for i in range(20)}
    >>> table = LabelTable.of("classification", {f"{i}.wav": ("tone", "hiss")[i % 2] for i in range(20)})
    >>> head = fit_head(table, FeatureFiles(features), FitOptions(layers=("layer02",), lrs=(1e-3,), seeds=(0,)))
    >>> head.card.scores["test"]
    {'accuracy': 100.0, 'n': 4}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     head.save(Path(folder) / "hiss_or_tone")
    ...     again = SavedHead.load(Path(folder) / "hiss_or_tone")
    >>> again.predict((hiss(), 24_000), m).labels, again.predict((tone(), 24_000), m).labels
    (('hiss',), ('tone',))
    """

    def __init__(self, card: HeadCard, tensors: dict[str, np.ndarray], source: str = "head") -> None:
        self.card, self.tensors, self.source = card, tensors, source
        self._encoder: Embedder | None = None

    @classmethod
    def load(cls, folder: str | Path) -> SavedHead:
        """Read a folder that `save` wrote; HeadError where its files are damaged or do not belong together."""
        folder = Path(folder)
        card, path = HeadCard.load(folder / CARD), folder / TENSORS
        try:
            if (sha256 := sha256_file(path)) != card.weights_sha256:
                raise HeadError(path, f"has sha256 {sha256}, and {card.weights_sha256} in {CARD}", AGAIN)
            with safe_open(path, framework="np") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it has no iterator
        except (SafetensorError, OSError) as error:
            raise HeadError(path, f"cannot be read ({error})", AGAIN) from None
        units = {"target_mean", "target_deviation"} if card.task == "regression" else set()
        complete = {"w2", "b2", "mean", "deviation"} | units <= tensors.keys()
        if not complete or tensors["w2"].shape[:1] != (len(card.classes),):
            raise HeadError(path, f"does not hold the tensors of a head for {len(card.classes)} outputs", AGAIN)
        return cls(card, tensors, str(folder))

    @property
    def identity(self) -> str:
        """A SHA-256 of all that its predictions depend on, and of its card."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self.card), sort_keys=True).encode()).hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write the folder whole or not at all; an existing head is replaced, OutputError for any other folder."""
        folder = Path(os.path.abspath(folder))
        refuse_other(folder)
        with write_folder(folder) as new:
            write_arrays(new / TENSORS, self.tensors)
            card = dataclasses.replace(self.card, weights_sha256=sha256_file(new / TENSORS))
            write_json(new / CARD, dataclasses.asdict(card))

    def encoder(self, model: str | None = None, revision: str | None = None, device: str = "auto") -> Embedder:
        """Load the encoder of the card, or `model`; HeadError if the head was not fitted on it."""
        from mert.embedding.load import load

        name = model or str(self.card.encoder["name"])
        if revision is None and model is None and not Path(name).exists():
            revision = self.card.encoder.get("revision")
        try:
            embedder = load(name, revision, device)
        except CheckpointError as error:
            if model:
                raise
            reason = f"its encoder {name} (sha256 {self.card.encoder['sha256']}) cannot be loaded by name"
            raise HeadError(self.source, f"{reason}: {error.reason}", "give its folder with -m") from None
        self.settings(embedder)
        return embedder

    def predict(
        self, source: Features | str | Path | tuple[np.ndarray, int], encoder: Embedder | None = None
    ) -> Prediction:
        """The prediction for one recording; without `encoder`, audio is embedded by the encoder that the card names.

        HeadError for features of another encoder, window or pooling, or without a layer that the head uses.
        """
        if isinstance(source, str | Path) and Path(source).suffix == ".npz":
            return self._of_features(Features.load(source), str(source))
        if isinstance(source, Features):
            return self._of_features(source, str(source.meta.get("source", "features")))
        if encoder is None:
            encoder = self._encoder = self._encoder or self.encoder()
        return self._of_audio(source, encoder)

    def settings(self, encoder: Embedder) -> Settings:
        """How an encoder must embed for this head; HeadError if it is not the one that the head was fitted on."""
        facts, wanted = self.card.features, self.card.encoder
        if encoder.look_again() != wanted["sha256"]:
            reason = f"was fitted on features of {wanted['name']} (sha256 {wanted['sha256']}), not of "
            remedy = "give the model it was fitted on with -m, or embed with this one and fit again"
            raise HeadError(self.source, f"{reason}{encoder.info.name} (sha256 {encoder.sha256})", remedy)
        try:
            options = {key: facts[key] for key in ("pool", "window", "hop", "dtype")}
            settings = encoder.settings(layers=self.card.layers, **options)
        except (ValueError, TypeError) as error:
            raise HeadError(self.source, f"{CARD} does not fit the encoder ({error})", AGAIN) from None
        self._compare(encoder.provenance(settings))
        return settings

    def _compare(self, provenance: Provenance) -> None:
        for fact in differences(self.card.provenance, provenance):
            reason = f"was fitted with {fact} {self.card.features[fact]}, not {getattr(provenance, fact)}"
            raise HeadError(self.source, reason, "embed as for the fit, or fit again")

    def _of_features(self, features: Features, name: str) -> Prediction:
        if (sha256 := features.meta.get("weights_sha256")) != self.card.encoder["sha256"]:
            reason = f"holds features of {features.meta.get('model')} (sha256 {sha256}); the head was fitted on those "
            wanted = f"of {self.card.encoder['name']} (sha256 {self.card.encoder['sha256']})"
            raise HeadError(name, reason + wanted, "embed it with that model")
        self._compare(features.provenance)
        if lacking := [layer for layer in self.card.layers if layer not in features.layers]:
            raise HeadError(name, f"holds no {lacking[0]}", f"embed it with --layers {','.join(self.card.layers)}")
        pool = self.card.features["pool"]
        if features.times is not None and pool is not None:
            features = features.pool(pool)
        if (other := features.meta.get("pool")) != pool:
            raise HeadError(name, f"is pooled ({other})", f"embed it again: {f'--pool {pool}' if pool else 'frames'}")
        values = np.stack([features.layer(layer) for layer in self.card.layers]).astype(np.float32)
        if features.times is None:
            prediction = self.of_outputs(self.outputs(values[:, None])[0], name)
        else:
            prediction = self.of_activation(self.outputs(values)[:, 0], features.times, name)
        return replace(prediction, warnings=tuple(features.meta.get("warnings", ())))

    def _of_audio(self, source: Any, encoder: Embedder) -> Prediction:
        recording = ArrayRecording(*source) if isinstance(source, tuple) else Recording(source)
        settings = self.settings(encoder)
        if settings.pool:
            features = next(encoder.features(iter([recording]), settings))
            prediction = self.of_outputs(self.outputs(features.values[:, None])[0], recording.name)
        else:  # frames are scored window by window: a long recording needs no memory
            pieces = [self.outputs(values_LTD)[:, 0] for _, values_LTD in encoder.frames(recording, settings)]
            logits_T = np.concatenate(pieces)
            prediction = self.of_activation(logits_T, encoder.clock.times(0, len(logits_T)), recording.name)
        return replace(prediction, warnings=tuple(recording.warnings), damaged=recording.damaged)

    def outputs(self, values_LTP: np.ndarray) -> np.ndarray:
        """Logits [T, C] of frames, or of one pooled row, float64: in float32, probabilities close to 1 would tie."""
        x = values_LTP.swapaxes(0, 1).astype(np.float32)  # [T, L, P], or of a single layer [T, P]
        try:
            x = x if self.card.layer == WEIGHTED else x[:, 0]
            x = (x - self.tensors["mean"]) / self.tensors["deviation"]
            return forward(self.tensors, x).astype(np.float64)
        except (ValueError, IndexError) as error:
            raise HeadError(self.source, f"its tensors do not fit the features ({error})", AGAIN) from None

    @property
    def _least(self) -> list[float]:
        """Those of the card; a head without any is sure of each class and event, and of tags from 0.5 on."""
        return self.card.least or ([0.5] * len(self.card.classes) if self.card.task == "multilabel" else [0.0])

    def of_outputs(self, logits_C: np.ndarray, name: str) -> Prediction:
        """The prediction for the logits [C] of a recording, or of a part of one."""
        classes, task = self.card.classes, self.card.task
        if task == "regression":
            mean, deviation = (self.tensors[f"target_{part}"].astype(np.float64) for part in ("mean", "deviation"))
            return Prediction(name, task, (), dict(zip(classes, (logits_C * deviation + mean).tolist(), strict=True)))
        if task == "classification":
            scores = dict(zip(classes, softmax(logits_C).tolist(), strict=True))
            best = max(scores, key=scores.__getitem__)
            return Prediction(name, task, (best,), scores, sure=scores[best] >= self._least[0])
        scores = dict(zip(classes, sigmoid(logits_C).tolist(), strict=True))
        tags = (tag for (tag, score), least in zip(scores.items(), self._least, strict=True) if score >= least)
        return Prediction(name, task, tuple(tags), scores)

    def of_activation(self, logits_T: np.ndarray, times_T: np.ndarray, name: str) -> Prediction:
        """The events in the logits [T] of frames at evenly spaced times; AudioError for a single frame."""
        if len(times_T) < 2:
            raise AudioError(name, "has a single frame", "give a longer recording")
        post, activation_T = self.card.tracking["post"] if self.card.tracking else "dbn", sigmoid(logits_T)
        events = pick_beats(activation_T, times_T, post)
        sure = len(events) > 0 and strength(activation_T, times_T, events) >= self._least[0]
        return Prediction(name, self.card.task, times=tuple(events.tolist()), sure=sure)


def forward(parameters: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Logits [T, C] of standardised rows [T, P], or [T, L, P] if layers are weighted: `probes.heads` without torch."""
    if "layers" in parameters:
        x = np.einsum("l,tlp->tp", softmax(parameters["layers"]), x)
    if "w1" in parameters:
        x = np.maximum(x @ parameters["w1"].T + parameters["b1"], 0)
    return x @ parameters["w2"].T + parameters["b2"]


def softmax(logits_C: np.ndarray) -> np.ndarray:
    """Probabilities that add up to 1.

    >>> softmax(np.array([1000.0, 1000.0])).tolist()
    [0.5, 0.5]
    """
    powers_C = np.exp(logits_C - logits_C.max())
    return powers_C / powers_C.sum()


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of each by itself.

    >>> sigmoid(np.array([-1e4, 0.0, 1e4])).tolist()
    [0.0, 0.5, 1.0]
    """
    return 0.5 * (1 + np.tanh(0.5 * logits))


def refuse_other(folder: Path) -> None:
    """OutputError if a folder exists and holds anything but a head, which saving would delete."""
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - {CARD, TENSORS}):
        raise OutputError(folder, "exists, and is not a head", "give another name")
