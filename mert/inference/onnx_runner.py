"""OnnxRunner: what Runner is, by onnxruntime on the CPU; this page imports no torch.

Shapes: B waves of a batch, N samples, L layers, T frames, D model width.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mert.errors import UsageError, need
from mert.models.config import MertConfig
from mert.models.conformer.config import ConformerConfig
from mert.models.onnx import GraphInMemory, OnnxModel

DEVICES = ("auto", "cpu")


@dataclass(frozen=True)
class Cpu:
    """The device of onnxruntime here, spelled like torch's."""

    type: str = "cpu"

    def __str__(self) -> str:
        return self.type


def _of_mert(config: MertConfig, n_samples: int) -> int:
    """The first convolution with its norm and GELU."""
    return 3 * config.conv_dim * n_samples // config.conv_strides[0]


def _of_conformer(config: ConformerConfig, n_samples: int) -> int:
    """The spectrum with its parts, or the widest tensors of the subsampler."""
    wide = 4 * config.stage_dims[0] if config.stage_dims else config.conv_dim * config.n_mels // 4
    return n_samples // config.hop * max(2 * config.n_fft, 3 * wide)


FRONT_END_VALUES: dict[type, Callable[[Any, int], int]] = {  # at one time; by the class of configuration
    MertConfig: _of_mert, ConformerConfig: _of_conformer,
}  # fmt: skip


class OnnxRunner:
    """A graph on the CPU: `states` of waves, in float32 or with the int8 weights of an exported folder.

    Its graphs are opened when first used. UsageError for devices that onnxruntime is not used on here.
    """

    def __init__(self, model: OnnxModel, device: str = "auto") -> None:
        refuse_device(device)
        self.model, self.device = model, Cpu()
        onnxruntime = need("onnxruntime", "onnx", "a model without torch")
        self.name = f"onnxruntime {onnxruntime.__version__}"
        self._open: dict[str, Any] = {}

    @cached_property
    def threads(self) -> int:
        """Cores to compute on: OMP_NUM_THREADS, which torch respects too, or those that this process may use."""
        given = os.environ.get("OMP_NUM_THREADS", "")
        if given.isdecimal() and int(given):
            return int(given)
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    def n_frames(self, n_samples: int) -> int:
        """Frames that the model makes of `n_samples`."""
        config = self.model.config
        return (n_samples - config.receptive_field) // config.stride + 1

    def activation_bytes(self, n_samples: int) -> int:
        """Memory of a forward pass: the front end, or a block with its attention and all states."""
        config, n_frames = self.model.config, self.n_frames(n_samples)
        attention = 2 * config.n_heads * n_frames**2
        block = n_frames * (2 * config.ffn_dim + (8 + config.n_layers) * config.dim) + attention
        return 4 * max(FRONT_END_VALUES[type(config)](config, n_samples), block)

    def states(self, waves: Sequence[np.ndarray], dtype: str, layers: Sequence[int]) -> Iterator[np.ndarray]:
        """Float32 hidden states [L, T, D] of each wave [N]; waves of one length are a batch, as the graph has no mask.

        In int8 each is computed alone, because scales are computed over a whole batch.
        """
        graph = self._graph(dtype)
        batches: dict[object, list[int]] = {}
        for i, wave_N in enumerate(waves):
            batches.setdefault(i if dtype == "int8" else len(wave_N), []).append(i)
        results: dict[int, np.ndarray] = {}
        for rows in batches.values():
            (states_LBTD,) = graph.run(["states"], {"wave": np.stack([waves[i] for i in rows])})
            results |= {i: states_LBTD[list(layers), row] for row, i in enumerate(rows)}
        for i in range(len(waves)):
            yield results[i]

    def precision(self, dtype: str) -> str:
        """The type of the computation for a requested `dtype`: "auto" is float32; ValueError for what is not here."""
        if dtype == "auto":
            return "float32"
        if dtype == "int8" and self.model.int8 is None:
            raise ValueError("int8 needs a folder with model.int8.onnx: mert export MODEL FOLDER --to onnx")
        if dtype not in ("float32", "int8"):
            raise ValueError(f"onnxruntime computes in float32 or int8, not {dtype}: give float32, or install torch")
        return dtype

    def weights_state(self) -> tuple[tuple[int, int], ...]:
        """Nothing: the weights within a graph do not change."""
        return ()

    def forget(self) -> None:
        """Open the graphs again when they are needed next."""
        self._open.clear()

    def _graph(self, dtype: str) -> Any:
        if dtype not in self._open:
            self._open[dtype] = opened(self.model.int8 if dtype == "int8" and self.model.int8 else self.model.graph,
                                       self.threads)  # fmt: skip
        return self._open[dtype]


def refuse_device(name: str) -> None:
    """UsageError for devices that onnxruntime is not used on here."""
    if name not in DEVICES:
        remedy = "give auto or cpu, or load the model by its name where torch is installed"
        raise UsageError(f"device {name}", "onnxruntime runs models on the CPU here", remedy)


def opened(graph: GraphInMemory | Path, threads: int = 1) -> Any:
    """A session of onnxruntime on the CPU, whose threads sleep while they wait, as those of torch do here."""
    onnxruntime = need("onnxruntime", "onnx", "a model without torch")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if isinstance(graph, Path):
        return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    if graph.beside:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in graph.beside.values()]
        options.add_external_initializers(list(graph.beside), values)
    return onnxruntime.InferenceSession(graph.content, options, providers=["CPUExecutionProvider"])
