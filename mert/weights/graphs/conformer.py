"""The graph of a conformer: one operator per line of `Conformer`, with batch norms folded into convolutions.

    wave [B, N] --log-mel--> [B, L, M] --subsampler--> [B, T, D] --blocks--> states [B, T, D]

Shapes: B clips, N samples, L mel frames, F bins, M mels, T frames, D model width, H heads, E = D / H.
"""

import math

import numpy as np

from mert.models.conformer.config import NORM_EPS, POWER_FLOOR, ROPE_BASE, ConformerConfig
from mert.weights.graphs.builder import GraphBuilder
from mert.weights.graphs.subsamplers import SUBSAMPLERS, depthwise, folded

Table = tuple[str, str]  # cosines and sines of rotary positions, [T, E / 2]


def conformer_states(graph: GraphBuilder, config: ConformerConfig) -> list[str]:
    """Nodes from the input `wave` to all hidden states [B, T, D], and the names of these."""
    wave_BN = graph.unit_variance(graph.centred("wave")) if config.normalize else "wave"
    mel_BLM = _log_mel(graph, config, wave_BN)
    states = [SUBSAMPLERS[config.subsampler](graph, config, mel_BLM)]
    table = _rotations(graph, config, states[0])
    for i in range(config.n_layers):
        states.append(_block(graph, config, states[-1], table, f"blocks.{i}"))
    if config.last_norm:
        states[-1] = graph.norm(states[-1], "norm", NORM_EPS)
    return states


def _log_mel(graph: GraphBuilder, config: ConformerConfig, wave_BN: str) -> str:
    """Decibels of mel bands, normalised: [B, N] -> [B, N // hop, M].

    At the end the wave is continued by as many samples as the last of N // hop frames reads, and no more.
    """
    before = config.n_fft // 2
    after = config.n_fft - before - config.hop
    padded_BN = graph("Pad", wave_BN, graph.integers(0, before, 0, max(0, after)), mode="reflect")
    if after < 0:  # with a hop of over half a window
        padded_BN = graph("Slice", padded_BN, graph.integers(0), graph.integers(after), graph.integers(1))
    hop, length = (graph.constant(f"{what} in samples", np.array(n)) for what, n in
                   (("hop", config.hop), ("window", config.n_fft)))  # fmt: skip
    spectrum_BLF2 = graph("STFT", padded_BN, hop, graph.weight("frontend.window"), length, onesided=1)
    power_BLF = graph("ReduceSumSquare", spectrum_BLF2, graph.integers(-1), keepdims=0)
    power_BLM = graph("MatMul", power_BLF, graph.weight("frontend.filters"))
    nepers_BLM = graph("Log", graph("Max", power_BLM, graph.number(POWER_FLOOR)))
    decibel_BLM = graph("Mul", nepers_BLM, graph.number(10 / math.log(10)))
    return graph("Div", graph("Sub", decibel_BLM, graph.weight("frontend.mean")), graph.weight("frontend.std"))


def _rotations(graph: GraphBuilder, config: ConformerConfig, x_BTD: str) -> Table:
    """Cosines and sines of rotary positions, for as many frames as there are."""
    width = config.dim // config.n_heads
    exponent_E = -np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    inverse_E = (ROPE_BASE ** exponent_E.astype(np.float64)).astype(np.float32)
    zero, one = (graph.constant(f"index {i}", np.array(i)) for i in (0, 1))
    n_frames = graph("Squeeze", graph("Shape", x_BTD, start=1, end=2))
    time_T = graph("Cast", graph("Range", zero, n_frames, one), to=graph.float32)
    angle_TE = graph("Mul", graph("Unsqueeze", time_T, graph.integers(1)), graph.constant("inverse", inverse_E))
    return graph("Cos", angle_TE), graph("Sin", angle_TE)


