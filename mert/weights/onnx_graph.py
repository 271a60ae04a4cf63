"""The ONNX graph of a MERT, written from its configuration and weights: no torch, and one operator per line of Mert.

    wave [B, N] --normalised--> convolutions [B, C, T] --norm, linear--> [B, T, D] --blocks--> states [L, B, T, D]

Shapes: B clips, N samples, T frames, K taps, C conv channels, D model width, H heads, E = D / H, L layers.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mert.errors import need
from mert.models.config import MertConfig

OPSET, IR_VERSION = 20, 9  # the first with Gelu; onnxruntime reads them from 1.17 on


def write_graph(config: MertConfig, state: Mapping[str, np.ndarray], about: Mapping[str, str], asked_for: str) -> Any:
    """A `ModelProto` with the weights (float32, under our names) inside; `about` becomes the file's metadata.

    MertError about `asked_for` if the package onnx is not installed.
    """
    onnx = need("onnx", "onnx", asked_for)
    graph = _Graph(onnx.helper, state)
    x_BTD = _frontend(graph, config, _normalized(graph, config))
    x_BTD = graph.linear(graph.norm(x_BTD, "projection.norm", config), "projection.linear")
    states = _encoder(graph, config, x_BTD)
    rows = [graph("Unsqueeze", state_BTD, graph.constant("first", np.array([0]))) for state_BTD in states]
    graph("Concat", *rows, axis=0, output="states")
    kinds = onnx.helper.make_tensor_value_info
    float32 = onnx.TensorProto.FLOAT
    made = onnx.helper.make_graph(
        graph.nodes, "mert", [kinds("wave", float32, ["batch", "samples"])],
        [kinds("states", float32, [config.n_layers + 1, "batch", "frames", config.dim])],
        [onnx.numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
    )  # fmt: skip
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    model = onnx.helper.make_model(made, opset_imports=opsets, ir_version=IR_VERSION, producer_name="mert-hub")
    onnx.helper.set_model_props(model, dict(about))
    return model


class _Graph:
    """Nodes and constants as they are added; a call adds a node and returns the name of its output."""

    def __init__(self, helper: Any, state: Mapping[str, np.ndarray]) -> None:
        self.helper, self.state = helper, state
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def __call__(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(self.helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, name: str, array: np.ndarray) -> str:
        self.constants[name] = np.asarray(array, order="C")
        return name

    def weight(self, name: str) -> str:
        return self.constant(name, self.state[name])

    def linear(self, x: str, *layers: str) -> str:
        """The linear layers side by side: [..., K] -> [..., N]."""
        weight_KN = np.concatenate([self.state[f"{layer}.weight"] for layer in layers]).T
        bias_N = np.concatenate([self.state[f"{layer}.bias"] for layer in layers])
        product = self("MatMul", x, self.constant(f"{layers[0]}.weight", weight_KN))
        return self("Add", product, self.constant(f"{layers[0]}.bias", bias_N))

    def norm(self, x: str, layer: str, config: MertConfig) -> str:
        parameters = self.weight(f"{layer}.weight"), self.weight(f"{layer}.bias")
        return self("LayerNormalization", x, *parameters, epsilon=config.norm_eps)


def _normalized(graph: _Graph, config: MertConfig) -> str:
    """The wave without its mean (the first norm would subtract it with less precision), of variance 1 if configured."""
    time = graph.constant("time", np.array([1]))
    wave_BN = graph("Sub", "wave", graph("ReduceMean", "wave", time))
    if not config.normalize:
        return wave_BN
    power_B1 = graph("ReduceMean", graph("Mul", wave_BN, wave_BN), time)
    power_B1 = graph("Add", power_B1, graph.constant("least_power", np.array(1e-7, np.float32)))
    return graph("Div", wave_BN, graph("Sqrt", power_B1))


def _frontend(graph: _Graph, config: MertConfig, wave_BN: str) -> str:
    """The convolutions, the first with its norm: [B, N] -> [B, T, C]."""
    x_BCT = graph("Unsqueeze", wave_BN, "time")
    for i, stride in enumerate(config.conv_strides):
        x_BCT = graph("Conv", x_BCT, graph.weight(f"frontend.convs.{i}.weight"), strides=[stride])
        if i == 0:
            norm = (graph.weight(f"frontend.convs.0.norm.{what}") for what in ("weight", "bias"))
            x_BCT = graph("InstanceNormalization", x_BCT, *norm, epsilon=config.norm_eps)
        x_BCT = graph("Gelu", x_BCT)
    return graph("Transpose", x_BCT, perm=[0, 2, 1])


def _encoder(graph: _Graph, config: MertConfig, x_BTD: str) -> list[str]:
    """All hidden states [B, T, D]."""
    x_BTD = graph("Add", x_BTD, _position(graph, config, x_BTD))
    states = [x_BTD if config.pre_norm else graph.norm(x_BTD, "encoder.norm", config)]
    for i in range(config.n_layers):
        states.append(_block(graph, config, states[-1], f"encoder.blocks.{i}"))
    if config.pre_norm:
        states[-1] = graph.norm(states[-1], "encoder.norm", config)
    return states


def _position(graph: _Graph, config: MertConfig, x_BTD: str) -> str:
    """The positional convolution, its weight norm folded in; one frame less of padding where the kernel is even."""
    conv = "encoder.position.conv"
    direction = graph.state[f"{conv}.parametrizations.weight.original1"].astype(np.float64)
    length_11K = graph.state[f"{conv}.parametrizations.weight.original0"]
    weight = direction * (length_11K / np.sqrt((direction**2).sum((0, 1), keepdims=True)))
    half, even = config.position_kernel // 2, 1 - config.position_kernel % 2
    x_BDT = graph(
        "Conv", graph("Transpose", x_BTD, perm=[0, 2, 1]),
        graph.constant(f"{conv}.weight", weight.astype(np.float32)), graph.weight(f"{conv}.bias"),
        group=config.position_groups, pads=[half, half - even],
    )  # fmt: skip
    return graph("Transpose", graph("Gelu", x_BDT), perm=[0, 2, 1])


def _block(graph: _Graph, config: MertConfig, x_BTD: str, name: str) -> str:
    """Attention and feed-forward with residuals, each preceded or followed by its norm."""

    def feed_forward(x_BTD: str) -> str:
        return graph.linear(graph("Gelu", graph.linear(x_BTD, f"{name}.ffn.up")), f"{name}.ffn.down")

    attended, ffn_norm = f"{name}.attention_norm", f"{name}.ffn_norm"
    if config.pre_norm:
        x_BTD = graph("Add", x_BTD, _attention(graph, config, graph.norm(x_BTD, attended, config), name))
        return graph("Add", x_BTD, feed_forward(graph.norm(x_BTD, ffn_norm, config)))
    x_BTD = graph.norm(graph("Add", x_BTD, _attention(graph, config, x_BTD, name)), attended, config)
    return graph.norm(graph("Add", x_BTD, feed_forward(x_BTD)), ffn_norm, config)


def _attention(graph: _Graph, config: MertConfig, x_BTD: str, name: str) -> str:
    """Self-attention of H heads over all frames: [B, T, D] -> [B, T, D]."""
    width = config.dim // config.n_heads
    qkv_BTX = graph.linear(x_BTD, *(f"{name}.attention.{part}" for part in ("query", "key", "value")))
    split = graph.constant("split", np.array([0, 0, 3, config.n_heads, width]))
    qkv_3BHTE = graph("Transpose", graph("Reshape", qkv_BTX, split), perm=[2, 0, 3, 1, 4])
    q_BHTE, k_BHTE, v_BHTE = (
        graph("Gather", qkv_3BHTE, graph.constant(f"part{i}", np.array(i)), axis=0) for i in range(3)
    )
    scaled = graph("Mul", q_BHTE, graph.constant("scale", np.array(width**-0.5, np.float32)))
    scores_BHTT = graph("MatMul", scaled, graph("Transpose", k_BHTE, perm=[0, 1, 3, 2]))
    mixed_BHTE = graph("MatMul", graph("Softmax", scores_BHTT, axis=-1), v_BHTE)
    merged = graph.constant("merged", np.array([0, 0, config.dim]))
    mixed_BTD = graph("Reshape", graph("Transpose", mixed_BHTE, perm=[0, 2, 1, 3]), merged)
    return graph.linear(mixed_BTD, f"{name}.attention.out")
