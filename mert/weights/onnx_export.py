"""Export of a MERT as an ONNX file for other runtimes: waves of one length in, all hidden states out.

Shapes: B clips, N samples, T frames, C conv channels, D model width, L layers.
"""

import logging
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mert.errors import CheckpointError, need
from mert.files import write_whole
from mert.models.frontend import golden_wave, normalized
from mert.models.mert import Mert
from mert.weights.registry import ModelInfo

TOLERANCE = 1e-4  # of the larger of 1 and a layer's rms: other runtimes sum in other orders


class Portable(nn.Module):
    """A Mert in operators that every runtime has: wave [B, N] -> states [L, B, T, D]; it normalises windows itself."""

    def __init__(self, model: Mert) -> None:
        super().__init__()
        self.model = deepcopy(model).eval()
        self.model.encoder.position.conv = folded(model.encoder.position.conv)

    def forward(self, wave_BN: Tensor) -> Tensor:
        model: Any = self.model
        wave_BN = wave_BN - wave_BN.mean(1, keepdim=True)  # the first norm would subtract it with less precision
        if model.config.normalize:
            wave_BN = wave_BN / (wave_BN.square().mean(1, keepdim=True) + 1e-7).sqrt()
        first, *rest = model.frontend.convs
        x_BCT = F.conv1d(wave_BN.unsqueeze(1), first.weight, stride=first.stride)
        x_BCT = F.gelu(F.instance_norm(x_BCT, weight=first.norm.weight, bias=first.norm.bias, eps=first.eps))
        for conv in rest:
            x_BCT = F.gelu(F.conv1d(x_BCT, conv.weight, stride=conv.stride))
        return torch.stack(model.encode(x_BCT.transpose(1, 2)))


def folded(conv: nn.Conv1d) -> nn.Conv1d:
    """A copy of a convolution with its weight norm folded in. (Torch's own remover would change the model.)"""
    plain = nn.Conv1d(
        conv.in_channels, conv.out_channels, conv.kernel_size[0], padding=conv.padding[0], groups=conv.groups
    )
    plain.load_state_dict({"weight": conv.weight.detach(), "bias": cast(Tensor, conv.bias).detach()})
    return plain


def export_onnx(model: Mert, path: str | Path, info: ModelInfo | None = None) -> Path:
    """Write `path`, with batch and length free; input `wave` [B, N], output `states` [L, B, T, D]. Returns the path.

    The metadata of the file are name, licence and note of `info`. MertError if the extra is not installed, OutputError
    if the disk refuses.
    """
    need("onnxscript", "onnx", "--to onnx")  # torch's exporter imports it
    portable = Portable(model)
    example_BN = torch.zeros(2, model.config.sample_rate)
    free = {"wave_BN": {0: torch.export.Dim("batch"), 1: torch.export.Dim("samples", min=model.config.receptive_field)}}
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of operators of absent packages
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            portable, (example_BN,), dynamo=True, dynamic_shapes=free, verbose=False,
            input_names=["wave"], output_names=["states"],
        )  # fmt: skip
    assert program is not None
    for node in program.model.graph:
        node.metadata_props.clear()  # stack traces, with the paths of this machine
    if info:
        program.model.metadata_props.update(name=info.name, licence=info.licence, note=info.note)
    with write_whole(Path(path)) as temporary:
        program.save(str(temporary), external_data=False)
    return Path(path)


def check_onnx(model: Mert, path: str | Path) -> float:
    """Largest difference of the file's states, run by onnxruntime, from the model's, in units of max(1, layer's rms).

    It runs two lengths, alone and as a batch. CheckpointError if the difference is over 1e-4.
    """
    session = need("onnxruntime", "onnx", "--check").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wave_N = np.tile(golden_wave(model.config.sample_rate).numpy(), 2)
    worst = 0.0
    for clips in ([wave_N], [wave_N[:9_000], wave_N[20_000:29_000]]):
        (got_LBTD,) = session.run(["states"], {"wave": np.stack(clips)})
        inputs = [normalized(clip_N) for clip_N in clips] if model.config.normalize else clips
        with torch.inference_mode():
            wanted = model(torch.from_numpy(np.stack(inputs)))
        for got_BTD, wanted_BTD in zip(torch.from_numpy(got_LBTD), wanted, strict=True):
            scale = max(1.0, float(wanted_BTD.square().mean().sqrt()))
            worst = max(worst, float((got_BTD - wanted_BTD).abs().max()) / scale)
    if not worst <= TOLERANCE:
        raise CheckpointError(path, f"states differ by {worst:.1e}, more than {TOLERANCE:g}", "report your versions")
    return worst
