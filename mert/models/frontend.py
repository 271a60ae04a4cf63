"""The convolutional front end, as in wav2vec 2.0 and HuBERT: strided convolutions from samples to frames; input waves.

Shapes: B clips, N samples, T frames, C channels, K taps of the first kernel.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mert.models.config import MertConfig
from mert.models.cpu import conv


def conv_length(n: int | Tensor, kernel: int, stride: int) -> int | Tensor:
    """Frames that an unpadded convolution returns for `n` samples or frames."""
    return (n - kernel) // stride + 1


class Conv(nn.Module):
    """A bias-free convolution over time: [B, T, C] -> [B, T', C]. `fast` trades exactness in float32 for speed."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, fast: bool = False) -> None:
        super().__init__()
        self.stride, self.fast = stride, fast
        self.weight = nn.Parameter(torch.empty(c_out, c_in, kernel))
        nn.init.kaiming_normal_(self.weight)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return conv(x_BTC, self.weight, self.stride, self.fast)


class NormedConv(Conv):
    """The first convolution and the instance norm that follows it (group norm with one group per channel).

    A convolution is linear, so mean and variance of its output follow from those of its input patches
    (var_c = w_c' Cov w_c, a K x K covariance computed in float64). The norm then folds into the kernel, which saves
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

        Kernel and shift are float64. The centre is subtracted first, so that an offset costs no precision.
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
    torch.Size([1, 72, 256])
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
        for layer in rest:
            x_BTC = F.gelu(layer(x_BTC))
        return x_BTC

    def n_frames(self, n_samples: int | Tensor) -> int | Tensor:
        """Frames of a wave of `n_samples`, an integer or a tensor of lengths."""
        for kernel, stride in zip(self.kernels, self.strides, strict=True):
            n_samples = conv_length(n_samples, kernel, stride)
        return n_samples


def normalized(wave_N: np.ndarray) -> np.ndarray:
    """Zero mean and unit (population) variance, as in the published preprocessor.

    >>> normalized(np.array([1.0, 3.0], np.float32)).round(3)
    array([-1.,  1.], dtype=float32)
    """
    mean, var = wave_N.mean(dtype=np.float64), wave_N.var(dtype=np.float64)
    return ((wave_N - mean) / np.sqrt(var + 1e-7)).astype(np.float32)


def golden_wave(sample_rate: int) -> Tensor:
    """Test input: one second of a decaying harmonic tone with a little noise, [sample_rate] float32.

    >>> golden_wave(16_000).shape
    torch.Size([16000])
    """
    time_N = torch.arange(sample_rate, dtype=torch.float64) / sample_rate
    partials = [torch.sin(2 * torch.pi * 220 * k * time_N) * torch.exp(-3 * k * time_N) / k for k in range(1, 9)]
    noise_N = torch.randn(sample_rate, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return (0.2 * torch.stack(partials).sum(0) + 0.01 * noise_N).float()
