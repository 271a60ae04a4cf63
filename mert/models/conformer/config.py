"""Configuration of a conformer of music: a frozen dataclass, and the published sizes as functions."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any, Literal, Self

from mert.errors import CheckpointError

NORM_EPS = 1e-5  # of the norms of blocks, and of batch norms; as the constants below, the same in all published models
CONVNEXT_EPS = 1e-6  # of the norms of the ConvNeXt subsampler
ROPE_BASE = 10_000.0
POWER_FLOOR = 1e-10  # of the mel bands: -100 dB

BOUNDS: dict[str, tuple[float, float]] = {  # of what can be built and run; a configuration may come from anyone
    "dim": (2, 2**16), "n_layers": (1, 2**10), "n_heads": (1, 2**10), "ffn_dim": (1, 2**20), "conv_kernel": (1, 2**12),
    "conv_dim": (0, 2**16), "stage_dims": (1, 2**16), "stage_depths": (1, 2**8), "n_mels": (1, 2**12),
    "n_fft": (2, 2**20), "hop": (1, 2**20), "sample_rate": (1_000, 1_000_000), "window_s": (0.1, 86_400),
    "centre": (0, 2**20),
}  # fmt: skip
CHOICES: dict[str, tuple[object, ...]] = {
    "subsampler": ("residual", "convnext"), "activation": ("gelu", "swish"), "rope": ("projections", "states"),
    "conv_norm": ("layer", "batch"), "last_norm": (True, False), "normalize": (True, False),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ConformerConfig:
    """Shape and switches of a conformer; the defaults are those of MuQ-large.

    `subsampler` is "residual" (two 2-D convolution modules of `conv_dim` channels over the log-mel as an image) or
    "convnext" (1-D stages of `stage_dims` channels and `stage_depths` layers, the first of them at the rate of the
    log-mel). `rope` acts on the projected queries and keys ("projections"), so that positions are relative, or on the
    states before they are projected ("states"): then they are not. `conv_norm` is the norm within the convolution
    module of a block. `last_norm` is a layer norm after the last block. Frame 0 belongs to the sample `centre`.

    >>> muq_large().frame_rate, mert_v2().layer_names[-1]
    (25.0, 'layer24')
    """

    family: str = "muq"
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
    centre: int = 0
    n_mels: int = 128
    n_fft: int = 2048
    hop: int = 240
    sample_rate: int = 24_000
    window_s: float = 30.0
    normalize: bool = False  # inputs are taken at their own level

    def __post_init__(self) -> None:
        for name, (least, most) in BOUNDS.items():
            values = value if isinstance(value := getattr(self, name), tuple) else (value,)
            if not all(isinstance(value, int | float) and least <= value <= most for value in values):
                raise ValueError(f"{name}={value} is not from {least:g} to {most:g}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is none of {', '.join(map(str, choices))}")
        if self.conv_kernel % 2 == 0:
            raise ValueError(f"conv_kernel={self.conv_kernel} is even, and has no middle")
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
    def receptive_field(self) -> int:
        """Samples that must be there for a frame to be counted: all of its hop, or a quarter where that is rounded up.

        >>> config = muq_large()
        >>> [(n - config.receptive_field) // config.stride + 1 for n in (1025, 1199, 1200, 24_000)]
        [1, 1, 2, 25]
        """
        return self.stride if self.subsampler == "convnext" else self.hop

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

    @property
    def n_params(self) -> int:
        """Parameters of the network.

        >>> mert_v2().n_params
        632295808
        """
        d, f = self.dim, self.ffn_dim
        block = 2 * (2 * d * f + f + d) + 4 * (d * d + d) + 3 * d * d + d * self.conv_kernel + 6 * 2 * d
        return self._subsampler_params() + self.n_layers * block + 2 * d * self.last_norm

    def _subsampler_params(self) -> int:
        c = self.conv_dim
        if self.subsampler == "residual":
            modules = sum(9 * (c * c_in + c * c + c * c_in) + 3 * c + 6 * c for c_in in (1, c))
            return modules + c * ((self.n_mels + 3) // 4) * self.dim + self.dim
        layers = sum(n * (8 * w + 2 * w + 4 * w * w + 4 * w + 8 * w + 4 * w * w + w)
                     for n, w in zip(self.stage_depths, self.stage_dims, strict=True))  # fmt: skip
        halvings = sum(2 * a + 2 * a * b + b for a, b in pairwise(self.stage_dims))
        return layers + halvings

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; an unknown key is an error that names it."""
        if unknown := sorted(set(values) - {f.name for f in fields(cls)}):
            raise CheckpointError("config", f"unknown keys {unknown}", "update mert-hub, or remove the keys")
        typed: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**typed)


def mert_v2(window_s: float = 30.0) -> ConformerConfig:
    """MERT-v2: 24 blocks over a ConvNeXt subsampler, trained on 30 s (or, FullSong, on up to 360 s)."""
    return ConformerConfig(
        family="mert-v2", n_layers=24, subsampler="convnext", conv_dim=0, stage_dims=(128, 512, 1024),
        stage_depths=(3, 4, 5), activation="gelu", rope="projections", conv_norm="layer", last_norm=False, centre=360,
        window_s=window_s,
    )  # fmt: skip


def muq_large() -> ConformerConfig:
    """MuQ-large, and MusicFM in its shape: 12 blocks over 2-D convolutions."""
    return ConformerConfig()
