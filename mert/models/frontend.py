"""The convolutional front end: seven strided convolutions from samples to frames (spec of wav2vec 2.0 and HuBERT).

Shapes: B clips, N samples, T frames, C channels, K taps of the first kernel.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from mert.models.config import MertConfig
from mert.models.cpu import matmul, trains_on_cpu

ROWS_AT_ONCE = 8192  # of a weight gradient's products: enough to be fast, few enough to be small


def conv_length(n: int | Tensor, kernel: int, stride: int) -> int | Tensor:
    """Frames that an unpadded convolution makes of `n` samples or frames."""
    return (n - kernel) // stride + 1


class Conv(nn.Module):
    """One bias-free convolution over time: [B, T, C] -> [B, T', C].

    Channels-last order halves the time of the longest layers, but oneDNN then sums all taps in one chain, with
    three times the rounding error in float32. Later layers average the error of earlier ones, not their own: so
    only layers marked `fast` (and lower precisions, which sum in float32 anyway) take it. Without gradients copied
    taps are affordable, and their products are the most exact on CPUs of all kinds.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, fast: bool = False) -> None:
        super().__init__()
        self.stride, self.fast = stride, fast
        self.weight = nn.Parameter(torch.empty(c_out, c_in, kernel))
        nn.init.kaiming_normal_(self.weight)

    def forward(self, x_BTC: Tensor) -> Tensor:
        exact = x_BTC.dtype == torch.float32
        if exact and x_BTC.device.type == "cpu" and not torch.is_grad_enabled():
            taps_BTKC = x_BTC.unfold(1, self.weight.shape[2], self.stride).transpose(2, 3)
            return F.linear(taps_BTKC.flatten(2), self.weight.transpose(1, 2).flatten(1))
        if exact and not self.fast:
            x_BCT = x_BTC.transpose(1, 2).contiguous()
            return F.conv1d(x_BCT, self.weight, stride=self.stride).transpose(1, 2)
        if trains_on_cpu(x_BTC):
            y_BTC: Tensor = ChannelsLastConv.apply(x_BTC, self.weight, self.stride)
            return y_BTC
        return channels_last_conv(x_BTC, self.weight, self.stride)


