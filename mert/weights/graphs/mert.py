"""The graph of a MERT: one operator per line of `Mert`.

    wave [B, N] --centred--> convolutions [B, C, T] --norm, linear--> [B, T, D] --blocks--> states [B, T, D]

Shapes: B clips, N samples, T frames, K taps, C conv channels, D model width, H heads, E = D / H.
"""

import numpy as np

from mert.models.config import MertConfig
from mert.weights.graphs.builder import GraphBuilder


def mert_states(graph: GraphBuilder, config: MertConfig) -> list[str]:
    """Nodes from the input `wave` to all hidden states [B, T, D], and the names of these."""
    wave_BN = graph.centred("wave")  # the first norm would subtract the mean with less precision
    if config.normalize:
        wave_BN = graph.unit_variance(wave_BN)
    x_BTC = _frontend(graph, config, wave_BN)
    x_BTD = graph.linear(graph.norm(x_BTC, "projection.norm", config.norm_eps), "projection.linear")
    x_BTD = graph("Add", x_BTD, _position(graph, config, x_BTD))
    states = [x_BTD if config.pre_norm else graph.norm(x_BTD, "encoder.norm", config.norm_eps)]
    for i in range(config.n_layers):
        states.append(_block(graph, config, states[-1], f"encoder.blocks.{i}"))
    if config.pre_norm:
        states[-1] = graph.norm(states[-1], "encoder.norm", config.norm_eps)
    return states


def _frontend(graph: GraphBuilder, config: MertConfig, wave_BN: str) -> str:
    """The convolutions, the first with its norm: [B, N] -> [B, T, C]."""
    x_BCT = graph("Unsqueeze", wave_BN, graph.integers(1))
    for i, stride in enumerate(config.conv_strides):
        x_BCT = graph("Conv", x_BCT, graph.weight(f"frontend.convs.{i}.weight"), strides=[stride])
        if i == 0:
            norm = (graph.weight(f"frontend.convs.0.norm.{what}") for what in ("weight", "bias"))
            x_BCT = graph("InstanceNormalization", x_BCT, *norm, epsilon=config.norm_eps)
        x_BCT = graph("Gelu", x_BCT)
    return graph.channels_first(x_BCT)


def _position(graph: GraphBuilder, config: MertConfig, x_BTD: str) -> str:
    """The positional convolution, its weight norm folded in; one frame less of padding where the kernel is even."""
    conv = "encoder.position.conv"
    direction = graph.state[f"{conv}.parametrizations.weight.original1"].astype(np.float64)
    length_11K = graph.state[f"{conv}.parametrizations.weight.original0"]
    weight = direction * (length_11K / np.sqrt((direction**2).sum((0, 1), keepdims=True)))
    half, even = config.position_kernel // 2, 1 - config.position_kernel % 2
    x_BDT = graph(
        "Conv", graph.channels_first(x_BTD),
        graph.constant(f"{conv}.weight", weight.astype(np.float32)), graph.weight(f"{conv}.bias"),
        group=config.position_groups, pads=[half, half - even],
    )  # fmt: skip
    return graph.channels_first(graph("Gelu", x_BDT))


def _block(graph: GraphBuilder, config: MertConfig, x_BTD: str, name: str) -> str:
    """Attention and feed-forward with residuals, each preceded or followed by its norm."""

    def feed_forward(x_BTD: str) -> str:
        return graph.linear(graph("Gelu", graph.linear(x_BTD, f"{name}.ffn.up")), f"{name}.ffn.down")

    def norm(x_BTD: str, part: str) -> str:
        return graph.norm(x_BTD, f"{name}.{part}", config.norm_eps)

    if config.pre_norm:
        x_BTD = graph("Add", x_BTD, _attention(graph, config, norm(x_BTD, "attention_norm"), name))
        return graph("Add", x_BTD, feed_forward(norm(x_BTD, "ffn_norm")))
    x_BTD = norm(graph("Add", x_BTD, _attention(graph, config, x_BTD, name)), "attention_norm")
    return norm(graph("Add", x_BTD, feed_forward(x_BTD)), "ffn_norm")


def _attention(graph: GraphBuilder, config: MertConfig, x_BTD: str, name: str) -> str:
    """Self-attention of H heads over all frames: [B, T, D] -> [B, T, D]."""
    width = config.dim // config.n_heads
    qkv_BTX = graph.linear(x_BTD, *(f"{name}.attention.{part}" for part in ("query", "key", "value")))
    q_BHTE, k_BHTE, v_BHTE = graph.heads(qkv_BTX, 3, config.n_heads, width)
    mixed_BHTE = graph.attended(q_BHTE, k_BHTE, v_BHTE, width)
    return graph.linear(graph.merged(mixed_BHTE, config.dim), f"{name}.attention.out")
