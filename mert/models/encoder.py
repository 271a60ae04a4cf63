"""The transformer: positional convolution, self-attention blocks, and every hidden state on the way.

Shapes: B clips, T frames, D model width, H heads, E = D / H.
"""

from collections.abc import Callable, Collection, Iterable, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mert.models.config import MertConfig
from mert.models.cpu import Linear


class PositionalConv(nn.Module):
    """Relative positions as the output of a wide grouped convolution, added to its input (wav2vec 2.0)."""

    def __init__(self, config: MertConfig) -> None:
        super().__init__()
        kernel = config.position_kernel
        conv = nn.Conv1d(config.dim, config.dim, kernel, padding=kernel // 2, groups=config.position_groups)
        nn.init.normal_(conv.weight, std=(4 / (kernel * config.dim)) ** 0.5)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        self.conv = nn.utils.parametrizations.weight_norm(conv, dim=2)

    def forward(self, x_BTD: Tensor) -> Tensor:
        position_BDT = self.conv(x_BTD.transpose(1, 2))
        return F.gelu(position_BDT[:, :, : x_BTD.shape[1]]).transpose(1, 2)  # an even kernel gives a frame too many


class Attention(nn.Module):
    """Multi-head self-attention with biases, over the frames that `valid_BT` marks (all of them by default)."""

    def __init__(self, config: MertConfig) -> None:
        super().__init__()
        self.n_heads, self.dropout = config.n_heads, config.attention_dropout
        self.query, self.key, self.value, self.out = (Linear(config.dim, config.dim) for _ in range(4))

    def forward(self, x_BTD: Tensor, valid_BT: Tensor | None) -> Tensor:
        q_BHTE, k_BHTE, v_BHTE = (
            linear(x_BTD).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for linear in (self.query, self.key, self.value)
        )
        valid_B11T = None if valid_BT is None else valid_BT[:, None, None, :]
        dropout = self.dropout if self.training else 0.0
        mixed_BHTE = F.scaled_dot_product_attention(q_BHTE, k_BHTE, v_BHTE, attn_mask=valid_B11T, dropout_p=dropout)
        return self.out(mixed_BHTE.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Linear layer to the wider `ffn_dim`, exact GELU, linear layer back."""

    def __init__(self, config: MertConfig) -> None:
        super().__init__()
        self.up, self.down = Linear(config.dim, config.ffn_dim), Linear(config.ffn_dim, config.dim)
        self.dropout = nn.Dropout(config.activation_dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down(self.dropout(F.gelu(self.up(x_BTD))))


class Block(nn.Module):
    """Attention and feed-forward with residuals; each is followed (95M) or preceded (330M) by a layer norm."""

    def __init__(self, config: MertConfig) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.attention, self.ffn = Attention(config), FeedForward(config)
        self.attention_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.ffn_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, valid_BT: Tensor | None) -> Tensor:
        if self.pre_norm:
            x_BTD = x_BTD + self.dropout(self.attention(self.attention_norm(x_BTD), valid_BT))
            return x_BTD + self.dropout(self.ffn(self.ffn_norm(x_BTD)))
        x_BTD = self.attention_norm(x_BTD + self.dropout(self.attention(x_BTD, valid_BT)))
        return self.ffn_norm(x_BTD + self.dropout(self.ffn(x_BTD)))


class Encoder(nn.Module):
    """Positional convolution and the stack of blocks (MERT paper, section 3.1).

    Shape: [B, T, D] -> a list of [B, T, D], one per layer asked for. State 0 is the input of the first block; state i
    is the output of block i. In pre-LN models only the last state is normalised, as published.

    >>> import torch; from mert.models.config import nano
    >>> [s.shape for s in Encoder(nano())(torch.zeros(1, 74, 256), layers=[0, 2])]
    [torch.Size([1, 74, 256]), torch.Size([1, 74, 256])]
    """

    def __init__(self, config: MertConfig) -> None:
        super().__init__()
        self.position = PositionalConv(config)
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.n_layers)])
        self.pre_norm = config.pre_norm
        for linear in self.blocks.modules():
            if isinstance(linear, Linear):
                nn.init.normal_(linear.weight, std=0.02)
                nn.init.zeros_(linear.bias)

    def forward(
        self, x_BTD: Tensor, valid_BT: Tensor | None = None, layers: Sequence[int] | None = None,
        skip: Collection[int] = (),
    ) -> list[Tensor]:  # fmt: skip
        """States of `layers` (all by default), computed no deeper than the highest; `skip` names dropped layers."""
        if valid_BT is not None:
            x_BTD = x_BTD * valid_BT.unsqueeze(2)
        x_BTD = x_BTD + self.position(x_BTD)
        x_BTD = self.dropout(x_BTD if self.pre_norm else self.norm(x_BTD))
        return block_states(self.blocks, x_BTD, valid_BT, layers, skip, self.norm if self.pre_norm else None)


def block_states(
    blocks: Iterable[Callable[[Tensor, Tensor | None], Tensor]], x_BTD: Tensor, valid_BT: Tensor | None,
    layers: Sequence[int] | None = None, skip: Collection[int] = (),
    final_norm: Callable[[Tensor], Tensor] | None = None,
) -> list[Tensor]:  # fmt: skip
    """States [B, T, D] of `layers`: 0 is `x_BTD`, i the output of block i; `final_norm` is applied to the last only.

    Blocks above the highest of `layers` (all by default) do not run, nor those in `skip`.
    """
    blocks = list(blocks)
    wanted = range(len(blocks) + 1) if layers is None else layers
    states = {0: x_BTD}
    for i, block in enumerate(blocks[: max(wanted)], start=1):
        x_BTD = x_BTD if i in skip else block(x_BTD, valid_BT)
        if i in wanted:
            states[i] = final_norm(x_BTD) if final_norm and i == len(blocks) else x_BTD
    return [states[i] for i in wanted]
