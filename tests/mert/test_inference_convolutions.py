"""Convolutions of the conformers' fast path against torch's own, at sizes that tiles do not divide."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mert.inference.convolutions import ROWS_AT_ONCE, Depthwise, ImageConv


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 4), (2 * ROWS_AT_ONCE, 2), (4 * ROWS_AT_ONCE + 1, 5)])
def test_a_convolution_of_images_is_that_of_torch(size: tuple[int, int], channels: int, stride: int) -> None:
    torch.manual_seed(0)
    x_BCHW = torch.randn(2, *size, channels).permute(0, 3, 1, 2)
    weight, bias = torch.randn(6, channels, 3, 3), torch.randn(6)
    plain = F.conv2d(x_BCHW, weight, bias, stride, padding=1)
    residual = torch.randn_like(plain)
    for dtype, tolerance in ((torch.float32, 2e-5), (torch.float16, 0.05), (torch.bfloat16, 0.3)):
        x, other = x_BCHW.to(dtype), residual.to(dtype)
        for relu in (False, True):
            conv = ImageConv(weight, bias, dtype, stride, relu)
            alone, wanted = conv(x), F.relu(plain) if relu else plain
            assert alone.dtype == dtype and (alone.float() - wanted).abs().max() < tolerance
            added, wanted = conv(x, other.clone()), F.relu(plain + residual) if relu else plain + residual
            assert (added.float() - wanted).abs().max() < tolerance


def test_tiles_round_like_the_direct_sum() -> None:
    """At 512 channels, in units of the rms of the result."""
    torch.manual_seed(0)
    x_BCHW, weight = torch.randn(1, 9, 8, 512).permute(0, 3, 1, 2), torch.randn(16, 512, 3, 3)
    exact = F.conv2d(x_BCHW.double(), weight.double(), padding=1)
    got = ImageConv(weight, torch.zeros(16), torch.float32, stride=1)(x_BCHW)
    assert (got - exact).abs().max() < 1e-5 * exact.square().mean().sqrt()


@pytest.mark.parametrize("swish", [False, True])
def test_a_depthwise_convolution_is_that_of_torch(swish: bool) -> None:
    torch.manual_seed(0)
    x_BTC, kernel, bias = torch.randn(2, 9, 6), torch.randn(6, 1, 7), torch.randn(6)
    wanted = F.conv1d(x_BTC.transpose(1, 2), kernel, bias, padding=3, groups=6).transpose(1, 2)
    wanted = F.silu(wanted) if swish else wanted
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float16, 0.05), (torch.bfloat16, 0.1)):
        got = Depthwise(kernel, bias, dtype, swish)(x_BTC.to(dtype))
        assert got.dtype == dtype and (got.float() - wanted).abs().max() < tolerance
