"""Operators of inference: fused ones of oneDNN on a CPU that has them; otherwise, and in other types, torch's own.

oneDNN is faster on many CPUs (see `mert.models.cpu`), and applies GELU or adds a residual while a result is cached.
Shapes: B clips, T frames, Q queries, S keys, K inputs, W taps, P = W K, O outputs, H heads, E width of a head, G heads
of clips.
"""

import os
import warnings
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mert.models.cpu import onednn

QUERIES_AT_ONCE = 512
SCORES_AT_ONCE = 5 << 19  # numbers that stay in the cache between the two products of attention


@cache
def has_bfloat16(device_type: str) -> bool:
    """Whether a device computes in bfloat16 natively: GPUs since Ampere, CPUs with AMX or AVX512_BF16."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    native = cpu_supports("_is_avx512_bf16_supported") or cpu_supports("_is_amx_tile_supported")
    return native and onednn_may_use("BF16", "FP16", "AMX")


@cache
def has_vnni() -> bool:
    """Whether products of 8 bits by 8 bits are summed in 32 bits, where older x86 CPUs overflow at 16."""
    return cpu_supports("_is_vnni_supported") and onednn_may_use("VNNI", "BF16", "FP16", "AMX")


def cpu_supports(query: str) -> bool:
    """The result of a query of torch.cpu; False in a torch version without it."""
    return bool(getattr(torch.cpu, query, lambda: False)())


def onednn_may_use(*names: str) -> bool:
    """Whether ONEDNN_MAX_CPU_ISA, which limits oneDNN, allows instructions of these names."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    return limit in ("ALL", "DEFAULT") or any(name in limit for name in names)


def arithmetic(dtype: torch.dtype, device_type: str) -> torch.dtype:
    """The type of computation for tensors stored in `dtype`: `dtype` itself, or float32 if a CPU would be slow in it.

    Results are rounded to `dtype` in both cases, so that they are close to those of native arithmetic.

    >>> arithmetic(torch.float16, "cpu"), arithmetic(torch.float16, "cuda"), arithmetic(torch.float64, "cpu")
    (torch.float32, torch.float16, torch.float64)
    """
    slow = dtype == torch.float16 or (dtype == torch.bfloat16 and not has_bfloat16("cpu"))
    return torch.float32 if device_type == "cpu" and slow else dtype


def fused(x: Tensor) -> bool:
    """Whether oneDNN's fused operators accept this tensor."""
    if x.device.type != "cpu" or onednn() is None:
        return False
    return x.dtype == torch.float32 or (x.dtype == torch.bfloat16 and has_bfloat16("cpu"))


def packs(x: Tensor) -> bool:
    """Whether weights for this tensor are stored in oneDNN's order; in float32 they stay shared with the model."""
    return x.dtype == torch.bfloat16 and fused(x)


def linear(
    x: Tensor, weight_OK: Tensor, bias_O: Tensor | None, gelu: bool = False, residual: Tensor | None = None,
    swish: bool = False,
) -> Tensor:  # fmt: skip
    """[..., K] -> [..., O] of the type of `x`: `x @ weight.T + bias`, then GELU, swish or plus `residual`.

    Computed in the type of the weights.

    >>> linear(torch.ones(2, 3), torch.ones(1, 3), torch.ones(1), residual=torch.ones(2, 1)).tolist()
    [[5.0], [5.0]]
    """
    if x.dtype != weight_OK.dtype:
        residual = None if residual is None else residual.to(weight_OK.dtype)
        return linear(x.to(weight_OK.dtype), weight_OK, bias_O, gelu, residual, swish).to(x.dtype)
    if not fused(x):
        y = F.linear(x, weight_OK, bias_O)
        return F.gelu(y) if gelu else F.silu(y) if swish else y if residual is None else y + residual
    operator = torch.ops.mkldnn._linear_pointwise
    if residual is not None:
        return operator.binary(x, residual, weight_OK, bias_O, "add")
    kind = "gelu" if gelu else "swish" if swish else "none"
    return operator(x, weight_OK, bias_O, kind, [], "none" if gelu else "")


