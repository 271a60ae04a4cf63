"""FastMert: a Mert for inference alone, with its weights folded, cast and laid out once for the machine at hand.

    wave [B, N] --pieces that fit the cache--> [B, T, C] --norm, linear--> [B, T, D] --blocks--> L + 1 states [B, T, D]

Its states equal those of `Mert`, the page to read first: in float32 to the tolerance of CONTRIBUTING.md, in other
types by their cosine.
Shapes: B clips, N samples, T frames, K taps, C and O conv channels, D model width, H heads, E = D / H.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mert.inference.kernels import ConvGelu, Int8Product, Product, TapsGelu, arithmetic, attention
from mert.models.config import MertConfig
from mert.models.encoder import Block, block_states
from mert.models.frontend import Conv, NormedConv
from mert.models.mert import Mert

# Bytes of the first convolution's output, the largest tensor, that are computed at a time. On a CPU such a piece stays
# in the cache for the next layers, and the allocator reuses its memory, where it frees and clears larger pieces.
PIECE_BYTES = {"cpu": 8 << 20, "cuda": 1 << 30}


class FastMert:
    """The forward pass of a Mert in `dtype`, as fast as the machine allows; `int8` also quantises the blocks' weights.

    It uses the weights as they are at its creation; in float32 it shares most of them with the model. Norm statistics
    and softmax are float32 in any case, those of the first norm float64.

    >>> from mert.models.config import nano
    >>> [state.shape for state in FastMert(Mert(nano()).eval())(torch.zeros(1, 24_000), layers=[0, 6])]
    [torch.Size([1, 72, 256]), torch.Size([1, 72, 256])]
    """

    dtypes = ("float32", "bfloat16", "float16", "int8")

    @staticmethod
    def activation_bytes(config: MertConfig, n_samples: int, device_type: str) -> int:
        """A block's activations, and on a GPU the outputs of the first convolution."""
        n_frames = (n_samples - config.receptive_field) // config.stride + 1
        block = 4 * n_frames * (2 * config.ffn_dim + 8 * config.dim)
        first = 3 * 4 * config.conv_dim * n_samples // config.conv_strides[0] if device_type == "cuda" else 0
        return block + first

    def __init__(self, model: Mert, dtype: torch.dtype = torch.float32, int8: bool = False) -> None:
        self.model, self.dtype = model, dtype
        first, *rest = cast(list[Conv], model.frontend.convs)
        self.first = cast(NormedConv, first)
        exact = dtype == torch.float32  # then only one layer, the longest, uses the faster and less exact convolution
        self.convs = [
            TapsGelu(c.weight, dtype, c.stride) if exact and i else ConvGelu(c.weight, None, dtype, c.stride)
            for i, c in enumerate(rest)
        ]
        self.norm = model.projection.norm
        self.project = Product(model.projection.linear.weight, model.projection.linear.bias, dtype)
        position = model.encoder.position.conv
        self.position = ConvGelu(position.weight, position.bias, dtype, padding=position.padding[0])
        product = Int8Product if int8 else partial(Product, dtype=dtype)
        self.blocks = [FastBlock(cast(Block, block), product) for block in model.encoder.blocks]

    @torch.inference_mode()
    def __call__(
        self, wave_BN: Tensor, lengths_B: Tensor | None = None, layers: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Hidden states [B, T, D] of `layers` in `dtype`; nothing above the highest is computed."""
        encoder = self.model.encoder
        features_BTC = self._frontend(wave_BN, lengths_B)
        valid_BT = self.model.valid_frames(lengths_B, features_BTC.shape[1])
        x_BTD = self.project(norm(features_BTC, self.norm))
        if valid_BT is not None:
            x_BTD = x_BTD * valid_BT.unsqueeze(2)
        x_BTD = x_BTD + self.position(x_BTD)[:, : x_BTD.shape[1]]
        final_norm = partial(norm, layer=encoder.norm)
        if not encoder.pre_norm:
            return block_states(self.blocks, final_norm(x_BTD), valid_BT, layers)
        return block_states(self.blocks, x_BTD, valid_BT, layers, final_norm=final_norm)

    def _frontend(self, wave_BN: Tensor, lengths_B: Tensor | None) -> Tensor:
        """All convolutions, in pieces: [B, N] -> [B, T, C]."""
        config = self.model.config
        centre_B1K, kernel_BKC, shift_B1C = self.first.folded(wave_BN, lengths_B)
        n_frames = int(self.model.frontend.n_frames(wave_BN.shape[1]))
        out_BTC = wave_BN.new_empty(len(wave_BN), n_frames, config.conv_dim, dtype=self.dtype)
        for clips, frames in self._pieces(len(wave_BN), n_frames, wave_BN.device.type):
            end = (frames.stop - 1) * config.stride + config.receptive_field
            piece_BN = wave_BN[clips, frames.start * config.stride : end]
            patches_BTK = piece_BN.unfold(1, kernel_BKC.shape[1], self.first.stride) - centre_B1K[clips]
            x_BTC = F.gelu(self._first(patches_BTK, kernel_BKC[clips], shift_B1C[clips]))
            for conv in self.convs:
                x_BTC = conv(x_BTC)
            out_BTC[clips, frames] = x_BTC
        return out_BTC

    def _pieces(self, n_clips: int, n_frames: int, device: str) -> Iterator[tuple[slice, slice]]:
        """Clips and frames of each piece: several short clips, or a part of a long one."""
        config = self.model.config
        frame_bytes = config.stride // self.first.stride * config.conv_dim * self.dtype.itemsize
        n_frames_max = max(1, PIECE_BYTES.get(device, 8 << 20) // frame_bytes)
        clips_at_once = max(1, n_frames_max // n_frames)
        for clip in range(0, n_clips, clips_at_once):
            for frame in range(0, n_frames, n_frames_max):
                yield slice(clip, clip + clips_at_once), slice(frame, min(n_frames, frame + n_frames_max))

    def _first(self, patches_BTK: Tensor, kernel_BKC: Tensor, shift_B1C: Tensor) -> Tensor:
        """The first convolution, its norm folded into kernel and shift, as exact as the type of its result allows."""
        if arithmetic(self.dtype, patches_BTK.device.type) == torch.float32:
            return torch.baddbmm(shift_B1C.float(), patches_BTK, kernel_BKC.float()).to(self.dtype)
        # Each factor is the sum of a high and a low part in the shorter type; the product of low parts is negligible.
        high_BTK, low_BTK = halves(patches_BTK, self.dtype)
        high_BKC, low_BKC = halves(torch.cat((kernel_BKC, shift_B1C), 1), self.dtype)
        ones_BT1 = torch.ones_like(high_BTK[:, :, :1])
        terms = torch.cat((high_BTK, ones_BT1, low_BTK, high_BTK, ones_BT1), 2)
        return terms @ torch.cat((high_BKC, high_BKC[:, :-1], low_BKC), 1)


class FastBlock:
    """A block with its three projections as one product, and residuals added within the products."""

    def __init__(self, block: Block, product: Callable[[Tensor, Tensor], Product | Int8Product]) -> None:
        heads = block.attention
        self.pre_norm, self.n_heads = block.pre_norm, heads.n_heads
        self.attention_norm, self.ffn_norm = block.attention_norm, block.ffn_norm
        scale = (heads.query.weight.shape[0] // heads.n_heads) ** -0.5  # of the queries, a power of two where E is 64
        weights = heads.query.weight * scale, heads.key.weight, heads.value.weight
        biases = heads.query.bias * scale, heads.key.bias, heads.value.bias
        self.qkv = product(torch.cat(weights), torch.cat(biases))
        self.out, self.up, self.down = (
            product(layer.weight, layer.bias) for layer in (heads.out, block.ffn.up, block.ffn.down)
        )

    def __call__(self, x_BTD: Tensor, valid_BT: Tensor | None) -> Tensor:
        if self.pre_norm:
            x_BTD = self._attended(norm(x_BTD, self.attention_norm), x_BTD, valid_BT)
            return self.down(self.up(norm(x_BTD, self.ffn_norm), gelu=True), residual=x_BTD)
        x_BTD = norm(self._attended(x_BTD, x_BTD, valid_BT), self.attention_norm)
        return norm(self.down(self.up(x_BTD, gelu=True), residual=x_BTD), self.ffn_norm)

    def _attended(self, x_BTD: Tensor, residual_BTD: Tensor, valid_BT: Tensor | None) -> Tensor:
        qkv_3BHTE = self.qkv(x_BTD).unflatten(2, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4).contiguous()
        mixed_BHTE = attention(qkv_3BHTE[0], qkv_3BHTE[1], qkv_3BHTE[2], valid_BT)
        return self.out(mixed_BHTE.transpose(1, 2).flatten(2), residual=residual_BTD)


def norm(x: Tensor, layer: nn.LayerNorm) -> Tensor:
    """Layer norm in the type of `x`, with statistics and affine parameters in float32."""
    if x.device.type == "cpu":  # accepts mixed types
        return F.layer_norm(x, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
    return F.layer_norm(x.float(), layer.normalized_shape, layer.weight, layer.bias, layer.eps).to(x.dtype)


def halves(values: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two numbers of a shorter type whose sum approximates a longer one.

    >>> high, low = halves(torch.tensor(1 / 3, dtype=torch.float64), torch.bfloat16)
    >>> abs(high.double() + low.double() - 1 / 3) < 1e-5
    tensor(True)
    """
    high = values.to(dtype)
    return high, (values - high).to(dtype)
