"""Linear layers and convolutions that train fast on a CPU; on other devices they are torch's own.

On x86, torch sends float32 matrix products to MKL; on CPUs that are not Intel's, oneDNN, which ships with torch, is
more than twice as fast. Training uses oneDNN. Inference stays with torch's choice, which rounds a little better.
Shapes: M rows, K inputs, N outputs; for convolutions B clips, T frames, C input and O output channels, K taps.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

ROWS_AT_ONCE = 8192  # of a weight gradient's products: enough to be fast, few enough to be small


@cache
def onednn() -> Callable[..., Tensor] | None:
    """oneDNN's linear operator, which torch.compile uses as well; None where torch was built without it."""
    one = torch.ones(1, 1)
    try:
        operator: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise
        operator(one, one, None, "none", [], "")
    except (AttributeError, RuntimeError):
        return None
    return operator


def matmul(a_MK: Tensor, b_KN: Tensor) -> Tensor:
    """[M, K] @ [K, N] -> [M, N] in float32."""
    operator = onednn() if a_MK.device.type == "cpu" else None
    if operator is None:
        return a_MK @ b_KN
    return operator(dense(a_MK), dense(b_KN).T, None, "none", [], "")


def dense(matrix: Tensor) -> Tensor:
    """The matrix, copied unless it or its transpose is contiguous: oneDNN is hundreds of times slower with gaps."""
    return matrix if matrix.is_contiguous() or matrix.T.is_contiguous() else matrix.contiguous()


def trains_on_cpu(x: Tensor) -> bool:
    """Whether `x` is float32 on a CPU with gradients enabled, outside autocast and torch.compile."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


class Linear(nn.Linear):
    """torch's Linear, [..., K] -> [..., N], faster to train on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() > 1 and x.numel() and trains_on_cpu(x) and onednn():
            return OneDnnLinear.apply(x, self.weight, self.bias)
        return F.linear(x, self.weight, self.bias)


class OneDnnLinear(torch.autograd.Function):
    """x [..., K], weight [N, K], bias [N] -> [..., N]; oneDNN computes the result and both gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_NK: Tensor, bias_N: Tensor | None) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight_NK)
        operator = onednn()
        assert operator
        return operator(x, weight_NK, bias_N, "none", [], "")

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_NK = ctx.saved_tensors
        gradient_MN = gradient.flatten(0, -2)
        x_gradient = matmul(gradient_MN, weight_NK).view(x.shape) if ctx.needs_input_grad[0] else None
        weight_gradient = matmul(gradient_MN.T, x.flatten(0, -2)) if ctx.needs_input_grad[1] else None
        bias_gradient = gradient_MN.sum(0) if ctx.needs_input_grad[2] else None
        return x_gradient, weight_gradient, bias_gradient


def conv(x_BTC: Tensor, weight_OCK: Tensor, stride: int, fast: bool) -> Tensor:
    """Unpadded convolution over time without a bias: [B, T, C] -> [B, T', O].

    Channels-last order halves the time of the longest layers, but oneDNN then sums all taps in one chain, with
    three times the rounding error in float32. Later layers average the error of earlier ones, but not their own: so
    only layers marked `fast` (and lower precisions, which sum in float32 anyway) use it. Without gradients there is
    memory for copied taps, and their matrix products are the most exact on CPUs of all kinds.
    """
    exact = x_BTC.dtype == torch.float32
    if exact and x_BTC.device.type == "cpu" and not torch.is_grad_enabled():
        taps_BTKC = x_BTC.unfold(1, weight_OCK.shape[2], stride).transpose(2, 3)
        return F.linear(taps_BTKC.flatten(2), weight_OCK.transpose(1, 2).flatten(1))
    if exact and not fast:
        return F.conv1d(x_BTC.transpose(1, 2).contiguous(), weight_OCK, stride=stride).transpose(1, 2)
    if trains_on_cpu(x_BTC):
        return ChannelsLastConv.apply(x_BTC, weight_OCK, stride)
    return channels_last_conv(x_BTC, weight_OCK, stride)


class ChannelsLastConv(torch.autograd.Function):
    """`channels_last_conv` for training on a CPU, with the weights' gradient by matrix products.

    In channels-last order oneDNN is at its fastest for all but that gradient, for which it takes six times as long.
    """

    @staticmethod
    def forward(ctx: Any, x_BTC: Tensor, weight_OCK: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x_BTC, weight_OCK)
        ctx.stride = stride
        return channels_last_conv(x_BTC, weight_OCK, stride)

    @staticmethod
    def backward(ctx: Any, gradient_BTO: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x_BTC, weight_OCK = ctx.saved_tensors
        x_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            size = (len(x_BTC), x_BTC.shape[2], 1, x_BTC.shape[1])
            image_BO1T = gradient_BTO.transpose(1, 2).unsqueeze(2)
            x_BC1T = conv2d_input(size, image_weight(weight_OCK), image_BO1T, stride=(1, ctx.stride))
            x_gradient = x_BC1T.squeeze(2).transpose(1, 2)
        if ctx.needs_input_grad[1]:
            products, n_clips = [], max(1, ROWS_AT_ONCE // gradient_BTO.shape[1])
            for x, gradient in zip(x_BTC.split(n_clips), gradient_BTO.split(n_clips), strict=True):
                taps_BTKC = x.unfold(1, weight_OCK.shape[2], ctx.stride).transpose(2, 3)
                products.append(matmul(gradient.flatten(0, 1).T, taps_BTKC.flatten(2).flatten(0, 1)))
            weight_gradient = torch.stack(products).sum(0).unflatten(1, (weight_OCK.shape[2], -1)).transpose(1, 2)
        return x_gradient, weight_gradient, None


def channels_last_conv(x_BTC: Tensor, weight_OCK: Tensor, stride: int) -> Tensor:
    """The convolution over time as one over images of height 1: [B, T, C] -> [B, T', O]."""
    image_BC1T = x_BTC.transpose(1, 2).unsqueeze(2)
    return F.conv2d(image_BC1T, image_weight(weight_OCK), stride=(1, stride)).squeeze(2).transpose(1, 2)


def image_weight(weight_OCK: Tensor) -> Tensor:
    return weight_OCK.unsqueeze(2).to(memory_format=torch.channels_last)
