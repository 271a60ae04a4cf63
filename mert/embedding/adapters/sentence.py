"""A module of sentence-transformers: recordings in, a vector each out; saved as a folder that it loads by itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers.base.modules.input_module import InputModule

from mert.embedding.embedder import Embedder
from mert.embedding.load import load
from mert.files import read_json, write_json
from mert.weights.publish import save_pretrained

LAYER = "layer.json"


class RecordingModule(InputModule):
    """The mean over time of one layer, for paths of recordings and for dictionaries of `array` and `sampling_rate`.

    `SentenceTransformer(modules=[RecordingModule(mert.load("mert-nano"))])` encodes recordings; `save_pretrained`
    writes it as a folder that `SentenceTransformer(FOLDER, trust_remote_code=True)` loads where mert-hub is installed.
    """

    save_in_root = False

    def __init__(self, embedder: Embedder, layer: str | int = "recommended") -> None:
        super().__init__()
        self.embedder = embedder
        self.layer = embedder.names(embedder.settings(layers=[layer]))[0]  # its name, which a saved folder keeps

    @property
    def modalities(self) -> list[Any]:
        """Audio alone."""
        return ["audio"]

    def get_embedding_dimension(self) -> int:
        """The width of a vector."""
        return self.embedder.dim

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **_: Any) -> dict[str, Any]:
        """Recordings as `forward` takes them."""
        return {"recordings": [recording(item) for item in inputs]}

    def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Adds `sentence_embedding`, float32 [B, D]."""
        many = self.embedder.embed_many(features["recordings"], layers=[self.layer], pool="mean")
        vectors_BD = np.stack([each.values[0] for each in many])
        return features | {"sentence_embedding": torch.from_numpy(vectors_BD)}

    def save(self, output_path: str, *_: Any, **__: Any) -> None:
        """Write the model, and which layer of it, beside the files of sentence-transformers."""
        save_pretrained(self.embedder, Path(output_path))
        write_json(Path(output_path) / LAYER, {"layer": self.layer})

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **_: Any) -> RecordingModule:
        """Read what `save` wrote."""
        folder = Path(model_name_or_path) / subfolder
        return cls(load(folder), read_json(folder / LAYER)["layer"])


def recording(item: Any) -> Any:
    """A path or bytes as they are, and a dictionary of `array` and `sampling_rate` as both."""
    return (item["array"], item["sampling_rate"]) if isinstance(item, dict) else item
