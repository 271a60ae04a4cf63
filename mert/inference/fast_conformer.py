"""FastConformer: a Conformer for inference alone, with its weights folded, cast and laid out once for the machine.

    wave [B, N] --LogMel, float32--> [B, L, M] --subsampler--> [B, T, D] --blocks--> states [B, T, D]

Batch norms are folded into the convolutions before them, queries, keys and values are one product, residuals are added
and activations applied within products and convolutions. Log-mel, response norms, rotations and norms are float32 in
any type.
Shapes: B clips, N samples, L mel frames, M mels, T frames, C channels, D model width, H heads, E = D / H.
"""

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mert.inference.convolutions import Depthwise, ImageConv
from mert.inference.fast import norm
from mert.inference.kernels import Product, attention
from mert.models.conformer.blocks import Attention, Block, ConvModule, FeedForward, rotated, rotations
from mert.models.conformer.config import ConformerConfig
from mert.models.conformer.network import Conformer
from mert.models.conformer.subsamplers import (
    ConvNextLayer,
    ConvNextStage,
    ConvNextSubsampler,
    ResidualModule,
    ResidualSubsampler,
    zeroed,
)

Layer = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]


class FastConformer:
    """The forward pass of a Conformer in `dtype`; its states equal those of `Conformer` in float32.

    >>> from mert.models.conformer.config import ConformerConfig
    >>> model = Conformer(ConformerConfig(dim=64, n_layers=2, n_heads=4, ffn_dim=96, conv_dim=8)).eval()
    >>> [state.shape for state in FastConformer(model)(torch.zeros(1, 24_000), layers=[0, 2])]
    [torch.Size([1, 25, 64]), torch.Size([1, 25, 64])]
    """

    dtypes = ("float32", "bfloat16", "float16")

    @staticmethod
    def activation_bytes(config: ConformerConfig, n_samples: int, device_type: str) -> int:
        """The first output of the subsampler, its largest, or a block's activations."""
        n_mel_frames = n_samples // config.hop
        wide = 4 * config.stage_dims[0] if config.stage_dims else config.conv_dim * config.n_mels // 4
        block = n_samples // config.stride * (2 * config.ffn_dim + 8 * config.dim)
        return 4 * max(3 * wide * n_mel_frames, block)

    def __init__(self, model: Conformer, dtype: torch.dtype = torch.float32, int8: bool = False) -> None:
        self.model, self.dtype = model, dtype
        is_convnext = isinstance(model.subsampler, ConvNextSubsampler)
        self.subsampler = (FastConvNext if is_convnext else FastResidual)(model.subsampler, dtype)  # type: ignore[arg-type]
        self.blocks = [FastBlock(cast(Block, block), dtype) for block in model.blocks]

    @torch.inference_mode()
    def __call__(
        self, wave_BN: Tensor, lengths_B: Tensor | None = None, layers: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Hidden states [B, T, D] of `layers` in `dtype`; nothing above the highest is computed."""
        model, config = self.model, self.model.config
        model.check(wave_BN, lengths_B)
        mel_BLM = model.frontend(wave_BN, lengths_B)
        n_B = None if lengths_B is None else lengths_B // config.hop
        x_BTD, n_B = self.subsampler(mel_BLM.to(self.dtype), n_B)
        wanted = range(len(self.blocks) + 1) if layers is None else layers
        table = rotations(x_BTD.shape[1], config.dim // config.n_heads, x_BTD.device)
        valid_BT = None if n_B is None else torch.arange(x_BTD.shape[1], device=x_BTD.device) < n_B[:, None]
        states = {0: x_BTD}
        for i, block in enumerate(self.blocks[: max(wanted)], start=1):
            x_BTD = block(x_BTD, table, n_B, valid_BT)
            states[i] = norm(x_BTD, model.norm) if model.norm is not None and i == len(self.blocks) else x_BTD
        return [states[i] for i in wanted]


class FastBlock:
    """A block with its three projections as one product, and residuals added within the products."""

    def __init__(self, block: Block, dtype: torch.dtype) -> None:
        self.block = block
        self.ffn1, self.ffn2 = FastFeedForward(block.ffn1, dtype), FastFeedForward(block.ffn2, dtype)
        self.attention = FastAttention(block.attention, dtype)
        self.conv = FastConvModule(block.conv, dtype)

    def __call__(
        self, x_BTD: Tensor, table: tuple[Tensor, Tensor], n_B: Tensor | None, valid_BT: Tensor | None
    ) -> Tensor:
        block = self.block
        x_BTD = self.ffn1(norm(x_BTD, block.ffn1_norm), x_BTD)
        x_BTD = self.attention(norm(x_BTD, block.attention_norm), x_BTD, table, valid_BT)
        x_BTD = self.conv(norm(x_BTD, block.conv.norm), x_BTD, n_B)
        x_BTD = self.ffn2(norm(x_BTD, block.ffn2_norm), x_BTD)
        return norm(x_BTD, block.last_norm)


class FastFeedForward:
    """Half of a feed-forward, the half taken within its second product."""

    def __init__(self, ffn: FeedForward, dtype: torch.dtype) -> None:
        self.up = Product(ffn.up.weight, ffn.up.bias, dtype)
        self.down = Product(0.5 * ffn.down.weight, 0.5 * ffn.down.bias, dtype)
        self.gelu = isinstance(ffn.activation, nn.GELU)

    def __call__(self, x_BTD: Tensor, residual_BTD: Tensor) -> Tensor:
        return self.down(self.up(x_BTD, gelu=self.gelu, swish=not self.gelu), residual=residual_BTD)


class FastAttention:
    """Rotary attention; the queries are scaled within their product."""

    def __init__(self, heads: Attention, dtype: torch.dtype) -> None:
        self.n_heads, self.relative = heads.n_heads, heads.relative
        scale = (heads.query.weight.shape[0] // heads.n_heads) ** -0.5
        query, key, value = heads.query, heads.key, heads.value
        weights, biases = [scale * query.weight, key.weight], [scale * query.bias, key.bias]
        if self.relative:
            weights, biases = [*weights, value.weight], [*biases, value.bias]
        else:
            self.value = Product(value.weight, value.bias, dtype)
        self.projected = Product(torch.cat(weights), torch.cat(biases), dtype)
        self.out = Product(heads.out.weight, heads.out.bias, dtype)

    def __call__(
        self, x_BTD: Tensor, residual_BTD: Tensor, table: tuple[Tensor, Tensor], valid_BT: Tensor | None
    ) -> Tensor:
        if self.relative:
            q_BTD, k_BTD, v_BTD = self.projected(x_BTD).chunk(3, -1)
            q_BTHE, k_BTHE = (rotated(self._heads(part_BTD), table) for part_BTD in (q_BTD, k_BTD))
        else:
            placed_BTD = rotated(self._heads(x_BTD), table).flatten(2)
            q_BTHE, k_BTHE = (self._heads(part_BTD) for part_BTD in self.projected(placed_BTD).chunk(2, -1))
            v_BTD = self.value(x_BTD)
        parts = (q_BTHE, k_BTHE, self._heads(v_BTD))
        q_BHTE, k_BHTE, v_BHTE = (part.transpose(1, 2).contiguous() for part in parts)
        mixed_BHTE = attention(q_BHTE, k_BHTE, v_BHTE, valid_BT)
        return self.out(mixed_BHTE.transpose(1, 2).flatten(2), residual=residual_BTD)

    def _heads(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.unflatten(2, (self.n_heads, -1))


class FastConvModule:
    """The convolution module without its first norm; a batch norm is folded into the depthwise kernel."""

    def __init__(self, module: ConvModule, dtype: torch.dtype) -> None:
        self.expand = Product(module.expand.weight, None, dtype)
        self.contract = Product(module.contract.weight, None, dtype)
        kernel, shift, self.layer_norm = module.depthwise.weight, None, None
        if isinstance(module.middle_norm, nn.BatchNorm1d):
            kernel, shift = folded(kernel, None, module.middle_norm)
        else:
            self.layer_norm = module.middle_norm
        swish = self.layer_norm is None and isinstance(module.activation, nn.SiLU)
        self.depthwise = Depthwise(kernel, shift, dtype, swish)
        self.activation = nn.Identity() if swish else module.activation

    def __call__(self, x_BTD: Tensor, residual_BTD: Tensor, n_B: Tensor | None) -> Tensor:
        gated_BTD = zeroed(F.glu(self.expand(x_BTD), -1), n_B, 1)
        y_BTD = self.depthwise(gated_BTD)
        if self.layer_norm is not None:
            y_BTD = norm(y_BTD, self.layer_norm)
        return self.contract(self.activation(y_BTD), residual=residual_BTD)


class FastConvNext:
    """The ConvNeXt subsampler with its linear layers as products."""

    def __init__(self, subsampler: ConvNextSubsampler, dtype: torch.dtype) -> None:
        self.stages = [FastStage(cast(ConvNextStage, stage), dtype) for stage in subsampler.stages]

    def __call__(self, x_BTC: Tensor, n_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        for stage in self.stages:
            x_BTC, n_B = stage(x_BTC, n_B)
        return x_BTC, n_B


class FastStage:
    """A stage; the convolution that halves the frames is a product over pairs of them."""

    def __init__(self, stage: ConvNextStage, dtype: torch.dtype) -> None:
        self.norm, self.halve = stage.norm, None
        if stage.halve is not None:
            pairs = stage.halve.weight.transpose(1, 2).flatten(1)  # [O, 2 C]: taps, then channels
            self.halve = Product(pairs, stage.halve.bias, dtype)
        self.layers = [FastConvNextLayer(cast(ConvNextLayer, layer), dtype) for layer in stage.layers]

    def __call__(self, x_BTC: Tensor, n_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.norm is not None and self.halve is not None:
            x_BTC = zeroed(norm(x_BTC, self.norm), n_B, 1)
            x_BTC = self.halve(x_BTC[:, : x_BTC.shape[1] // 2 * 2].unflatten(1, (-1, 2)).flatten(2))
            n_B = None if n_B is None else n_B // 2
        for layer in self.layers:
            x_BTC = layer(x_BTC, n_B)
        return x_BTC, n_B


class FastConvNextLayer:
    """One layer of ConvNeXt, its residual added within the last product."""

    def __init__(self, layer: ConvNextLayer, dtype: torch.dtype) -> None:
        self.layer = layer
        self.depthwise = Depthwise(layer.depthwise.weight, layer.depthwise.bias, dtype)
        self.up, self.down = (Product(part.weight, part.bias, dtype) for part in (layer.up, layer.down))

    def __call__(self, x_BTC: Tensor, n_B: Tensor | None) -> Tensor:
        y_BTC = norm(self.depthwise(zeroed(x_BTC, n_B, 1)), self.layer.norm)
        wide_BTC = self.layer.response(self.up(y_BTC, gelu=True), n_B).to(x_BTC.dtype)
        return self.down(wide_BTC, residual=x_BTC)


class FastResidual:
    """The subsampler of 2-D convolutions, their batch norms folded in, over images of frames by mels."""

    def __init__(self, subsampler: ResidualSubsampler, dtype: torch.dtype) -> None:
        self.stages = [FastResidualModule(cast(ResidualModule, stage), dtype) for stage in subsampler.stages]
        channels = cast(ResidualModule, subsampler.stages[0]).conv1.out_channels
        linear = subsampler.linear
        weight_DMC = linear.weight.unflatten(1, (channels, -1)).transpose(1, 2)  # of images with channels last
        self.linear = Product(weight_DMC.flatten(1), linear.bias, dtype)

    def __call__(self, mel_BLM: Tensor, n_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x_BCTM = mel_BLM.unsqueeze(1)
        for stage in self.stages:
            x_BCTM, n_B = stage(x_BCTM, n_B)
        return self.linear(x_BCTM.permute(0, 2, 3, 1).flatten(2)), n_B


class FastResidualModule:
    """Two convolutions beside a third, whose result is added within the second."""

    def __init__(self, module: ResidualModule, dtype: torch.dtype) -> None:
        self.conv1 = image_conv(module.conv1, module.norm1, dtype, relu=True)
        self.conv2 = image_conv(module.conv2, module.norm2, dtype, relu=True)
        self.conv3 = image_conv(module.conv3, module.norm3, dtype)

    def __call__(self, x_BCTM: Tensor, n_B: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x_BCTM = zeroed(x_BCTM, n_B, 2)
        n_B = None if n_B is None else (n_B + 1) // 2
        y_BCTM = zeroed(self.conv1(x_BCTM), n_B, 2)
        return self.conv2(y_BCTM, self.conv3(x_BCTM)), n_B


def image_conv(conv: nn.Conv2d, batch_norm: nn.BatchNorm2d, dtype: torch.dtype, relu: bool = False) -> ImageConv:
    """A convolution of images of mels by frames, and the batch norm behind it, for images of frames by mels."""
    weight_OCMT, bias_O = folded(conv.weight, conv.bias, batch_norm)
    return ImageConv(weight_OCMT.transpose(2, 3), bias_O, dtype, conv.stride[0], relu)


def folded(weight: Tensor, bias: Tensor | None, batch_norm: nn.BatchNorm1d | nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that does what it and the batch norm behind it do, computed in float64."""
    mean, variance = cast(Tensor, batch_norm.running_mean).double(), cast(Tensor, batch_norm.running_var).double()
    scale = batch_norm.weight.double() * (variance + batch_norm.eps).rsqrt()
    offset = 0.0 if bias is None else bias.double()
    shaped = scale.view(-1, *[1] * (weight.ndim - 1))
    return (weight.double() * shaped).float(), (batch_norm.bias.double() + (offset - mean) * scale).float()
