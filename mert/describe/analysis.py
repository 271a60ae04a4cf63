"""What a set of heads predicts from the frames of one pass over a recording, as a whole and in parts.

Shapes: L layers, T frames, D model width, P width of a head's input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mert.audio.loudness import Loudness
from mert.audio.recording import Recording
from mert.describe.description import RESERVED, Description, Section
from mert.describe.head import CARD, HeadError, SavedHead
from mert.describe.predictions import Prediction
from mert.embedding.batching import Settings
from mert.embedding.embedder import Embedder
from mert.embedding.features import Pooling
from mert.errors import UsageError


class HeadSet:
    """Heads by name that read the same frames of one encoder, so that one pass over a recording serves all of them."""

    def __init__(self, heads: Mapping[str, SavedHead], encoder: Embedder) -> None:
        self.heads, self.encoder = dict(heads), encoder
        each = [head.settings(encoder) for head in heads.values()]
        numbers = tuple(sorted({layer for settings in each for layer in settings.layers}))
        dtype = "float32" if "float32" in {settings.dtype for settings in each} else each[0].dtype
        self.settings = replace(each[0], layers=numbers, pool=None, dtype=dtype)
        first = next(iter(heads.values())).source
        for head, settings in zip(heads.values(), each, strict=True):
            if settings.windowing != each[0].windowing:
                remedy = "fit it again on features that were embedded in those windows"
                raise HeadError(head.source, f"reads other windows than {first}", remedy)
            if not serves(dtype, settings.dtype):
                reason = f"was fitted on features in {settings.dtype}, and other heads read them in {dtype}"
                raise HeadError(head.source, reason, f"fit it again on features of mert embed --dtype {dtype}")
        self._sha256 = encoder.sha256
        held = encoder.names(self.settings)
        self.rows = {name: [held.index(layer) for layer in head.card.layers] for name, head in heads.items()}

    @property
    def pooled(self) -> dict[str, SavedHead]:
        """Those that read a mean over time."""
        return {name: head for name, head in self.heads.items() if head.card.task != "frames"}

    @property
    def framewise(self) -> dict[str, SavedHead]:
        """Those that find events."""
        return {name: head for name, head in self.heads.items() if head.card.task == "frames"}

    def identity(self) -> dict[str, str]:
        """A SHA-256 of all of each head, by name: with the encoder it tells whether a description is up to date."""
        return {name: head.identity for name, head in sorted(self.heads.items())}

    def check(self) -> None:
        """HeadError if the encoder's weights are no longer those that the heads were fitted on."""
        if self.encoder.look_again() != self._sha256:
            for head in self.heads.values():
                head.settings(self.encoder)


def serves(dtype: str, fitted: str) -> bool:
    """Whether features in one precision are as good for a head that was fitted in another.

    float32 is nearer to what bfloat16 and float16 round; int8 has other weights.

    >>> serves("float32", "bfloat16"), serves("bfloat16", "float32"), serves("float32", "int8")
    (True, False, False)
    """
    return dtype == fitted or (dtype == "float32" and fitted in ("bfloat16", "float16"))


def frames_of(every_s: float | None, frame_rate: float) -> int | None:
    """Frames of a section; UsageError for one that is shorter than a frame, or no length."""
    if every_s is None:
        return None
    if not (math.isfinite(every_s) and every_s * frame_rate >= 1):
        raise UsageError(f"every={every_s:g}", "is no length of a section", f"give at least {1 / frame_rate:.3f} s")
    return round(every_s * frame_rate)


def load_heads(folders: Sequence[str | Path]) -> dict[str, SavedHead]:
    """The heads in some folders, by the names of their own folders; each may be a head itself, or hold several.

    UsageError for a folder without any, for two heads of one name, and for names that mean something else.
    """
    heads: dict[str, SavedHead] = {}
    for folder in map(Path, folders):
        found = [folder] if (folder / CARD).exists() else sorted(path.parent for path in folder.glob(f"[!.]*/{CARD}"))
        if not found:
            raise UsageError(folder, "holds no head", "give a folder that `mert probe fit -o` wrote, or one of several")
        for path in found:
            name = path.resolve().name
            if name in RESERVED:
                raise UsageError(path, "has a name that descriptions use for something else", "rename the folder")
            if name in heads:
                raise UsageError(path, f"is the second head named {name}", "rename one of the two folders")
            heads[name] = SavedHead.load(path)
    return heads


