"""From the frames of a log-mel to a quarter of them, by one of two stacks of convolutions.

In a padded batch frames beyond the end of a clip are 0 before every convolution over time, so that those within it are
as if the clip were alone.
Shapes: B clips, L mel frames, M mels, T frames, C channels, D model width; n_B counts valid frames.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mert.models.conformer.config import CONVNEXT_EPS, NORM_EPS, ConformerConfig


def zeroed(x: Tensor, n_B: Tensor | None, dim: int) -> Tensor:
    """`x` with zeros beyond the first n frames of each clip, along a dimension."""
    if n_B is None:
        return x
    valid_BT = torch.arange(x.shape[dim], device=x.device) < n_B[:, None]
    shape = [1] * x.ndim
    shape[0], shape[dim] = valid_BT.shape
    return x * valid_BT.view(shape)


class ResponseNorm(nn.Module):
    """Global response norm: each channel times its share of the energy over time, added to itself (ConvNeXt V2).

    The norm is summed in float32, over valid frames, which `n_B` counts.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x_BTC: Tensor, n_B: Tensor | None) -> Tensor:
        precise = torch.promote_types(x_BTC.dtype, torch.float32)
        norm_B1C = zeroed(x_BTC, n_B, 1).to(precise).square().sum(1, keepdim=True).sqrt()
        share_B1C = (norm_B1C / (norm_B1C.mean(2, keepdim=True) + CONVNEXT_EPS)).to(x_BTC.dtype)
        return self.weight * share_B1C * x_BTC + self.bias + x_BTC


class ConvNextLayer(nn.Module):
    """Depthwise convolution over 7 frames, norm, and a wide layer with a response norm, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=CONVNEXT_EPS)
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.response = ResponseNorm(4 * channels)

    def forward(self, x_BTC: Tensor, n_B: Tensor | None) -> Tensor:
        y_BTC = self.depthwise(zeroed(x_BTC, n_B, 1).transpose(1, 2)).transpose(1, 2)
        return x_BTC + self.down(self.response(F.gelu(self.up(self.norm(y_BTC))), n_B))


class ConvNextStage(nn.Module):
    """Layers of one width; before them, in all but the first stage, half the frames: an odd last one is lost."""

    def __init__(self, c_in: int, channels: int, depth: int, halves: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(c_in, eps=CONVNEXT_EPS) if halves else None
        self.halve = nn.Conv1d(c_in, channels, 2, stride=2) if halves else None
        self.layers = nn.ModuleList(ConvNextLayer(channels) for _ in range(depth))

    def forward(self, x_BTC: Tensor, n_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.norm is not None and self.halve is not None:
            x_BTC = self.halve(zeroed(self.norm(x_BTC), n_B, 1).transpose(1, 2)).transpose(1, 2)
            n_B = None if n_B is None else n_B // 2
        for layer in self.layers:
            x_BTC = layer(x_BTC, n_B)
        return x_BTC, n_B


class ConvNextSubsampler(nn.Module):
    """Three stages of MERT-v2: [B, L, M] -> [B, L // 4, D]."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        dims, depths = config.stage_dims, config.stage_depths
        self.stages = nn.ModuleList(
            ConvNextStage(c_in, c_out, depth, halves=i > 0)
            for i, (c_in, c_out, depth) in enumerate(zip((config.n_mels, *dims), dims, depths, strict=False))
        )

    def forward(self, mel_BLM: Tensor, n_B: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        x_BTC = mel_BLM
        for stage in self.stages:
            x_BTC, n_B = stage(x_BTC, n_B)
        return x_BTC, n_B


class ResidualModule(nn.Module):
    """Two 3 x 3 convolutions beside a third, each with batch norm; half the mels and half the frames, rounded up."""

    def __init__(self, c_in: int, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, channels, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv3 = nn.Conv2d(c_in, channels, 3, stride=2, padding=1)
        self.norm1, self.norm2, self.norm3 = (nn.BatchNorm2d(channels, eps=NORM_EPS) for _ in range(3))

    def forward(self, x_BCMT: Tensor, n_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x_BCMT = zeroed(x_BCMT, n_B, 3)
        n_B = None if n_B is None else (n_B + 1) // 2
        y_BCMT = zeroed(F.relu(self.norm1(self.conv1(x_BCMT))), n_B, 3)
        return F.relu(self.norm2(self.conv2(y_BCMT)) + self.norm3(self.conv3(x_BCMT))), n_B


class ResidualSubsampler(nn.Module):
    """Two modules of MuQ and MusicFM over the log-mel as an image, and a linear layer: [B, L, M] -> [B, T, D]."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        channels, height = config.conv_dim, (config.n_mels + 3) // 4  # half of half, rounded up
        self.stages = nn.ModuleList([ResidualModule(1, channels), ResidualModule(channels, channels)])
        self.linear = nn.Linear(channels * height, config.dim)

    def forward(self, mel_BLM: Tensor, n_B: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        x_BCMT = mel_BLM.transpose(1, 2).unsqueeze(1)
        for stage in self.stages:
            x_BCMT, n_B = stage(x_BCMT, n_B)
        return self.linear(x_BCMT.permute(0, 3, 1, 2).flatten(2)), n_B