def _block(graph: GraphBuilder, config: ConformerConfig, x_BTD: str, table: Table, name: str) -> str:
    """Half a feed-forward, attention, convolution, another half, each added to the stream; then a norm."""

    def norm(x_BTD: str, part: str) -> str:
        return graph.norm(x_BTD, f"{name}.{part}", NORM_EPS)

    def half_feed_forward(x_BTD: str, part: str) -> str:
        wide = _activated(graph, config, graph.linear(norm(x_BTD, f"{part}_norm"), f"{name}.{part}.up"))
        return graph.linear(wide, f"{name}.{part}.down", scale=0.5)

    x_BTD = graph("Add", x_BTD, half_feed_forward(x_BTD, "ffn1"))
    x_BTD = graph("Add", x_BTD, _attention(graph, config, norm(x_BTD, "attention_norm"), table, f"{name}.attention"))
    x_BTD = graph("Add", x_BTD, _convolution(graph, config, norm(x_BTD, "conv.norm"), f"{name}.conv"))
    x_BTD = graph("Add", x_BTD, half_feed_forward(x_BTD, "ffn2"))
    return norm(x_BTD, "last_norm")


def _attention(graph: GraphBuilder, config: ConformerConfig, x_BTD: str, table: Table, name: str) -> str:
    """Self-attention with rotary positions of the projected queries and keys, or of the states before them."""
    n_heads, width = config.n_heads, config.dim // config.n_heads
    query, key, value = (f"{name}.{part}" for part in ("query", "key", "value"))
    if config.rope == "projections":
        q_BHTE, k_BHTE, v_BHTE = graph.heads(graph.linear(x_BTD, query, key, value), 3, n_heads, width)
        q_BHTE, k_BHTE = _rotated(graph, q_BHTE, table), _rotated(graph, k_BHTE, table)
    else:
        (placed_BHTE,) = (_rotated(graph, x_BHTE, table) for x_BHTE in graph.heads(x_BTD, 1, n_heads, width))
        placed_BTD = graph.merged(placed_BHTE, config.dim)
        q_BHTE, k_BHTE = graph.heads(graph.linear(placed_BTD, query, key), 2, n_heads, width)
        (v_BHTE,) = graph.heads(graph.linear(x_BTD, value), 1, n_heads, width)
    mixed_BHTE = graph.attended(q_BHTE, k_BHTE, v_BHTE, width)
    return graph.linear(graph.merged(mixed_BHTE, config.dim), f"{name}.out")


def _rotated(graph: GraphBuilder, x_BHTE: str, table: Table) -> str:
    """Heads turned by their positions: the two halves of each head are the coordinates of its planes."""
    cos_TE, sin_TE = table
    a_BHTE, b_BHTE = graph.several(2, "Split", x_BHTE, axis=-1, num_outputs=2)
    turned_a = graph("Sub", graph("Mul", a_BHTE, cos_TE), graph("Mul", b_BHTE, sin_TE))
    turned_b = graph("Add", graph("Mul", b_BHTE, cos_TE), graph("Mul", a_BHTE, sin_TE))
    return graph("Concat", turned_a, turned_b, axis=-1)


def _convolution(graph: GraphBuilder, config: ConformerConfig, x_BTD: str, name: str) -> str:
    """Gated pointwise layer, depthwise convolution, norm, activation, pointwise layer."""
    values_BTD, gates_BTD = graph.several(2, "Split", graph.linear(x_BTD, f"{name}.expand"), axis=-1, num_outputs=2)
    gated_BTD = graph("Mul", values_BTD, graph("Sigmoid", gates_BTD))
    kernel = graph.state[f"{name}.depthwise.weight"]
    if config.conv_norm == "batch":
        y_BTD = depthwise(graph, gated_BTD, f"{name}.depthwise", *folded(graph.state, kernel, f"{name}.middle_norm"))
    else:
        y_BTD = depthwise(graph, gated_BTD, f"{name}.depthwise", kernel)
        y_BTD = graph.norm(y_BTD, f"{name}.middle_norm", NORM_EPS)
    return graph.linear(_activated(graph, config, y_BTD), f"{name}.contract")


def _activated(graph: GraphBuilder, config: ConformerConfig, x: str) -> str:
    """Exact GELU, or swish."""
    return graph("Gelu", x) if config.activation == "gelu" else graph("Mul", x, graph("Sigmoid", x))
