"""Configuration of a conformer of music: a frozen dataclass, and the published sizes as functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ConformerConfig:
    """Shape and switches of a conformer; the defaults are those of MuQ-large.

    `subsampler` is "residual" (two 2-D convolution modules of `conv_dim` channels over the log-mel as an image) or
    "convnext" (1-D stages of `stage_dims` channels and `stage_depths` layers, the first of them at the rate of the
    log-mel). `rope` acts on the projected queries and keys ("projections"), so that positions are relative, or on the
    states before they are projected ("states"): then they are not. `conv_norm` is the norm within the convolution
    module of a block. `last_norm` is a layer norm after the last block. `offset` is the centre of frame 0 in samples.

    >>> muq_large().frame_rate, mert_v2().layer_names[-1]
    (25.0, 'layer24')
    """

    dim: int = 1024
    n_layers: int = 12
    n_heads: int = 16
    ffn_dim: int = 4096
    conv_kernel: int = 31
    subsampler: Literal["residual", "convnext"] = "residual"
    conv_dim: int = 512
    stage_dims: tuple[int, ...] = ()
    stage_depths: tuple[int, ...] = ()
    activation: Literal["gelu", "swish"] = "swish"
    rope: Literal["projections", "states"] = "states"
    conv_norm: Literal["layer", "batch"] = "batch"
    last_norm: bool = True
    offset: int = 0
    n_mels: int = 128
    n_fft: int = 2048
    hop: int = 240
    sample_rate: int = 24_000
    window_s: float = 30.0
    normalize: bool = False  # inputs are taken at their own level

    def __post_init__(self) -> None:
        if self.dim % self.n_heads or self.dim // self.n_heads % 2:
            raise ValueError(f"n_heads={self.n_heads} do not divide dim={self.dim} into even widths")
        if self.subsampler == "convnext":
            dims = self.stage_dims
            if len(dims) != 3 or len(self.stage_depths) != 3 or dims[0] != self.n_mels or dims[-1] != self.dim:
                raise ValueError(f"stage_dims={dims} lead from n_mels={self.n_mels} to dim={self.dim} in three stages")

    @property
    def stride(self) -> int:
        """Samples from one frame to the next: four frames of the log-mel."""
        return 4 * self.hop

    @property
    def least_samples(self) -> int:
        """The shortest usable input: reflection needs half a window and one sample more."""
        return self.n_fft // 2 + 1

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.stride

    @property
    def layer_names(self) -> tuple[str, ...]:
        """`embed` (the first block's input), then `layer01` and so on."""
        return ("embed", *(f"layer{i:02d}" for i in range(1, self.n_layers + 1)))


def mert_v2(window_s: float = 30.0) -> ConformerConfig:
    """MERT-v2: 24 blocks over a ConvNeXt subsampler, trained on 30 s (or, FullSong, on up to 360 s)."""
    return ConformerConfig(
        n_layers=24, subsampler="convnext", conv_dim=0, stage_dims=(128, 512, 1024), stage_depths=(3, 4, 5),
        activation="gelu", rope="projections", conv_norm="layer", last_norm=False, offset=360, window_s=window_s,
    )  # fmt: skip


def muq_large() -> ConformerConfig:
    """MuQ-large, and MusicFM in its shape: 12 blocks over 2-D convolutions."""
    return ConformerConfig()