class Analysis:
    """Takes the frames of one recording in order, and gives its description in the end.

    `every_s` is the length of a section (None: no sections); a last one that is shorter than half of it is part of the
    one before. It is made before the recording is read, whose loudness it measures.
    """

    def __init__(
        self, heads: HeadSet, recording: Recording, every_s: float | None = None,
        on_block: Callable[[np.ndarray], None] = lambda wave_N: None,
    ) -> None:  # fmt: skip
        self._heads, self._recording = heads, recording
        self._per_section = frames_of(every_s, heads.encoder.frame_rate)
        self._n_frames = 0
        self._whole = Pooling("meanstd")
        self._sections: list[Pooling] = []
        self._logits: dict[str, list[np.ndarray]] = {name: [] for name in heads.framewise}
        self._loudness = Loudness()
        recording.on_samples, recording.on_block = self._loudness.add, on_block

    def add(self, values_LTD: np.ndarray) -> None:
        """Take the next frames."""
        self._whole.add(values_LTD)
        for name, head in self._heads.framewise.items():
            self._logits[name].append(head.outputs(values_LTD[self._heads.rows[name]])[:, 0])
        if self._per_section:
            self._add_to_sections(values_LTD, self._per_section)
        self._n_frames += values_LTD.shape[1]

    def _add_to_sections(self, values_LTD: np.ndarray, per_section: int) -> None:
        start = 0
        while start < values_LTD.shape[1]:
            number, within = divmod(self._n_frames + start, per_section)
            stop = start + per_section - within
            if number == len(self._sections):
                self._sections.append(Pooling("meanstd"))
            self._sections[number].add(values_LTD[:, start:stop])
            start = stop

    def description(self) -> Description:
        """The description, once all frames were added."""
        events = {name: self._events(name, head) for name, head in self._heads.framewise.items()}
        named = self._named(self._whole) | events
        recording, encoder = self._recording, self._heads.encoder
        predictions = {name: named[name] for name in self._heads.heads}
        parts = self._parts()
        if recording.silent:
            predictions = unsure(predictions)
            parts = [replace(part, predictions=unsure(part.predictions)) for part in parts]
        return Description(
            recording.name, encoder.info.name, recording.seconds, recording.silent, self._loudness.lufs,
            predictions, tuple(parts), tuple(recording.warnings),
        )  # fmt: skip

    def _named(self, pooling: Pooling) -> dict[str, Prediction]:
        """What the pooled heads predict."""
        values_LP = pooling.result()
        width = values_LP.shape[1] // 2
        found = {}
        for name, head in self._heads.pooled.items():
            end = width if head.card.features["pool"] == "mean" else 2 * width
            logits_1C = head.outputs(values_LP[self._heads.rows[name], None, :end])
            found[name] = head.of_outputs(logits_1C[0], self._recording.name)
        return found

    def _events(self, name: str, head: SavedHead) -> Prediction:
        logits_T = np.concatenate(self._logits[name])
        if len(logits_T) < 2:
            return Prediction(self._recording.name, "frames", times=(), sure=False)
        return head.of_activation(logits_T, self._heads.encoder.clock.times(0, len(logits_T)), self._recording.name)

    def _parts(self) -> list[Section]:
        parts, end_s = self._sections, self._recording.seconds
        if not parts or not self._per_section:
            return []
        length_s = self._per_section / self._heads.encoder.frame_rate
        if len(parts) > 1 and end_s - length_s * (len(parts) - 1) < length_s / 2:
            parts = [*parts[:-2], parts[-2].joined(parts[-1])]
        edges_s = [number * length_s for number in range(len(parts))] + [end_s]
        return [Section(edges_s[i], edges_s[i + 1], self._named(part)) for i, part in enumerate(parts)]


def unsure(predictions: Mapping[str, Prediction]) -> dict[str, Prediction]:
    """Predictions for a recording in which nothing sounds: no class, tag or event is sure, whatever its score."""
    return {
        name: replace(prediction, labels=() if prediction.task == "multilabel" else prediction.labels, sure=False)
        for name, prediction in predictions.items()
    }


def describe(
    heads: HeadSet, recording: Recording, settings: Settings, every_s: float | None = None,
    on_block: Callable[[np.ndarray], None] = lambda wave_N: None,
) -> Description:  # fmt: skip
    """The description of one recording, read once; `on_block` is called with its blocks of samples."""
    analysis = Analysis(heads, recording, every_s, on_block)
    for _, values_LTD in heads.encoder.frames(recording, settings):
        analysis.add(values_LTD)
    return analysis.description()
