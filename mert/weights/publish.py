"""Publishing a model: weights, model card and golden outputs in one folder, and the check that they belong together."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mert.errors import CheckpointError
from mert.files import write_whole
from mert.models.mert import Mert
from mert.models.waves import golden_wave
from mert.weights.card import model_card
from mert.weights.checkpoints import LoadReport, load_model, write_model, write_tensors
from mert.weights.registry import ModelInfo

GOLDEN = "golden.safetensors"
TOLERANCE = 1e-5  # of the larger of 1 and a layer's rms


class Publishable(Protocol):
    """A model and its record: an Embedder is one."""

    model: Mert
    info: ModelInfo


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found: tensors, file hash, and the largest difference from the golden states (None: no golden)."""

    tensors: LoadReport
    sha256: str
    golden: float | None

    def __str__(self) -> str:
        golden = "none" if self.golden is None else f"largest difference {self.golden:.1e}"
        return f"{self.tensors}, sha256 {self.sha256[:12]}, golden: {golden}"


def save_pretrained(embedder: Publishable, folder: str | Path, licence: str | None = None, half: bool = False) -> Path:
    """Write config.json, model.safetensors, README.md and golden.safetensors; returns the folder.

    `licence` is a hub licence id such as "cc-by-4.0"; by default it stays that of the loaded model. `half`
    stores the weights in fp16: half the size, and what is loaded (widened) is what the golden states are of.
    OutputError if the disk refuses.
    """
    folder = write_model(embedder.model, folder, torch.float16 if half else torch.float32)
    model, checkpoint, _ = load_model(folder)  # golden states come from what was written
    wave_N = golden_wave(model.config.sample_rate)
    golden = {"wave": wave_N, "states": _states(model, wave_N)}
    card = model_card(embedder.info, model, checkpoint.sha256, licence)
    with write_whole(folder / "README.md") as temporary:
        temporary.write_text(card, encoding="utf-8")
    write_tensors(folder / GOLDEN, golden, {"sha256": checkpoint.sha256})
    return folder


def verify(folder: str | Path) -> VerifyReport:
    """Check that weights load strictly, are finite, are those of the golden file, and still give its states in float64.

    Float32 would tell less: trained weights amplify its rounding, which differs from processor to processor.

    Raises CheckpointError that names what fails. A folder without golden.safetensors passes with `golden` None.
    """
    folder = Path(folder)
    model, checkpoint, report = load_model(folder)
    if not (folder / GOLDEN).is_file():
        return VerifyReport(report, checkpoint.sha256, None)
    wave_N, wanted_LTD, sha256 = _read_golden(folder / GOLDEN)
    if sha256 != checkpoint.sha256:
        reason = f"sha256 is {checkpoint.sha256}, {GOLDEN} was made with {sha256}"
        raise CheckpointError(checkpoint.weights_file, reason, "restore the published files, or publish again")
    if wave_N.ndim != 1 or len(wave_N) < model.config.receptive_field:
        raise CheckpointError(folder / GOLDEN, f"wave has shape {list(wave_N.shape)}", "publish again")
    states_LTD = _states(model, wave_N)
    if states_LTD.shape != wanted_LTD.shape:
        reason = f"states have shape {list(wanted_LTD.shape)}, the model gives {list(states_LTD.shape)}"
        raise CheckpointError(folder / GOLDEN, reason, "publish again")
    worst = 0.0
    for layer, got_TD, wanted_TD in zip(model.config.layer_names, states_LTD, wanted_LTD, strict=True):
        difference = float((got_TD - wanted_TD).abs().max())
        limit = TOLERANCE * max(1.0, float(wanted_TD.square().mean().sqrt()))
        if not difference <= limit:
            reason = f"{layer} differs from its golden state by {difference:.2e}, more than {limit:.2e}"
            raise CheckpointError(folder, reason, "restore the published files, or report it with your versions")
        worst = max(worst, difference)
    return VerifyReport(report, checkpoint.sha256, worst)


def _read_golden(path: Path) -> tuple[Tensor, Tensor, str]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            return file.get_tensor("wave"), file.get_tensor("states"), metadata.get("sha256", "nothing on record")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(path, f"cannot be read ({error})", "restore the published file") from error


def _states(model: Mert, wave_N: Tensor) -> Tensor:
    """All states [L, T, D], computed by a copy in float64."""
    with torch.inference_mode():
        return torch.cat(deepcopy(model).eval().double()(wave_N.double()[None])).float()
