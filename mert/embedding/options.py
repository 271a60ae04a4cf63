"""Options of an embedding call, as users give them and as they are resolved for one model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mert.embedding.features import Pool
from mert.embedding.windows import Windowing

Layers = str | int | Sequence[str | int]


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """What features to extract and how; `Embedder.settings` resolves them.

    `layers` are names or integers (0 = embed, negatives from the end), "all", "last" or "recommended"; `window` is
    seconds (default: the training context) or "whole"; `hop` is seconds between windows (default: a window); `dtype`
    is float32, bfloat16, float16, int8 or "auto"; `batch_size` is a number of windows or "auto".
    """

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
