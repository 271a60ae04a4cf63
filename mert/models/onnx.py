"""OnnxModel: a model as a graph that onnxruntime runs, in place of the torch module; this page imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class GraphInMemory:
    """A serialised graph, and the weights that it names and has no room for."""

    content: bytes
    beside: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class OnnxModel:
    """A graph in memory or in a file (wave [B, N] -> states [L, B, T, D]), that of its int8 weights, and their config.

    `source` is the folder or file that the graph is of; whoever unpickles one reads it from there again.
    """

    config: Any  # a NetworkConfig
    graph: GraphInMemory | Path
    source: Path
    int8: Path | None = None
