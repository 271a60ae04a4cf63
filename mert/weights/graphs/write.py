"""The ONNX graph of a model, written from its configuration and weights, without torch.

A family is entered in `STATES`. Shapes: B clips, N samples, T frames, D model width, L layers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mert.errors import need
from mert.files import write_whole
from mert.models.config import MertConfig
from mert.models.conformer.config import ConformerConfig
from mert.models.interface import NetworkConfig
from mert.models.onnx import GraphInMemory
from mert.weights.graphs.builder import GraphBuilder
from mert.weights.graphs.conformer import conformer_states
from mert.weights.graphs.mert import mert_states

OPSET, IR_VERSION = 20, 9  # the first with Gelu; onnxruntime reads them from 1.17 on
MOST_BYTES = 2_000_000_000  # of weights within a graph: protobuf has room for 2 GiB in all
PAGE_BYTES = 4096  # tensors in a file of their own begin at multiples, so that they can be mapped
STATES: dict[type, Callable[[GraphBuilder, Any], list[str]]] = {  # by the class of configuration
    MertConfig: mert_states, ConformerConfig: conformer_states,
}  # fmt: skip


@dataclass(frozen=True)
class Graph:
    """A `ModelProto`, and the weights that it has no room for, by their names in it."""

    model: Any
    beside: Mapping[str, np.ndarray]

    def in_memory(self) -> GraphInMemory:
        """The graph as onnxruntime opens it."""
        return GraphInMemory(self.model.SerializeToString(), self.beside)

    def save(self, path: Path) -> list[Path]:
        """Write the graph, and to NAME.data what it has no room for; returns the files. OutputError for a full disk."""
        data = data_file(path)
        data.unlink(missing_ok=True)  # of a larger model that this one takes the place of
        if self.beside:
            self._save_beside(data)
        with write_whole(path) as temporary:
            temporary.write_bytes(self.model.SerializeToString())
        return [path, data] if self.beside else [path]

    def _save_beside(self, data: Path) -> None:
        outside = {tensor.name: tensor for tensor in self.model.graph.initializer if tensor.name in self.beside}
        with write_whole(data) as temporary, temporary.open("wb") as file:
            for name, array in self.beside.items():
                file.seek(-(-file.tell() // PAGE_BYTES) * PAGE_BYTES)
                places = {"location": data.name, "offset": file.tell(), "length": array.nbytes}
                del outside[name].external_data[:]
                for key, value in places.items():
                    outside[name].external_data.add(key=key, value=str(value))
                file.write(array.data)


def data_file(graph: Path) -> Path:
    """Where the weights lie that a graph has no room for."""
    return graph.with_name(f"{graph.name}.data")


def write_graph(
    config: NetworkConfig, state: Mapping[str, np.ndarray], about: Mapping[str, str], asked_for: str, int8: bool = False
) -> Graph:
    """The graph with the weights (float32, under our names; `int8` rounds those of linear layers) inside.

    `about` becomes the file's metadata. MertError about `asked_for` if the package onnx is not installed.
    """
    onnx = need("onnx", "onnx", asked_for)
    graph = GraphBuilder(onnx, state, int8)
    states = STATES[type(config)](graph, config)
    rows = [graph("Unsqueeze", state_BTD, graph.integers(0)) for state_BTD in states]
    graph.nodes.append(onnx.helper.make_node("Concat", rows, ["states"], axis=0))
    beside = dict[str, np.ndarray]()
    if sum(array.nbytes for array in graph.constants.values()) > MOST_BYTES:
        beside = {name: array for name, array in graph.constants.items() if array.nbytes >= PAGE_BYTES}
    kinds, float32 = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    made = onnx.helper.make_graph(
        graph.nodes, config.family, [kinds("wave", float32, ["batch", "samples"])],
        [kinds("states", float32, [config.n_layers + 1, "batch", "frames", config.dim])],
        [_outside(onnx, name, array) if name in beside else onnx.numpy_helper.from_array(array, name)
         for name, array in graph.constants.items()],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    model = onnx.helper.make_model(made, opset_imports=opsets, ir_version=IR_VERSION, producer_name="mert-hub")
    onnx.helper.set_model_props(model, dict(about))
    return Graph(model, beside)


def _outside(onnx: Any, name: str, array: np.ndarray) -> Any:
    """A tensor without its values, which are given to onnxruntime when it opens the graph, or saved to a file."""
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor = onnx.TensorProto(name=name, data_type=kind, dims=array.shape, data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="in memory")
    return tensor
