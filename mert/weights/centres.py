"""Centres that come with a model: the mean vector of each layer over music at large, the origin of similarities.

Shapes: D model width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from safetensors import SafetensorError, safe_open

from mert.errors import CheckpointError
from mert.weights.arrays import write_arrays

CENTRES = "centres.safetensors"


class HasCentres(Protocol):
    """A model whose layers may have centres: an Embedder is one."""

    layer_names: tuple[str, ...]

    def centre(self, layer: str) -> np.ndarray | None: ...


def write_centres(folder: str | Path, centres: Mapping[str, np.ndarray], sha256: str) -> Path:
    """Write `centres.safetensors` beside weights whose file has `sha256`: [D] by the name of each layer."""
    path = Path(folder) / CENTRES
    arrays = {layer: np.asarray(centre_D, np.float64) for layer, centre_D in centres.items()}
    write_arrays(path, arrays, {"sha256": sha256})
    return path


def read_centres(path: Path, sha256: str | None, width: int) -> dict[str, np.ndarray]:
    """Float64 centres [D] by layer; CheckpointError for those of other weights, or of another width."""
    try:
        with safe_open(path, framework="np") as file:
            of = (file.metadata() or {}).get("sha256")
            centres = {layer: file.get_tensor(layer).astype(np.float64) for layer in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise CheckpointError(path, f"cannot be read ({error})", "download it again") from None
    if of != sha256:
        raise CheckpointError(path, f"belongs to weights with sha256 {of}", "remove it, or restore the weights")
    for layer, centre_D in centres.items():
        if centre_D.shape != (width,) or not np.isfinite(centre_D).all():
            raise CheckpointError(path, f"the centre of {layer} is not {width} finite numbers", "download it again")
    return centres


def carry_centres(model: HasCentres, folder: Path, sha256: str) -> None:
    """Write the centres that came with a model into a folder that holds its weights, rounded or not, with `sha256`."""
    found = {layer: model.centre(layer) for layer in model.layer_names}
    if centres := {layer: centre_D for layer, centre_D in found.items() if centre_D is not None}:
        write_centres(folder, centres, sha256)
