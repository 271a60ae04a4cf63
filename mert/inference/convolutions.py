"""Convolutions of the conformers' fast path: oneDNN's, with what follows them computed while a result is cached.

Shapes: B clips, T frames, C input and O output channels, K taps; images have H rows and W columns, R rows of tiles, V
columns of tiles. Images are channels last, as [B, H, W, C] or as a view of that, [B, C, H, W].
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mert.inference.kernels import fused, linear, rounded

ROWS_AT_ONCE = 16  # of tiles: their transforms stay in the cache between the steps
Four = tuple[Tensor, Tensor, Tensor, Tensor]


class ImageConv:
    """A 3 x 3 convolution with zeros around the image, then ReLU if asked: [B, C, H, W] -> [B, O, H', W'].

    A residual is added before ReLU, and may be overwritten: its memory becomes the output's. The computation is in the
    type of the weights, `arithmetic` of `dtype`; the output has the type of the input. In float32 on a CPU, where the
    rate of products limits the speed, a convolution of stride 1 takes 16 products for 4 outputs (`winograd`), not 36.

    >>> conv = ImageConv(torch.ones(1, 2, 3, 3), torch.zeros(1), torch.float32, stride=1)
    >>> conv(torch.ones(1, 2, 2, 3)).tolist()
    [[[[8.0, 12.0, 8.0], [8.0, 12.0, 8.0]]]]
    """

    def __init__(
        self, weight_OC33: Tensor, bias_O: Tensor, dtype: torch.dtype, stride: int, relu: bool = False
    ) -> None:
        weight_OC33 = rounded(weight_OC33, dtype)
        self.bias_O, self.stride, self.relu = rounded(bias_O, dtype), stride, relu
        self.tiled = stride == 1 and weight_OC33.dtype == torch.float32 and fused(weight_OC33)
        self.taps = weight_OC33.shape[1] == 1
        if self.tiled:
            self.weight = tiles(weight_OC33)
        elif self.taps:
            self.weight = weight_OC33.flatten(1)
        else:
            self.weight = weight_OC33.contiguous(memory_format=torch.channels_last)

    def __call__(self, x_BCHW: Tensor, residual_BOHW: Tensor | None = None) -> Tensor:
        if x_BCHW.dtype != self.weight.dtype:
            residual_BOHW = None if residual_BOHW is None else residual_BOHW.to(self.weight.dtype)
            return self(x_BCHW.to(self.weight.dtype), residual_BOHW).to(x_BCHW.dtype)
        addable = residual_BOHW is None or residual_BOHW.shape[2:].numel() > 1  # oneDNN adds no single pixels
        if not self.tiled and not self.taps and addable and fused(x_BCHW):
            return self._fused(x_BCHW, residual_BOHW)
        if self.tiled:
            into_BHWO = None if residual_BOHW is None else residual_BOHW.permute(0, 2, 3, 1)
            y_BHWO = winograd(x_BCHW.permute(0, 2, 3, 1), self.weight, self.bias_O, into_BHWO)
            y_BOHW, residual_BOHW = y_BHWO.permute(0, 3, 1, 2), None
        elif self.taps:  # oneDNN takes twice as long for a single channel
            y_BOHW = linear(taps(x_BCHW[:, 0], self.stride), self.weight, self.bias_O).permute(0, 3, 1, 2)
        else:
            y_BOHW = F.conv2d(x_BCHW, self.weight, self.bias_O, self.stride, padding=1)
        if residual_BOHW is not None:
            y_BOHW = residual_BOHW.add_(y_BOHW)
        return y_BOHW.relu_() if self.relu else y_BOHW

    def _fused(self, x_BCHW: Tensor, residual_BOHW: Tensor | None) -> Tensor:
        relu, shape = "relu" if self.relu else "none", ([1, 1], [self.stride] * 2, [1, 1], 1)
        if residual_BOHW is None:
            operator = torch.ops.mkldnn._convolution_pointwise
            return operator(x_BCHW, self.weight, self.bias_O, *shape, relu, [], "none")
        within, last = torch.ops.mkldnn._convolution_pointwise_.binary, "relu" if self.relu else None
        return within(residual_BOHW, x_BCHW, self.weight, self.bias_O, *shape, "add", None, last, [], None)


class Depthwise:
    """A depthwise convolution over time with zeros at both ends, then swish if asked: [B, T, C] -> [B, T, C].

    Computed in the type of its kernel, `arithmetic` of `dtype`; an image of height 1 needs no copy in another order.

    >>> Depthwise(torch.ones(2, 1, 3), None, torch.float32)(torch.ones(1, 3, 2)).tolist()
    [[[2.0, 2.0], [3.0, 3.0], [2.0, 2.0]]]
    """

    def __init__(self, kernel_C1K: Tensor, bias_C: Tensor | None, dtype: torch.dtype, swish: bool = False) -> None:
        self.kernel_C11K, self.swish = rounded(kernel_C1K, dtype).unsqueeze(2), swish
        self.bias_C = None if bias_C is None else rounded(bias_C, dtype)

    def __call__(self, x_BTC: Tensor) -> Tensor:
        kernel, (channels, *_, n_taps) = self.kernel_C11K, self.kernel_C11K.shape
        if x_BTC.dtype != kernel.dtype:
            return self(x_BTC.to(kernel.dtype)).to(x_BTC.dtype)
        image_BC1T, pads = x_BTC.transpose(1, 2).unsqueeze(2), [0, n_taps // 2]
        if fused(x_BTC):
            operator, last = torch.ops.mkldnn._convolution_pointwise, "swish" if self.swish else "none"
            y_BC1T = operator(image_BC1T, kernel, self.bias_C, pads, [1, 1], [1, 1], channels, last, [], "")
        else:
            y_BC1T = F.conv2d(image_BC1T, kernel, self.bias_C, padding=pads, groups=channels)
            y_BC1T = F.silu(y_BC1T) if self.swish else y_BC1T
        return y_BC1T.squeeze(2).transpose(1, 2)


def taps(image_BHW: Tensor, stride: int) -> Tensor:
    """The 3 x 3 pixels around each output, zeros beyond the edges: [B, H, W] -> [B, H', W', 9].

    >>> taps(torch.ones(1, 3, 3), stride=2)[0, 1, 1].tolist()
    [1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    """
    return F.pad(image_BHW, (1, 1, 1, 1)).unfold(1, 3, stride).unfold(2, 3, stride).flatten(3)


def winograd(x_BHWC: Tensor, tiles_4x4OC: Tensor, bias_O: Tensor, into_BHWO: Tensor | None = None) -> Tensor:
    """The convolution whose weights are `tiles`, stride 1, zeros around: [B, H, W, C] -> [B, H, W, O].

    It is added to what `into` holds, if given.
    F(2 x 2, 3 x 3) of Lavin and Gray (arXiv 1509.09308): each tile of 4 x 4 inputs gives 2 x 2 outputs. The rounding
    error is about that of the direct sum.
    """
    n_clips, height, width, _ = x_BHWC.shape
    out_BHWO = x_BHWC.new_zeros(n_clips, height, width, len(bias_O)) if into_BHWO is None else into_BHWO
    columns = (width + 1) // 2
    for top in range(0, height, 2 * ROWS_AT_ONCE):
        end = min(height, top + 2 * ROWS_AT_ONCE)
        rows = (end - top + 1) // 2
        first, last = max(0, top - 1), min(height, end + 1)
        around = 0, 0, 1, 1 + 2 * columns - width, first - (top - 1), top + 2 * rows + 1 - last
        piece_BHWC = F.pad(x_BHWC[:, first:last], around)
        lines = spread(*(piece_BHWC[:, i : i + 2 * rows : 2] for i in range(4)))
        sums = []
        for line_BRWC, tiles_4OC in zip(lines, tiles_4x4OC, strict=True):
            parts = spread(*(line_BRWC[:, :, j : j + 2 * columns : 2] for j in range(4)))
            products = (linear(part, tile, None) for part, tile in zip(parts, tiles_4OC, strict=True))
            sums.append(gathered(*products))
        for j in range(2):
            for i, values_BRVO in enumerate(gathered(*(line[j] for line in sums))):
                target = out_BHWO[:, top + i : end : 2, j::2]
                target += values_BRVO[:, : target.shape[1], : target.shape[2]] + bias_O
    return out_BHWO


def tiles(weight_OC33: Tensor) -> Tensor:
    """The weights of `winograd`, computed in float64: [4, 4, O, C]."""
    transform = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]]).double()
    return torch.einsum("ik,ockl,jl->ijoc", transform, weight_OC33.double(), transform).float().contiguous()


def spread(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Four:
    """Four inputs in a line as the four factors that meet the weights."""
    return a - c, b + c, c - b, b - d


def gathered(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Two outputs in a line of four products."""
    return a + b + c, b - c - d
