"""OnnxMert: a MERT as a graph that onnxruntime runs, in place of the torch module; this page imports no torch."""

from dataclasses import dataclass
from pathlib import Path

from mert.models.config import MertConfig


@dataclass(frozen=True)
class OnnxMert:
    """A graph in memory or in a file (wave [B, N] -> states [L, B, T, D]), that of its int8 weights, and their config.

    `source` is the folder or file that the graph is of; whoever unpickles one reads it from there again.
    """

    config: MertConfig
    graph: bytes | Path
    source: Path
    int8: Path | None = None
