"""MERT models as encoders.

Shapes: N samples, L layers.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mert.embedding.embedder import Embedder
from probes.encoders.encoder import Encoder, EncoderFacts


class MertEncoder(Encoder):
    """A MERT model: each window goes through it in one pass (context "window"), or in windows of its training context
    (context "training"), computed in `dtype`.

    >>> import mert
    >>> encoder = MertEncoder(mert.random_model("nano"))
    >>> next(encoder.pooled([np.ones(24_000, np.float32)])).shape
    (7, 256)
    """

    def __init__(self, embedder: Embedder, context: str = "window", dtype: str = "float32") -> None:
        if context not in ("window", "training"):
            raise ValueError(f'context is "window" or "training", not {context!r}')
        self.embedder = embedder
        self._settings = {"context": context, "dtype": embedder.settings(dtype=dtype).dtype}
        super().__init__(self._facts(), self.frames)

    def _facts(self) -> EncoderFacts:
        embedder, config = self.embedder, self.embedder.model.config
        canonical = json.dumps(dataclasses.asdict(config), sort_keys=True).encode()
        return EncoderFacts(
            embedder.info.name, embedder.sha256, embedder.sample_rate, embedder.frame_rate, embedder.layer_names,
            embedder.dim, "mean", float(embedder.clock.times(0, 1)[0]), config.normalize,
            revision=embedder.info.revision, config=hashlib.sha256(canonical).hexdigest(), **self._settings,
        )  # fmt: skip

    def identify(self) -> EncoderFacts:
        """The facts with the identity of the weights as they are now."""
        self.embedder.look_again()
        self.facts = self._facts()
        return self.facts

    def frames(self, wave_N: np.ndarray, window_s: float | None = None) -> np.ndarray:
        rate_hz, window = self.facts.sample_rate, self._window(window_s)
        return self.embedder.embed(wave_N, sr=rate_hz, window=window, dtype=self.facts.dtype).values

    def pooled(self, waves: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        pairs = [(wave_N, self.facts.sample_rate) for wave_N in waves]
        options: dict[str, Any] = {"pool": "mean", "window": self._window(None), "dtype": self.facts.dtype}
        size = 4 if self.facts.context == "window" else "auto"
        for features in self.embedder.embed_many(pairs, batch_size=size, **options):
            yield features.values

    def times(self, n_frames: int) -> np.ndarray:
        return self.embedder.clock.times(0, n_frames)

    def _window(self, window_s: float | None) -> float | str | None:
        return None if self.facts.context == "training" else window_s or "whole"
