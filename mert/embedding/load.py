"""`mert.load`: an Embedder by the name of its model."""

from pathlib import Path

from mert.embedding.embedder import Embedder
from mert.models import config as sizes
from mert.weights.hub import load_centres, load_weights
from mert.weights.registry import ModelInfo


def load(name_or_dir: str | Path, revision: str | None = None, device: str = "auto") -> Embedder:
    """A ready `Embedder`: from a folder or weights file, a registered name, or any "org/name" on the hub.

    Registered models come at their pinned revision unless `revision` says otherwise. Without torch, and from a folder
    that `mert export --to onnx` wrote, onnxruntime computes. CheckpointError for unknown names, failed downloads, wrong
    hashes, and whatever `read_checkpoint` refuses.
    """
    model, info = load_weights(name_or_dir, revision)
    return Embedder(model, info, info.sha256 or "", device, load_centres(name_or_dir, info))


def random_model(size: str = "nano", seed: int = 0) -> Embedder:
    """A MERT of a named size with random weights: untrained, for tests, demonstrations and as a baseline."""
    import torch

    from mert.models.mert import Mert
    from mert.weights.checkpoints import digest

    torch.manual_seed(seed)
    named = {"nano": sizes.nano, "95m": sizes.base_95m, "330m": sizes.large_330m}
    if size not in named:
        raise ValueError(f"size is one of {', '.join(named)}, not {size!r}")
    model = Mert(named[size]())
    info = ModelInfo.of(model, f"random-{size}", licence="Apache-2.0", note="random initialisation, untrained")
    return Embedder(model, info, digest(model))
