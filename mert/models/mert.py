"""Mert: waveform in, one hidden state per layer out. The page to read first.

    wave [B, N] --ConvFrontend--> [B, T, C] --norm, linear--> [B, T, D] --Encoder--> L + 1 states [B, T, D]

Shapes: B clips, N samples, T frames, C conv channels, D model width, L blocks.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from mert.models.config import MertConfig
from mert.models.cpu import Linear
from mert.models.encoder import Encoder
from mert.models.frontend import ConvFrontend


class Projection(nn.Module):
    """Layer norm over the conv channels, then a linear map to the model width."""

    def __init__(self, config: MertConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.conv_dim, eps=config.norm_eps)
        self.linear = Linear(config.conv_dim, config.dim)
        self.dropout = nn.Dropout(config.input_dropout)

    def forward(self, features_BTC: Tensor) -> Tensor:
        return self.dropout(self.linear(self.norm(features_BTC)))


class Mert(nn.Module):
    """The MERT encoder (MERT paper, arXiv 2306.00107, section 3.1), without its training heads.

    The wave is float, mono, at `config.sample_rate`, about [-1, 1]. Rows may be zero-padded on the right when
    their `lengths_B` (samples) are given: a padded row's valid frames equal those of the clip alone, because group
    norm, positional convolution and attention read valid samples only.

    >>> import torch; from mert.models.config import nano
    >>> model = Mert(nano()).eval()
    >>> states = model(torch.zeros(2, 24_000))
    >>> len(states), states[0].shape
    (7, torch.Size([2, 72, 256]))
    """

    def __init__(self, config: MertConfig) -> None:
        super().__init__()
        self.config = config
        self.frontend = ConvFrontend(config)
        self.projection = Projection(config)
        self.mask_embed = nn.Parameter(torch.rand(config.dim))  # replaces masked frames in pretraining
        self.encoder = Encoder(config)

    def forward(
        self, wave_BN: Tensor, lengths_B: Tensor | None = None, layers: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Hidden states [B, T, D] of `layers` (0 = encoder input, all by default), in the order asked for.

        Raises ValueError for fewer samples than one frame needs. Nothing above the highest layer is computed.
        """
        shortest = wave_BN.shape[1] if lengths_B is None else int(lengths_B.min())
        if shortest < self.config.receptive_field:
            raise ValueError(f"{shortest} samples are too few: one frame reads {self.config.receptive_field}")
        features_BTC = self.frontend(wave_BN, lengths_B)
        return self.encode(features_BTC, self.valid_frames(lengths_B, features_BTC.shape[1]), layers)

    def encode(
        self, features_BTC: Tensor, valid_BT: Tensor | None = None, layers: Sequence[int] | None = None,
        mask_BT: Tensor | None = None, skip: Collection[int] = (),
    ) -> list[Tensor]:  # fmt: skip
        """Hidden states of the front end's features. `mask_BT` marks frames to mask, `skip` names layers to drop."""
        x_BTD = self.projection(features_BTC)
        if mask_BT is not None:
            x_BTD = torch.where(mask_BT.unsqueeze(2), self.mask_embed.to(x_BTD.dtype), x_BTD)
        return self.encoder(x_BTD, valid_BT, layers, skip)

    def n_frames(self, n_samples: int) -> int:
        """Frames of a wave of `n_samples`."""
        return int(self.frontend.n_frames(n_samples))

    def valid_frames(self, lengths_B: Tensor | None, n_frames: int) -> Tensor | None:
        """Boolean [B, T], true where a frame lies wholly inside its clip; None without lengths."""
        if lengths_B is None:
            return None
        frames_B = self.frontend.n_frames(lengths_B)
        return torch.arange(n_frames, device=lengths_B.device) < frames_B[:, None]  # type: ignore[index]
