"""Golden states: a test wave and the hidden states it must give, kept beside the weights; and `verify`, the check."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mert.errors import CheckpointError
from mert.models.frontend import golden_wave
from mert.weights.checkpoints import load_model, open_safetensors, write_tensors
from mert.weights.heads import check_heads

GOLDEN = "golden.safetensors"
TOLERANCE = 1e-5  # of the larger of 1 and a layer's rms


@dataclass(frozen=True)
class VerifyReport:
    """Result of `verify`: tensors, file hash, largest difference from the golden states (None without them), heads."""

    tensors: str
    sha256: str
    golden: float | None
    heads: tuple[str, ...] = ()

    def __str__(self) -> str:
        golden = "none" if self.golden is None else f"largest difference {self.golden:.1e}"
        heads = f", heads: {', '.join(self.heads)}" if self.heads else ""
        return f"{self.tensors}, sha256 {self.sha256[:12]}, golden: {golden}{heads}"


def write_golden(model: Any, folder: Path, sha256: str) -> None:
    """Write golden.safetensors for weights whose file has `sha256`."""
    wave_N = golden_wave(model.config.sample_rate)
    write_tensors(folder / GOLDEN, {"wave": wave_N, "states": _states(model, wave_N)}, {"sha256": sha256})


def verify(folder: str | Path) -> VerifyReport:
    """Check that weights load strictly, are finite, are those of the golden file, and give its states in float64.

    Heads beside them must have been fitted on them, and be whole.

    Float32 would be a weaker check: trained weights amplify its rounding, which differs between processors.
    A folder without golden.safetensors passes with `golden` None. CheckpointError names what fails.
    """
    folder = Path(folder)
    model, checkpoint, report = load_model(folder)
    heads = check_heads(folder, checkpoint.sha256)
    if not (folder / GOLDEN).is_file():
        return VerifyReport(report, checkpoint.sha256, None, heads)
    with open_safetensors(folder / GOLDEN) as file:
        wave_N, wanted_LTD = file.read("wave"), file.read("states")
        sha256 = file.objects.get("sha256", "nothing on record")
    if sha256 != checkpoint.sha256:
        reason = f"sha256 is {checkpoint.sha256}, {GOLDEN} belongs to {sha256}"
        raise CheckpointError(checkpoint.weights_file, reason, "restore the published files, or publish again")
    if wave_N.ndim != 1 or len(wave_N) < model.config.least_samples:
        raise CheckpointError(folder / GOLDEN, f"wave has shape {list(wave_N.shape)}", "publish again")
    states_LTD = _states(model, wave_N)
    if states_LTD.shape != wanted_LTD.shape:
        reason = f"states have shape {list(wanted_LTD.shape)}, the model gives {list(states_LTD.shape)}"
        raise CheckpointError(folder / GOLDEN, reason, "publish again")
    differences = (states_LTD - wanted_LTD).abs().amax((1, 2)).tolist()
    for layer, difference, wanted_TD in zip(model.config.layer_names, differences, wanted_LTD, strict=True):
        limit = TOLERANCE * max(1.0, float(wanted_TD.square().mean().sqrt()))
        if not difference <= limit:
            reason = f"{layer} differs from its golden state by {difference:.2e}, more than {limit:.2e}"
            raise CheckpointError(folder, reason, "restore the published files, or report it with your versions")
    return VerifyReport(report, checkpoint.sha256, max(differences), heads)


def _states(model: Any, wave_N: Tensor) -> Tensor:
    """All states [L, T, D], computed by a copy in float64."""
    with torch.inference_mode():
        return torch.cat(deepcopy(model).eval().double()(wave_N.double()[None])).float()
