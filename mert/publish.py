"""Publishing a model: weights, model card and golden outputs in one folder, and the check that they belong together."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mert.checkpoints import LoadReport, load_model, write_model, write_tensors
from mert.errors import CheckpointError
from mert.files import write_whole
from mert.forward import golden_wave
from mert.model import Mert
from mert.registry import ModelInfo

if TYPE_CHECKING:
    from mert.embed import Embedder

GOLDEN = "golden.safetensors"
TOLERANCE = 1e-5  # of the larger of 1 and a layer's rms

_CARD = """\
---
license: {licence}
library_name: mert-hub
tags: [music, audio, self-supervised, feature-extraction, MERT]
note: {note}
---
# {name}

{headline}A [MERT](https://arxiv.org/abs/2306.00107) music representation model: recordings in, hidden states out.

| | |
|---|---|
| parameters | {n_params:,} |
| sample rate | {sample_rate} Hz, mono |
| frame rate | {frame_rate:g} Hz |
| states | {n_states} of width {dim} (`embed`, `layer01` ... `{last}`) |
| default window | {window_s:g} s |
| windows normalised | {normalize} |
| sha256 of model.safetensors | `{sha256}` |
| licence | {licence} |

```python
import mert  # install from a checkout of mert-hub: pip install -e .

model = mert.load("path/to/this/folder")  # or its name on the hub
features = model.embed("song.mp3")  # features.values: [layer, time, width]
```

`golden.safetensors` holds an input and the states it must give: `mert.verify("path/to/this/folder")`.
"""


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found: tensors, file hash, and the largest difference from the golden states (None: no golden)."""

    tensors: LoadReport
    sha256: str
    golden: float | None

    def __str__(self) -> str:
        golden = "none" if self.golden is None else f"largest difference {self.golden:.1e}"
        return f"{self.tensors}, sha256 {self.sha256[:12]}, golden: {golden}"


def save_pretrained(embedder: Embedder, folder: str | Path, licence: str | None = None, half: bool = False) -> Path:
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


def model_card(info: ModelInfo, model: Mert, sha256: str, licence: str | None = None) -> str:
    """README.md: front matter for the hub, facts for people, and `info.note` in plain sight."""
    config = model.config
    return _CARD.format(
        name=info.name, licence=licence or info.licence.lower().replace(" ", "-"), note=json.dumps(info.note),
        headline=f"> **{info.note}**\n\n" if info.note else "", n_params=sum(p.numel() for p in model.parameters()),
        sample_rate=config.sample_rate, frame_rate=config.frame_rate, n_states=config.n_layers + 1, dim=config.dim,
        last=config.layer_names[-1], window_s=config.window_s, normalize="yes" if config.normalize else "no",
        sha256=sha256,
    )  # fmt: skip


def read_card(folder: Path) -> dict[str, str]:
    """The one-line entries of README.md's front matter; empty where there is none."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    _, opened, rest = text.partition("---\n")
    front, closed, _ = rest.partition("\n---")
    if not opened or not closed or text.partition("---\n")[0].strip():
        return {}
    pairs = (line.split(":", 1) for line in front.splitlines() if ":" in line and line[0] not in " #-")
    return {key.strip(): _unquote(value.strip()) for key, value in pairs}


def _unquote(value: str) -> str:
    try:
        return str(json.loads(value)) if value.startswith('"') else value.strip("'")
    except ValueError:
        return value


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
