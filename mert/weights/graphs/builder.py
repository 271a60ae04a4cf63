"""GraphBuilder: the nodes and constants of an ONNX graph as they are added, and the layers that all families share.

Shapes: B clips, N samples, T frames, D model width, H heads, E = D / H, P parts side by side; K inputs and X outputs of
a layer.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

INT8_LEVELS = 64  # to either side: seven bits of the eight, as more overflow on CPUs with AVX2 alone


class GraphBuilder:
    """Nodes and constants as they are added; a call adds a node and returns the name of its output.

    `state` are the weights, float32 under our names. With `int8` the weights of linear layers are rounded, with a scale
    for each output, and their inputs as they come, with one scale for the whole tensor.
    """

    def __init__(self, onnx: Any, state: Mapping[str, np.ndarray], int8: bool = False) -> None:
        self.onnx, self.state, self.int8 = onnx, state, int8
        self.float32 = onnx.TensorProto.FLOAT
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def __call__(self, operator: str, *inputs: str, **attributes: Any) -> str:
        return self.several(1, operator, *inputs, **attributes)[0]

    def several(self, n: int, operator: str, *inputs: str, **attributes: Any) -> list[str]:
        """A node with `n` outputs, and their names."""
        outputs = [f"{operator.lower()}{len(self.nodes)}_{i}" for i in range(n)]
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, outputs, **attributes))
        return outputs

    def constant(self, name: str, array: np.ndarray) -> str:
        """A constant under a name of its own: the same name is the same values."""
        self.constants[name] = np.asarray(array, order="C")
        return name

    def number(self, value: float) -> str:
        """A float32 scalar."""
        return self.constant(f"number {value!r}", np.array(value, np.float32))

    def integers(self, *values: int) -> str:
        """Integers [n]: axes, shapes, pads."""
        return self.constant(f"integers {values}", np.array(values, np.int64))

    def weight(self, name: str) -> str:
        """The tensor of this name among the weights."""
        return self.constant(name, self.state[name])

    def centred(self, wave_BN: str) -> str:
        """A wave without its mean."""
        return self("Sub", wave_BN, self("ReduceMean", wave_BN, self.integers(1)))

    def unit_variance(self, centred_BN: str) -> str:
        """A wave of mean 0 over its standard deviation."""
        power_B1 = self("ReduceMean", self("Mul", centred_BN, centred_BN), self.integers(1))
        return self("Div", centred_BN, self("Sqrt", self("Add", power_B1, self.number(1e-7))))

    def linear(self, x: str, *layers: str, scale: float = 1.0) -> str:
        """The linear layers side by side, times `scale`, with biases where they have any: [..., K] -> [..., X]."""
        weight_KX = scale * np.concatenate([self.state[f"{layer}.weight"] for layer in layers]).T
        product = self._product(x, f"{layers[0]}.weight", weight_KX)
        if f"{layers[0]}.bias" not in self.state:
            return product
        bias_X = scale * np.concatenate([self.state[f"{layer}.bias"] for layer in layers])
        return self("Add", product, self.constant(f"{layers[0]}.bias", bias_X))

    def _product(self, x: str, name: str, weight_KX: np.ndarray) -> str:
        if not self.int8:
            return self("MatMul", x, self.constant(name, weight_KX))
        scale_X = np.abs(weight_KX).max(0) / INT8_LEVELS
        scale_X[scale_X == 0] = 1
        rounded_KX = np.rint(weight_KX / scale_X).astype(np.int8)
        input_int8, input_scale, input_zero = self.several(3, "DynamicQuantizeLinear", x)
        product = self("MatMulInteger", input_int8, self.constant(name, rounded_KX), input_zero)
        scale = self("Mul", input_scale, self.constant(f"{name}.scale", scale_X))
        return self("Mul", self("Cast", product, to=self.float32), scale)

    def norm(self, x: str, layer: str, epsilon: float) -> str:
        """The layer norm over the last axis."""
        parameters = self.weight(f"{layer}.weight"), self.weight(f"{layer}.bias")
        return self("LayerNormalization", x, *parameters, epsilon=epsilon)

    def channels_first(self, x_BTD: str) -> str:
        """[B, T, D] -> [B, D, T], and back."""
        return self("Transpose", x_BTD, perm=[0, 2, 1])

    def heads(self, x_BTX: str, parts: int, n_heads: int, width: int) -> list[str]:
        """The parts of a tensor, X = P D, each as heads [B, H, T, E]."""
        split_BTPHE = self("Reshape", x_BTX, self.integers(0, 0, parts, n_heads, width))
        parts_PBHTE = self("Transpose", split_BTPHE, perm=[2, 0, 3, 1, 4])
        places = (self.constant(f"part {i}", np.array(i)) for i in range(parts))
        return [self("Gather", parts_PBHTE, place, axis=0) for place in places]

    def merged(self, x_BHTE: str, dim: int) -> str:
        """Heads side by side again: [B, T, D]."""
        return self("Reshape", self("Transpose", x_BHTE, perm=[0, 2, 1, 3]), self.integers(0, 0, dim))

    def attended(self, q_BHTE: str, k_BHTE: str, v_BHTE: str, width: int) -> str:
        """Values of all frames, weighted by the softmax of scaled scores: [B, H, T, E]."""
        scaled = self("Mul", q_BHTE, self.number(width**-0.5))
        scores_BHTT = self("MatMul", scaled, self("Transpose", k_BHTE, perm=[0, 1, 3, 2]))
        return self("MatMul", self("Softmax", scores_BHTT, axis=-1), v_BHTE)