def attention(q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor, valid_BT: Tensor | None) -> Tensor:
    """Softmax attention [B, H, T, E] of queries that are already scaled, over the valid frames, which come first.

    In bfloat16 on a CPU, two products per head over scores that stay in the cache take half the time of torch's
    attention; in float32 torch's is faster.
    """
    dtype = arithmetic(q_BHTE.dtype, q_BHTE.device.type)
    if dtype != q_BHTE.dtype:
        return attention(q_BHTE.to(dtype), k_BHTE.to(dtype), v_BHTE.to(dtype), valid_BT).to(q_BHTE.dtype)
    if dtype != torch.bfloat16 or not fused(q_BHTE):
        mask_B11T = None if valid_BT is None else valid_BT[:, None, None, :]
        return F.scaled_dot_product_attention(q_BHTE, k_BHTE, v_BHTE, attn_mask=mask_B11T, scale=1.0)
    if valid_BT is None:
        parts = (part.flatten(0, 1) for part in (q_BHTE, k_BHTE, v_BHTE))
        return attended(*parts).view_as(q_BHTE)
    clips = zip(q_BHTE, k_BHTE, v_BHTE, valid_BT.sum(1).tolist(), strict=True)
    return torch.stack([attended(q_HTE, k_HTE[:, :n], v_HTE[:, :n]) for q_HTE, k_HTE, v_HTE, n in clips])


