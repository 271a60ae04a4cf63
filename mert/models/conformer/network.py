"""Conformer: waveform in, one hidden state per layer out. The page to read first of the conformer family.

    wave [B, N] --LogMel--> [B, L, M] --subsampler--> [B, T, D] --blocks--> states [B, T, D]

Shapes: B clips, N samples, L mel frames, M mels, T frames, D model width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mert.models.conformer.blocks import Block, rotations
from mert.models.conformer.config import NORM_EPS, ConformerConfig
from mert.models.conformer.logmel import LogMel
from mert.models.conformer.subsamplers import ConvNextSubsampler, ResidualSubsampler


class Conformer(nn.Module):
    """The encoder of MERT-v2, MuQ and MusicFM (arXiv 2501.01108, 2311.03318), without training heads.

    The wave is float, mono, at `config.sample_rate` and its own level. Rows may be zero-padded on the right when their
    `lengths_B` (samples) are given: a padded row's valid frames equal those of the clip alone. State 0, `embed`, is the
    subsampler's output; state i the output of block i, the last one after `norm` where the configuration has one.

    >>> from mert.models.conformer.config import ConformerConfig
    >>> model = Conformer(ConformerConfig(dim=64, n_layers=2, n_heads=4, ffn_dim=96, conv_dim=8)).eval()
    >>> [state.shape for state in model(torch.zeros(2, 24_000), layers=[0, 2])]
    [torch.Size([2, 25, 64]), torch.Size([2, 25, 64])]
    """

    def __init__(self, config: ConformerConfig) -> None:
        super().__init__()
        self.config = config
        self.frontend = LogMel(config)
        subsampler = ConvNextSubsampler if config.subsampler == "convnext" else ResidualSubsampler
        self.subsampler: nn.Module = subsampler(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.dim, eps=NORM_EPS) if config.last_norm else None

    def forward(
        self, wave_BN: Tensor, lengths_B: Tensor | None = None, layers: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Hidden states [B, T, D] of `layers` (0 = embed, all by default), in the order asked for.

        Raises ValueError for fewer samples than the window reflects. Nothing above the highest layer is computed.
        """
        self.check(wave_BN, lengths_B)
        mel_BLM = self.frontend(wave_BN, lengths_B)
        n_B = None if lengths_B is None else lengths_B // self.config.hop
        x_BTD, n_B = self.subsampler(mel_BLM.to(next(self.blocks.parameters()).dtype), n_B)
        return self.encode(x_BTD, n_B, layers)

    def check(self, wave_BN: Tensor, lengths_B: Tensor | None) -> None:
        """ValueError for clips that are too short."""
        shortest = wave_BN.shape[1] if lengths_B is None else int(lengths_B.min())
        if shortest < self.config.least_samples:
            raise ValueError(f"{shortest} samples are too few: give {self.config.least_samples} or more")

    def n_frames(self, n_samples: int) -> int:
        """Frames of a wave of `n_samples`."""
        return (n_samples - self.config.receptive_field) // self.config.stride + 1

    def encode(self, x_BTD: Tensor, n_B: Tensor | None = None, layers: Sequence[int] | None = None) -> list[Tensor]:
        """Hidden states of the subsampler's output, of which the first n frames of each clip are valid."""
        wanted = range(len(self.blocks) + 1) if layers is None else layers
        table = rotations(x_BTD.shape[1], self.config.dim // self.config.n_heads, x_BTD.device)
        valid_BT = None if n_B is None else torch.arange(x_BTD.shape[1], device=x_BTD.device) < n_B[:, None]
        states = {0: x_BTD}
        for i, block in enumerate(self.blocks[: max(wanted)], start=1):
            x_BTD = block(x_BTD, table, n_B, valid_BT)
            states[i] = self.norm(x_BTD) if self.norm is not None and i == len(self.blocks) else x_BTD
        return [states[i] for i in wanted]
