"""Centres that come with a model: the mean vector of each layer over music at large, the origin of similarities.

Shapes: D model width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from mert.errors import CheckpointError
from mert.weights.checkpoints import open_safetensors, write_tensors

CENTRES = "centres.safetensors"


def write_centres(folder: str | Path, centres: Mapping[str, np.ndarray], sha256: str) -> Path:
    """Write `centres.safetensors` beside weights whose file has `sha256`: [D] by the name of each layer."""
    path = Path(folder) / CENTRES
    tensors = {layer: torch.tensor(np.asarray(centre_D), dtype=torch.float64) for layer, centre_D in centres.items()}
    write_tensors(path, tensors, {"sha256": sha256})
    return path


def read_centres(path: Path, sha256: str | None, width: int) -> dict[str, np.ndarray]:
    """Float64 centres [D] by layer; CheckpointError for those of other weights, or of another width."""
    with open_safetensors(path) as file:
        if (of := file.objects.get("sha256")) != sha256:
            raise CheckpointError(path, f"belongs to weights with sha256 {of}", "remove it, or restore the weights")
        centres = {layer: file.read(layer).double().numpy() for layer in file.shapes}
    for layer, centre_D in centres.items():
        if centre_D.shape != (width,) or not np.isfinite(centre_D).all():
            raise CheckpointError(path, f"the centre of {layer} is not {width} finite numbers", "download it again")
    return centres
