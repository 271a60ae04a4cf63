"""Options of an embedding call, as users give them and as they are resolved for one model."""

from collections.abc import Sequence
from dataclasses import dataclass

from mert.embedding.features import Pool
from mert.embedding.windows import Windowing

Layers = str | int | Sequence[str | int]


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """What features to extract and how, as `Embedder.embed` explains; `batch_size` is a number of windows or "auto"."""

    layers: Layers = "all"
    pool: Pool = None
    window: float | str | None = None
    hop: float | None = None
    dtype: str = "auto"
    batch_size: int | str = "auto"
    max_seconds: float | None = None


@dataclass(frozen=True)
class Settings:
    """`EmbedOptions`, checked and resolved for one model on one device."""

    layers: tuple[int, ...]
    windowing: Windowing
    pool: Pool
    dtype: str
    batch_size: int
    max_seconds: float | None = None
    read_ahead: bool = True
