"""The macaron block of the conformer (Gulati et al. 2020): half a feed-forward, attention, convolution, another half.

Shapes: B clips, T frames, D model width, H heads, E = D / H.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mert.models.conformer.config import NORM_EPS, ROPE_BASE, ConformerConfig
from mert.models.conformer.subsamplers import zeroed


def rotations(n_frames: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines [T, E / 2] of rotary positions, in float32 whatever the model computes in."""
    inverse_E = ROPE_BASE ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    angle_TE = torch.arange(n_frames, device=device, dtype=torch.float32)[:, None] * inverse_E
    return angle_TE.cos(), angle_TE.sin()


def rotated(x_BTHE: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Heads turned by their positions: the two halves of each head are the coordinates of its planes.

    >>> table = rotations(2, 2, torch.device("cpu"))
    >>> [round(x, 2) for x in rotated(torch.tensor([1.0, 0.0]).expand(1, 2, 1, 2), table)[0, 1, 0].tolist()]
    [0.54, 0.84]
    """
    cos_T1E, sin_T1E = (part[:, None] for part in table)
    a_BTHE, b_BTHE = x_BTHE.to(torch.promote_types(x_BTHE.dtype, torch.float32)).chunk(2, -1)
    turned = a_BTHE * cos_T1E - b_BTHE * sin_T1E, b_BTHE * cos_T1E + a_BTHE * sin_T1E
    return torch.cat(turned, -1).to(x_BTHE.dtype)


class Attention(nn.Module):
    """Full self-attention with rotary positions, of projected queries and keys or of the states before them."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.n_heads, self.relative = config.n_heads, config.rope == "projections"
        self.query, self.key, self.value, self.out = (nn.Linear(config.dim, config.dim) for _ in range(4))

    def forward(self, x_BTD: Tensor, table: tuple[Tensor, Tensor], valid_BT: Tensor | None) -> Tensor:
        if self.relative:
            q_BTHE, k_BTHE = (rotated(self._heads(linear(x_BTD)), table) for linear in (self.query, self.key))
        else:
            placed_BTD = rotated(self._heads(x_BTD), table).flatten(2)
            q_BTHE, k_BTHE = (self._heads(linear(placed_BTD)) for linear in (self.query, self.key))
        parts = (q_BTHE, k_BTHE, self._heads(self.value(x_BTD)))
        q_BHTE, k_BHTE, v_BHTE = (part.transpose(1, 2) for part in parts)
        mask_B11T = None if valid_BT is None else valid_BT[:, None, None]
        mixed_BHTE = F.scaled_dot_product_attention(q_BHTE, k_BHTE, v_BHTE, attn_mask=mask_B11T)
        return self.out(mixed_BHTE.transpose(1, 2).flatten(2))

    def _heads(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.unflatten(2, (self.n_heads, -1))


class FeedForward(nn.Module):
    """Linear layer to the wider `ffn_dim`, activation, linear layer back."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(config.dim, config.ffn_dim), nn.Linear(config.ffn_dim, config.dim)
        self.activation = activation_of(config)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x_BTD)))


class ConvModule(nn.Module):
    """Norm, gated pointwise layer, depthwise convolution, norm, activation, pointwise layer; without biases."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        dim, kernel = config.dim, config.conv_kernel
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.expand, self.contract = nn.Linear(dim, 2 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim, bias=False)
        layer = config.conv_norm == "layer"
        self.middle_norm = nn.LayerNorm(dim, eps=NORM_EPS) if layer else nn.BatchNorm1d(dim, eps=NORM_EPS)
        self.activation = activation_of(config)

    def forward(self, x_BTD: Tensor, n_B: Tensor | None) -> Tensor:
        gated_BTD = zeroed(F.glu(self.expand(self.norm(x_BTD)), -1), n_B, 1)
        y_BDT = self.depthwise(gated_BTD.transpose(1, 2))
        if isinstance(self.middle_norm, nn.BatchNorm1d):
            y_BTD = self.middle_norm(y_BDT).transpose(1, 2)
        else:
            y_BTD = self.middle_norm(y_BDT.transpose(1, 2))
        return self.contract(self.activation(y_BTD))


class Block(nn.Module):
    """One block; every part reads its own norm of the stream, and a last norm ends the block."""

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.ffn1, self.ffn2, self.attention = FeedForward(config), FeedForward(config), Attention(config)
        self.conv = ConvModule(config)
        norms = (nn.LayerNorm(config.dim, eps=NORM_EPS) for _ in range(4))
        self.ffn1_norm, self.attention_norm, self.ffn2_norm, self.last_norm = norms

    def forward(
        self, x_BTD: Tensor, table: tuple[Tensor, Tensor], n_B: Tensor | None, valid_BT: Tensor | None
    ) -> Tensor:
        x_BTD = x_BTD + 0.5 * self.ffn1(self.ffn1_norm(x_BTD))
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), table, valid_BT)
        x_BTD = x_BTD + self.conv(x_BTD, n_B)
        x_BTD = x_BTD + 0.5 * self.ffn2(self.ffn2_norm(x_BTD))
        return self.last_norm(x_BTD)


def activation_of(config: ConformerConfig) -> nn.Module:
    """Exact GELU, or swish."""
    return nn.GELU() if config.activation == "gelu" else nn.SiLU()
