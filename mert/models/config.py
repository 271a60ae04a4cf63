"""Configuration of a MERT: a frozen dataclass, and the named sizes as functions."""

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, Self

from mert.errors import CheckpointError

BOUNDS: dict[str, tuple[float, float]] = {  # of what can be built and run; a configuration may come from anyone
    "dim": (1, 2**16), "n_layers": (1, 2**10), "n_heads": (1, 2**10), "ffn_dim": (1, 2**20), "conv_dim": (1, 2**16),
    "position_kernel": (1, 2**16), "position_groups": (1, 2**16), "conv_kernels": (1, 2**12),
    "conv_strides": (1, 2**12), "sample_rate": (1_000, 1_000_000), "window_s": (0.001, 86_400), "norm_eps": (0, 1),
    "dropout": (0, 1), "attention_dropout": (0, 1), "activation_dropout": (0, 1), "input_dropout": (0, 1),
    "layer_drop": (0, 1),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MertConfig:
    """Shape and recorded properties of a MERT (MERT paper, section 3; arXiv 2306.00107).

    `pre_norm` is the only structural difference between the 95M (post-LN) and the 330M (pre-LN) models.
    `normalize` records whether the weights expect zero-mean, unit-variance windows; `window_s` is the
    training context in seconds and the default window of `embed`.

    >>> base_95m().frame_rate, base_95m().receptive_field
    (75.0, 400)
    """

    dim: int = 768
    n_layers: int = 12
    n_heads: int = 12
    ffn_dim: int = 3072
    pre_norm: bool = False
    conv_dim: int = 512
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    position_kernel: int = 128
    position_groups: int = 16
    sample_rate: int = 24_000
    window_s: float = 5.0
    normalize: bool = True
    dropout: float = 0.1
    attention_dropout: float = 0.1
    activation_dropout: float = 0.0
    input_dropout: float = 0.1
    layer_drop: float = 0.05
    norm_eps: float = 1e-5
    family: ClassVar[str] = "mert"

    def __post_init__(self) -> None:
        for name, (least, most) in BOUNDS.items():
            values = value if isinstance(value := getattr(self, name), tuple) else (value,)
            if not values or not all(least <= value <= most for value in values):
                raise ValueError(f"{name}={value} is not from {least:g} to {most:g}")
        if self.dim % self.n_heads or self.dim % self.position_groups:
            parts = f"n_heads={self.n_heads} and of position_groups={self.position_groups}"
            raise ValueError(f"dim={self.dim} must be a multiple of {parts}")
        if len(self.conv_kernels) != len(self.conv_strides):
            raise ValueError("conv_kernels and conv_strides need one entry per convolution")
        if self.receptive_field > self.window_s * self.sample_rate:
            raise ValueError(f"window_s={self.window_s:g} is shorter than {self.receptive_field} samples, a frame")

    @property
    def stride(self) -> int:
        """Samples from one frame to the next."""
        return math.prod(self.conv_strides)

    @property
    def receptive_field(self) -> int:
        """Samples that one frame reads, which is also the shortest usable input."""
        field = 1
        for kernel, stride in zip(reversed(self.conv_kernels), reversed(self.conv_strides), strict=True):
            field = (field - 1) * stride + kernel
        return field

    @property
    def centre(self) -> float:
        """The sample to which frame 0 belongs: the middle of its receptive field."""
        return self.receptive_field / 2

    @property
    def least_samples(self) -> int:
        """The shortest usable input: one frame."""
        return self.receptive_field

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.stride

    @property
    def layer_names(self) -> tuple[str, ...]:
        """`embed` (the encoder's input), then `layer01` and so on."""
        return ("embed", *(f"layer{i:02d}" for i in range(1, self.n_layers + 1)))

    @property
    def n_params(self) -> int:
        """Parameters of the model, without training heads.

        >>> base_95m().n_params, large_330m().n_params
        (94371712, 315428992)
        """
        c, d, k = self.conv_dim, self.dim, self.position_kernel
        convs = c * self.conv_kernels[0] + c * c * sum(self.conv_kernels[1:])
        norms = 2 * c + 2 * c + 2 * d  # of the first convolution, the projection and the encoder
        projection_and_mask = c * d + d + d
        position = d * (d // self.position_groups) * k + k + d
        block = 4 * (d * d + d) + 2 * d * self.ffn_dim + self.ffn_dim + d + 2 * 2 * d
        return convs + norms + projection_and_mask + position + self.n_layers * block

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; an unknown key is an error that names it."""
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise CheckpointError("config", f"unknown keys {unknown}", "update mert-hub, or remove the keys")
        typed: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**typed)


def nano() -> MertConfig:
    """A MERT of 6.6 million parameters that runs many times faster than real time on a laptop core.

    Its two convolutions cost less than half of the published sizes' seven with half their channels, and can be
    initialised as a filterbank (`mert.train.initialisation`). Inputs are brought to one level.

    >>> nano().receptive_field, nano().frame_rate
    (1216, 75.0)
    """
    return MertConfig(
        dim=256, n_layers=6, n_heads=4, ffn_dim=1024, conv_dim=256, conv_kernels=(64, 19), conv_strides=(64, 5),
        pre_norm=True, dropout=0.0, attention_dropout=0.0, input_dropout=0.0, layer_drop=0.0, normalize=True,
        window_s=3.0,
    )  # fmt: skip


def nano_1() -> MertConfig:
    """`nano` as it was first: a context of 1 s, inputs as they are, and frames that read 400 samples."""
    return replace(nano(), conv_kernels=(40, 19), conv_strides=(20, 16), normalize=False, window_s=1.0)


def base_95m() -> MertConfig:
    """MERT-v1-95M: 12 post-LN layers of 768, trained on 5 s crops."""
    return MertConfig()


def large_330m() -> MertConfig:
    """MERT-v1-330M: 24 pre-LN layers of 1024, trained on 5.12 s crops."""
    return MertConfig(
        dim=1024, n_layers=24, n_heads=16, ffn_dim=4096, pre_norm=True, window_s=5.12, dropout=0.0,
        attention_dropout=0.0, input_dropout=0.0, layer_drop=0.0,
    )  # fmt: skip