class ChannelsLastConv(torch.autograd.Function):
    """`channels_last_conv` for training on a CPU: weights get their gradient by matrix products.

    OneDNN takes six times as long for that one gradient in channels-last order, and is at its fastest for all else.
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
            picture = gradient_BTO.transpose(1, 2).unsqueeze(2)
            x_BC1T = conv2d_input(size, picture_weight(weight_OCK), picture, stride=(1, ctx.stride))
            x_gradient = x_BC1T.squeeze(2).transpose(1, 2)
        if ctx.needs_input_grad[1]:
            products, n_clips = [], max(1, ROWS_AT_ONCE // gradient_BTO.shape[1])
            for x, gradient in zip(x_BTC.split(n_clips), gradient_BTO.split(n_clips), strict=True):
                taps_BTKC = x.unfold(1, weight_OCK.shape[2], ctx.stride).transpose(2, 3)
                products.append(matmul(gradient.flatten(0, 1).T, taps_BTKC.flatten(2).flatten(0, 1)))
            weight_gradient = torch.stack(products).sum(0).unflatten(1, (weight_OCK.shape[2], -1)).transpose(1, 2)
        return x_gradient, weight_gradient, None


def channels_last_conv(x_BTC: Tensor, weight_OCK: Tensor, stride: int) -> Tensor:
    """Unpadded convolution of clips taken as pictures one row high: [B, T, C] -> [B, T', O]."""
    picture_BC1T = x_BTC.transpose(1, 2).unsqueeze(2)
    return F.conv2d(picture_BC1T, picture_weight(weight_OCK), stride=(1, stride)).squeeze(2).transpose(1, 2)


def picture_weight(weight_OCK: Tensor) -> Tensor:
    return weight_OCK.unsqueeze(2).to(memory_format=torch.channels_last)


class NormedConv(Conv):
    """The first convolution and the instance norm behind it (group norm with one group a channel).

    A convolution is linear, so mean and variance of its output follow from those of its input patches
    (var_c = w_c' Cov w_c, a K x K covariance taken in float64). The norm then folds into the kernel, which saves
    two passes over the largest tensor of the model and lets each row have its own valid length.
    """

    def __init__(self, c_out: int, kernel: int, stride: int, eps: float) -> None:
        super().__init__(1, c_out, kernel, stride)
        self.eps = eps
        self.norm = nn.GroupNorm(c_out, c_out, eps=eps)  # holds the affine parameters

    def forward(self, wave_BN: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        centre_B1K, kernel_BKC, shift_B1C = self.folded(wave_BN, lengths_B)
        patches_BTK = wave_BN.unfold(1, self.weight.shape[-1], self.stride)
        dtype = self.weight.dtype
        return torch.baddbmm(shift_B1C.to(dtype), patches_BTK - centre_B1K, kernel_BKC.to(dtype))

    def folded(self, wave_BN: Tensor, lengths_B: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Convolution and norm as (patches - centre [B, 1, K]) @ kernel [B, K, C] + shift [B, 1, C].

        Kernel and shift are float64. The centre is taken off first, so that an offset costs no precision.
        """
        patches_BTK = wave_BN.unfold(1, self.weight.shape[-1], self.stride)
        with torch.autocast(wave_BN.device.type, enabled=False):
            mean_B1K, cov_BKK = self._moments(patches_BTK.double(), lengths_B)
            centre_B1K = mean_B1K.to(wave_BN.dtype)
            weight_CK = self.weight.squeeze(1).double()
            var_BC = torch.einsum("ck,bkl,cl->bc", weight_CK, cov_BKK, weight_CK)
            scale_B1C = (self.norm.weight.double() * (var_BC + self.eps).rsqrt()).unsqueeze(1)
            kernel_BKC = weight_CK.T * scale_B1C
            shift_B1C = self.norm.bias.double() - (mean_B1K - centre_B1K) @ kernel_BKC
        return centre_B1K, kernel_BKC, shift_B1C

    def _moments(self, patches_BTK: Tensor, lengths_B: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean [B, 1, K] and covariance [B, K, K] over each row's valid patches."""
        n_frames = patches_BTK.shape[1]
        if lengths_B is None:
            mean_B1K = patches_BTK.mean(1, keepdim=True)
            centred_BTK = patches_BTK - mean_B1K
            return mean_B1K, centred_BTK.transpose(1, 2) @ centred_BTK / n_frames
        frames_B = conv_length(lengths_B, self.weight.shape[-1], self.stride)
        count_B11 = frames_B[:, None, None]  # type: ignore[index]
        valid_BT1 = torch.arange(n_frames, device=lengths_B.device)[None, :, None] < count_B11
        mean_B1K = (patches_BTK * valid_BT1).sum(1, keepdim=True) / count_B11
        centred_BTK = (patches_BTK - mean_B1K) * valid_BT1
        return mean_B1K, centred_BTK.transpose(1, 2) @ centred_BTK / count_B11


class ConvFrontend(nn.Module):
    """Strided convolutions (seven in the published models, two in `nano`), each followed by an exact GELU.

    Shape: wave [B, N] float -> features [B, T, C], T = floor((N - 400) / 320) + 1 for the published kernels.
    Rows may be padded on the right: given their `lengths_B` in samples, each row's valid frames are those of the
    clip alone. Source: wav2vec 2.0 feature encoder as HuBERT and MERT use it (MERT paper, section 3.1).

    >>> import torch; from mert.models.config import nano
    >>> ConvFrontend(nano())(torch.zeros(1, 24_000)).shape
    torch.Size([1, 74, 256])
    """

    def __init__(self, config: MertConfig) -> None:
        super().__init__()
        kernels, strides = config.conv_kernels, config.conv_strides
        first = NormedConv(config.conv_dim, kernels[0], strides[0], config.norm_eps)
        rest = (
            Conv(config.conv_dim, config.conv_dim, k, s, fast=i < 2)
            for i, (k, s) in enumerate(zip(kernels[1:], strides[1:], strict=True))
        )
        self.convs = nn.ModuleList([first, *rest])
        self.kernels, self.strides = kernels, strides

    def forward(self, wave_BN: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        first, *rest = self.convs
        x_BTC = F.gelu(first(wave_BN, lengths_B))
        for conv in rest:
            x_BTC = F.gelu(conv(x_BTC))
        return x_BTC

    def n_frames(self, n_samples: int | Tensor) -> int | Tensor:
        """Frames made of `n_samples`; works on tensors of lengths too."""
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            n_samples = conv_length(n_samples, kernel, stride)
        return n_samples
