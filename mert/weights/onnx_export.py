"""Export of a model for onnxruntime: a graph with its weights, or a folder that embeds without torch.

Shapes: B clips, N samples, T frames, D model width, L layers.
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mert.errors import CheckpointError, need
from mert.files import sha256_file, write_json
from mert.models.interface import Network, NetworkConfig
from mert.models.onnx import OnnxModel
from mert.weights.arrays import read_arrays
from mert.weights.centres import HasCentres, carry_centres
from mert.weights.graphs.write import write_graph
from mert.weights.heads import carry_heads
from mert.weights.networks import GRAPH, INT8, description
from mert.weights.registry import ModelInfo

TOLERANCE = 1e-4  # of the larger of 1 and a layer's rms: other runtimes sum in other orders


class Exportable(HasCentres, Protocol):
    """A model, its record and the hash of its weights: an Embedder is one."""

    model: Any
    info: ModelInfo

    def look_again(self) -> str: ...


def export_folder(embedder: Exportable, folder: str | Path) -> Path:
    """Write model.onnx, model.int8.onnx and config.json, which describes them; returns the folder.

    Weights that a graph has no room for, from 2 GB on, are in model.onnx.data.

    config.json comes last and holds the hashes of the graphs: a folder that was not finished is refused when read.
    Centres and heads that came with the model go along. MertError if the extra [onnx] is not installed, OutputError if
    the disk refuses.
    """
    folder = Path(folder)
    sha256 = embedder.look_again()
    record = ModelInfo(**vars(embedder.info) | {"sha256": sha256})
    config, state = arrays_of(embedder.model)
    written = []
    for name, int8 in ((GRAPH, False), (INT8, True)):
        written += write_graph(config, state, _about(record), "--to onnx", int8).save(folder / name)
    files = {path.name: sha256_file(path) for path in written}
    carry_centres(embedder, folder, sha256)
    carry_heads(embedder, folder, sha256)
    write_json(folder / "config.json", description(config, record, files))
    return folder


def export_onnx(model: Network | OnnxModel, path: str | Path, info: ModelInfo | None = None) -> Path:
    """Write `path`, with batch and length free; input `wave` [B, N], output `states` [L, B, T, D]. Returns the path.

    The metadata of the file are name, licence and note of `info`. MertError if the extra is not installed, OutputError
    if the disk refuses.
    """
    write_graph(*arrays_of(model), _about(info) if info else {}, "--to onnx").save(Path(path))
    return Path(path)


def arrays_of(model: Network | OnnxModel) -> tuple[NetworkConfig, dict[str, np.ndarray]]:
    """Configuration and float32 weights of a module of torch, or of the files that a graph was made of."""
    if isinstance(model, OnnxModel):
        if isinstance(model.graph, Path):
            raise CheckpointError(model.source, "holds a graph already", "copy the folder")
        return model.config, read_arrays(model.source).state
    state: dict[str, Any] = model.state_dict()  # type: ignore[attr-defined]
    return model.config, {name: tensor.detach().float().cpu().numpy() for name, tensor in state.items()}


def check_onnx(model: Network, path: str | Path) -> float:
    """Largest difference of the file's states, run by onnxruntime, from the model's, in units of max(1, layer's rms).

    It runs two lengths, alone and as a batch. CheckpointError if the difference is over 1e-4.
    """
    import torch

    from mert.models.frontend import golden_wave, normalized

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


def _about(info: ModelInfo) -> dict[str, str]:
    return {"name": info.name, "licence": info.licence, "note": info.note}
