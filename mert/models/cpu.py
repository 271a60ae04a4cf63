"""Linear layers and matrix products as fast as a CPU trains them; elsewhere they are torch's own.

Torch hands float32 products on x86 to MKL, which reaches less than half the speed of oneDNN, also aboard, on CPUs that
are not Intel's. In training that is what counts; inference stays with torch's choice, which rounds a little better.
Shapes: M rows, K inputs, N outputs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@cache
def onednn() -> Callable[..., Tensor] | None:
    """OneDNN's linear layer, which torch.compile uses as well; None where torch was built without it."""
    one = torch.ones(1, 1)
    try:
        operator: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise
        operator(one, one, None, "none", [], "")
    except (AttributeError, RuntimeError):
        return None
    return operator


def matmul(a_MK: Tensor, b_KN: Tensor) -> Tensor:
    """[M, K] @ [K, N] -> [M, N] in float32.

    >>> float(matmul(torch.ones(2, 3), torch.ones(3, 4))[1, 3])
    3.0
    """
    operator = onednn() if a_MK.device.type == "cpu" else None
    if operator is None:
        return a_MK @ b_KN
    return operator(dense(a_MK), dense(b_KN).T, None, "none", [], "")


def dense(matrix: Tensor) -> Tensor:
    """The matrix or its transpose without gaps: oneDNN takes hundreds of times as long for others."""
    return matrix if matrix.is_contiguous() or matrix.T.is_contiguous() else matrix.contiguous()


def trains_on_cpu(x: Tensor) -> bool:
    """Whether gradients will be wanted of what is done to `x` in float32 on a CPU, and torch.compile does not do it."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


class Linear(nn.Linear):
    """torch's Linear, faster to train on a CPU.

    >>> Linear(3, 2)(torch.zeros(4, 5, 3)).shape
    torch.Size([4, 5, 2])
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() > 1 and x.numel() and trains_on_cpu(x) and onednn():
            y: Tensor = OneDnnLinear.apply(x, self.weight, self.bias)
            return y
        return F.linear(x, self.weight, self.bias)


class OneDnnLinear(torch.autograd.Function):
    """x [..., K], weight [N, K], bias [N] -> [..., N], with all three products by oneDNN."""

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
