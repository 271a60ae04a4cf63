"""What a family of networks must offer to be embedded, probed and published like any other: one page.

A network is a module of torch that turns waves into named hidden states on one clock; its configuration says all that
must be known without its weights. `Mert` is the first family and `Conformer` the second. A family is entered with its
reader in `mert.weights.checkpoints` and, to run fast, in `mert.inference.runner`; for onnxruntime, with its graph in
`mert.weights.graphs.write`.
Shapes: B clips, N samples, T frames, D model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class NetworkConfig(Protocol):
    """Frame t begins at sample `stride` t and belongs to sample `stride` t + `centre`.

    N samples give floor((N - `receptive_field`) / `stride`) + 1 frames, and none if they are fewer than
    `least_samples`. `window_s` is the training context; `normalize` says whether windows are brought to zero mean and
    unit variance; states are `layer_names`, of width `dim`.
    """

    @property
    def family(self) -> str: ...
    @property
    def sample_rate(self) -> int: ...
    @property
    def stride(self) -> int: ...
    @property
    def receptive_field(self) -> int: ...
    @property
    def centre(self) -> float: ...
    @property
    def least_samples(self) -> int: ...
    @property
    def frame_rate(self) -> float: ...
    @property
    def window_s(self) -> float: ...
    @property
    def normalize(self) -> bool: ...
    @property
    def dim(self) -> int: ...
    @property
    def n_layers(self) -> int: ...
    @property
    def layer_names(self) -> tuple[str, ...]: ...
    @property
    def n_params(self) -> int: ...

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""


class Network(Protocol):
    """A module of torch with a configuration."""

    config: Any  # a NetworkConfig

    def __call__(
        self, wave_BN: Tensor, lengths_B: Tensor | None = None, layers: Sequence[int] | None = None
    ) -> list[Tensor]:
        """Hidden states [B, T, D] of `layers` (all by default), in the order asked for, and none above the highest.

        Rows of other lengths than N are padded with zeros, and `lengths_B` given: their frames are those of the clip
        alone.
        """

    def n_frames(self, n_samples: int) -> int:
        """Frames of a wave."""
