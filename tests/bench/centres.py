"""Centres of a model over the recordings of a folder: `python centres.py MODEL FOLDER OUT` writes centres.safetensors.

MODEL is a bundled name or a folder, FOLDER holds music like that on which the model was trained, and OUT is the folder
of the weights. Those of the bundled models: 300 clips of `mert bench synth 4 --sampled --seconds 3 --seed 303
--borrowed 0.4` for `mert-nano`, and 300 of `mert bench synth 0.5 --seconds 5 --seed 41` for `mert-nano-1`.
Shapes: L layers, D model width.
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np

import mert
from mert.audio.find import audio_under
from mert.weights.centres import write_centres

MOST = 300  # recordings, drawn by a seed


def main(model: str, folder: Path, out: Path) -> None:
    """Write the mean vectors of all layers."""
    m, files = mert.load(model), list(audio_under(folder, Counter()))
    chosen = np.random.default_rng(0).permutation(len(files))[:MOST]
    pooled = m.embed_many([files[i] for i in chosen], pool="mean", dtype="float32")
    mean_LD = np.mean([features.values.astype(np.float64) for features in pooled], axis=0)
    path = write_centres(out, dict(zip(m.layer_names, mean_LD, strict=True)), m.sha256)
    print(f"{path}: {len(chosen)} recordings of {len(files)}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
