"""The subsamplers of the conformers in a graph, from frames of a log-mel to a quarter of them; their convolutions.

Shapes: B clips, L mel frames, M mels, T frames, C channels, D model width, K taps.
"""

from collections.abc import Callable, Mapping

import numpy as np

from mert.models.conformer.config import CONVNEXT_EPS, NORM_EPS, ConformerConfig
from mert.weights.graphs.builder import GraphBuilder


def depthwise(
    graph: GraphBuilder, x_BTC: str, name: str, kernel_C1K: np.ndarray, bias_C: np.ndarray | None = None
) -> str:
    """A convolution over time of each channel for itself, with zeros at both ends: [B, T, C] -> [B, T, C]."""
    weights = [graph.constant(f"{name}.weight", kernel_C1K)]
    if bias_C is not None:
        weights.append(graph.constant(f"{name}.bias", bias_C))
    channels, _, taps = kernel_C1K.shape
    y_BCT = graph("Conv", graph.channels_first(x_BTC), *weights, group=channels, pads=[taps // 2, taps // 2])
    return graph.channels_first(y_BCT)


def folded(
    state: Mapping[str, np.ndarray], weight: np.ndarray, batch_norm: str, bias_C: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of a convolution that does what it and the batch norm behind it do, computed in float64."""
    names = (f"{batch_norm}.{what}" for what in ("weight", "bias", "running_mean", "running_var"))
    scale, shift, mean, variance = (state[name].astype(np.float64) for name in names)
    scale = scale / np.sqrt(variance + NORM_EPS)
    offset = -mean if bias_C is None else bias_C - mean
    shaped = scale.reshape(-1, *[1] * (weight.ndim - 1))
    return (weight * shaped).astype(np.float32), (shift + offset * scale).astype(np.float32)


def _convnext(graph: GraphBuilder, config: ConformerConfig, mel_BLM: str) -> str:
    """Three stages of ConvNeXt layers; before all but the first, half the frames: an odd last one is lost."""
    x_BTC = mel_BLM
    for i, depth in enumerate(config.stage_depths):
        stage = f"subsampler.stages.{i}"
        if i > 0:
            normed_BCT = graph.channels_first(graph.norm(x_BTC, f"{stage}.norm", CONVNEXT_EPS))
            halve = (graph.weight(f"{stage}.halve.{what}") for what in ("weight", "bias"))
            x_BTC = graph.channels_first(graph("Conv", normed_BCT, *halve, strides=[2]))
        for layer in range(depth):
            x_BTC = _convnext_layer(graph, x_BTC, f"{stage}.layers.{layer}")
    return x_BTC


def _convnext_layer(graph: GraphBuilder, x_BTC: str, name: str) -> str:
    """Depthwise convolution, norm, and a wide layer with a response norm, added to the input."""
    kernel_C1K, bias_C = (graph.state[f"{name}.depthwise.{what}"] for what in ("weight", "bias"))
    y_BTC = graph.norm(depthwise(graph, x_BTC, f"{name}.depthwise", kernel_C1K, bias_C), f"{name}.norm", CONVNEXT_EPS)
    wide = graph("Gelu", graph.linear(y_BTC, f"{name}.up"))
    return graph("Add", x_BTC, graph.linear(_response_normed(graph, wide, f"{name}.response"), f"{name}.down"))


def _response_normed(graph: GraphBuilder, x_BTC: str, name: str) -> str:
    """Each channel times its share of the energy over time, added to itself."""
    norm_B1C = graph("ReduceL2", x_BTC, graph.integers(1))
    mean_B11 = graph("ReduceMean", norm_B1C, graph.integers(2))
    share_B1C = graph("Div", norm_B1C, graph("Add", mean_B11, graph.number(CONVNEXT_EPS)))
    gain_B1C = graph("Add", graph("Mul", share_B1C, graph.weight(f"{name}.weight")), graph.number(1.0))
    return graph("Add", graph("Mul", x_BTC, gain_B1C), graph.weight(f"{name}.bias"))


def _residual(graph: GraphBuilder, config: ConformerConfig, mel_BLM: str) -> str:
    """Two modules of 2-D convolutions over the log-mel as an image, and a linear layer."""
    x_BCMT = graph("Unsqueeze", graph.channels_first(mel_BLM), graph.integers(1))
    for i in range(2):
        x_BCMT = _residual_module(graph, x_BCMT, f"subsampler.stages.{i}")
    height = (config.n_mels + 3) // 4  # half of half, rounded up
    columns_BTCM = graph("Transpose", x_BCMT, perm=[0, 3, 1, 2])
    flat_BTX = graph("Reshape", columns_BTCM, graph.integers(0, 0, config.conv_dim * height))
    return graph.linear(flat_BTX, "subsampler.linear")


def _residual_module(graph: GraphBuilder, x_BCMT: str, name: str) -> str:
    """Two 3 x 3 convolutions beside a third, each with its batch norm; half the mels and frames, rounded up."""

    def convolved(x_BCMT: str, i: int, stride: int) -> str:
        kernel, bias_C = (graph.state[f"{name}.conv{i}.{what}"] for what in ("weight", "bias"))
        kernel, bias_C = folded(graph.state, kernel, f"{name}.norm{i}", bias_C)
        weights = graph.constant(f"{name}.conv{i}.weight", kernel), graph.constant(f"{name}.conv{i}.bias", bias_C)
        return graph("Conv", x_BCMT, *weights, strides=[stride, stride], pads=[1, 1, 1, 1])

    y_BCMT = convolved(graph("Relu", convolved(x_BCMT, 1, stride=2)), 2, stride=1)
    return graph("Relu", graph("Add", y_BCMT, convolved(x_BCMT, 3, stride=2)))


SUBSAMPLERS: dict[str, Callable[[GraphBuilder, ConformerConfig, str], str]] = {
    "convnext": _convnext, "residual": _residual,
}  # fmt: skip
