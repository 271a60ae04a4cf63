"""An encoder of mteb: `mteb.evaluate(MtebEncoder(mert.load("mert-nano")), tasks)` runs its audio tasks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta

from mert.embedding.embedder import Embedder


class MtebEncoder(AbsEncoder):
    """The mean over time of one layer, for the batches of `audio` (`array`, `sampling_rate`) that mteb gives."""

    def __init__(self, embedder: Embedder, layer: str = "recommended") -> None:
        self.model, self.layer = embedder, layer
        name, width, n_params = f"mert-hub/{embedder.info.name}", embedder.dim, embedder.info.n_params
        facts = {"name": name, "revision": embedder.sha256, "embed_dim": width, "n_parameters": n_params}
        self.mteb_model_meta = ModelMeta.create_empty(facts | {"modalities": ["audio"]})

    def encode(self, inputs: Iterable[dict[str, Any]], **_: Any) -> np.ndarray:
        """Vectors float32 [n, D] of all recordings of all batches."""
        items = ((item["array"], int(item["sampling_rate"])) for batch in inputs for item in batch["audio"])
        many = self.model.embed_many(items, layers=[self.layer], pool="mean")
        return np.stack([features.values[0] for features in many])
