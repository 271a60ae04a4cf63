"""`mert.runtime`: models run by onnxruntime, whether or not torch is installed; nothing here imports torch."""

from pathlib import Path

from mert.describe.describer import Describer
from mert.embedding.embedder import Embedder
from mert.weights.hub import heads_folder, load_weights


def load(name_or_dir: str | Path, revision: str | None = None) -> Describer:
    """`mert.load` by onnxruntime: from the same names, and from folders that `mert export --to onnx` wrote.

    Features equal those of torch to 1e-4 of max(1, rms of the layer), in float32. MertError if the extra [onnx] is not
    installed.

    >>> import numpy as np, mert
    >>> m = mert.runtime.load("mert-nano")
    >>> m.embed(np.sin(np.arange(44_100) / 10), sr=44_100, layers=["layer05"]).values.shape
    (1, 72, 256)
    """
    model, info = load_weights(name_or_dir, revision, with_torch=False)
    return Describer.of(Embedder(model, info, info.sha256 or ""), heads_folder(name_or_dir, info))
