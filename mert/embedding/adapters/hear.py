"""HEAR's three functions (hearbenchmark.com), as its validator and evaluation call them by the name of this module.

Shapes: B sounds, N samples, T frames, D model width.
"""

import torch
from torch import Tensor, nn

from mert.embedding.embedder import Embedder
from mert.embedding.load import load

RATE_HZ = 48_000  # HEAR gives sounds at 16, 22.05, 32, 44.1 or 48 kHz: this one is twice that of most models here


class HearModel(nn.Module):
    """A model as HEAR asks for it: one layer of an Embedder, for sounds at `sample_rate`."""

    def __init__(self, embedder: Embedder, layer: str) -> None:
        super().__init__()
        self.embedder, self.layer, self.sample_rate = embedder, layer, RATE_HZ
        self.scene_embedding_size = self.timestamp_embedding_size = embedder.dim


def load_model(model_file_path: str = "") -> HearModel:
    """The model of a name or folder (`mert-nano` by default) with its recommended layer."""
    embedder = load(model_file_path or "mert-nano")
    return HearModel(embedder, embedder.recommended_layer)


def get_timestamp_embeddings(audio: Tensor, model: HearModel) -> tuple[Tensor, Tensor]:
    """Frames [B, T, D] of sounds [B, N], and the centres [B, T] of the frames in milliseconds."""
    sounds = ((wave_N, model.sample_rate) for wave_N in audio.cpu().numpy())
    found = list(model.embedder.embed_many(sounds, layers=[model.layer]))
    frames_BTD = torch.stack([torch.from_numpy(features.values[0]) for features in found])
    times_BT = torch.stack([torch.from_numpy(1000 * features.times) for features in found])  # type: ignore[operator]
    return frames_BTD.to(audio.device), times_BT.float().to(audio.device)


def get_scene_embeddings(audio: Tensor, model: HearModel) -> Tensor:
    """Vectors [B, D] of sounds [B, N]: means over time."""
    vectors_BD = model.embedder.encode(audio.cpu().numpy(), sr=model.sample_rate, layer=model.layer)
    return torch.from_numpy(vectors_BD).to(audio.device)