def attended(q_GQE: Tensor, k_GSE: Tensor, v_GSE: Tensor) -> Tensor:
    """Attention of each of G heads in bfloat16, whose softmax sums in float32: [G, Q, E]."""
    out_GQE = torch.empty_like(q_GQE)
    n_queries = min(QUERIES_AT_ONCE, q_GQE.shape[1])
    n_heads = max(1, SCORES_AT_ONCE // (n_queries * k_GSE.shape[1]))
    for g in range(0, len(q_GQE), n_heads):
        heads = slice(g, g + n_heads)
        keys_GES, values_GES = k_GSE[heads].transpose(1, 2), v_GSE[heads].transpose(1, 2).contiguous()
        for q in range(0, q_GQE.shape[1], n_queries):
            queries = slice(q, q + n_queries)
            weights_GQS = torch.bmm(q_GQE[heads, queries], keys_GES).softmax(-1)
            out_GQE[heads, queries] = torch.bmm(weights_GQS, values_GES.transpose(1, 2))
    return out_GQE


def rounded(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight rounded to `dtype`, in the type of the computation."""
    return weight.detach().to(dtype).to(arithmetic(dtype, weight.device.type))


class Product:
    """A linear layer in `dtype`: [..., K] -> [..., O], then GELU, swish or plus a residual."""

    def __init__(self, weight_OK: Tensor, bias_O: Tensor | None, dtype: torch.dtype) -> None:
        self.weight_OK = rounded(weight_OK, dtype)
        self.bias_O = None if bias_O is None else rounded(bias_O, dtype)
        if packs(self.weight_OK):
            self.weight_OK = torch.ops.mkldnn._reorder_linear_weight(self.weight_OK)

    def __call__(self, x: Tensor, gelu: bool = False, residual: Tensor | None = None, swish: bool = False) -> Tensor:
        return linear(x, self.weight_OK, self.bias_O, gelu, residual, swish)


class ConvGelu:
    """GELU of a convolution over time, [B, T, K] -> [B, T', O], as one over images of height 1.

    In float32 oneDNN sums all taps in one chain, with three times the rounding error of `TapsGelu`.

    >>> ConvGelu(torch.ones(4, 2, 3), None, torch.float32, stride=2)(torch.ones(1, 6, 4)).shape
    torch.Size([1, 2, 4])
    """

    def __init__(
        self, weight_OKW: Tensor, bias_O: Tensor | None, dtype: torch.dtype, stride: int = 1, padding: int = 0
    ) -> None:
        self.steps, self.pads, self.n_inputs = [1, stride], [0, padding], weight_OKW.shape[1]
        self.bias_O = None if bias_O is None else rounded(bias_O, dtype)
        weight_OK1W = rounded(weight_OKW, dtype).unsqueeze(2)
        self.weight = weight_OK1W.contiguous(memory_format=torch.channels_last)
        self._dtype = weight_OK1W.dtype
        self._packed = False

    def __call__(self, x_BTK: Tensor) -> Tensor:
        if x_BTK.dtype != self._dtype:
            return self(x_BTK.to(self._dtype)).to(x_BTK.dtype)
        image_BK1T, groups = x_BTK.transpose(1, 2).unsqueeze(2), x_BTK.shape[2] // self.n_inputs
        if not fused(x_BTK):
            y_BO1T = F.gelu(F.conv2d(image_BK1T, self.weight, self.bias_O, self.steps, self.pads, 1, groups))
            return y_BO1T.squeeze(2).transpose(1, 2)
        if packs(x_BTK) and not self._packed:
            pack = torch._C._nn.mkldnn_reorder_conv2d_weight
            self.weight = pack(self.weight.to_mkldnn(), self.pads, self.steps, [1, 1], groups)
            self._packed = True
        operator, steps, pads = torch.ops.mkldnn._convolution_pointwise, self.steps, self.pads
        y_BO1T = operator(image_BK1T, self.weight, self.bias_O, pads, steps, [1, 1], groups, "gelu", [], "none")
        return y_BO1T.squeeze(2).transpose(1, 2)


class TapsGelu:
    """The same by one matrix product over copied taps: a little slower, and as exact as matrix products."""

    def __init__(self, weight_OKW: Tensor, dtype: torch.dtype, stride: int) -> None:
        self.n_taps, self.stride = weight_OKW.shape[2], stride
        self.weight_OP = rounded(weight_OKW, dtype).transpose(1, 2).flatten(1).contiguous()

    def __call__(self, x_BTK: Tensor) -> Tensor:
        taps_BTWK = x_BTK.unfold(1, self.n_taps, self.stride).transpose(2, 3)
        return linear(taps_BTWK.flatten(2), self.weight_OP, None, gelu=True)


class Int8Product:
    """A linear layer with 8-bit weights, one scale per output, and inputs [B, T, K] rounded to 8 bits clip by clip.

    It uses torch's quantised operators, on a CPU only; its output has the type of `x`. CPUs without VNNI get weights of
    seven bits: they sum two products of inputs up to 255 and weights up to 127 in 16 bits, which would overflow.

    >>> product = Int8Product(torch.eye(64), torch.zeros(64))
    >>> bool((product(torch.ones(1, 2, 64)) - 1).abs().max() < 0.02)
    True
    """

    def __init__(self, weight_OK: Tensor, bias_O: Tensor) -> None:
        scale_O = weight_OK.detach().float().abs().amax(1).clamp(min=1e-9) / (127 if has_vnni() else 63)
        zeros_O = torch.zeros_like(scale_O, dtype=torch.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch 2.13 deprecates quantised tensors without naming a replacement
            steps_OK = torch.quantize_per_channel(weight_OK.detach().float(), scale_O, zeros_O, 0, torch.qint8)
        before = torch.backends.quantized.engine
        try:
            if "onednn" in torch.backends.quantized.supported_engines:
                torch.backends.quantized.engine = "onednn"
            self._packed = torch.ops.quantized.linear_prepack(steps_OK, bias_O.detach().float())
        finally:
            torch.backends.quantized.engine = before

    def __call__(self, x: Tensor, gelu: bool = False, residual: Tensor | None = None) -> Tensor:
        multiply = torch.ops.quantized.linear_dynamic
        y = torch.stack([multiply(clip_TK.float(), self._packed) for clip_TK in x]).to(x.dtype)
        return F.gelu(y) if gelu else y if residual is None else y + residual
