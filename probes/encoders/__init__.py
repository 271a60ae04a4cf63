"""Encoders, which extract features for probes: MERT models, hand-made baselines, any callable wave -> [L, T, D]."""

from difflib import get_close_matches
from importlib.metadata import entry_points
from pathlib import Path

from mert.embedding.embedder import Embedder
from mert.errors import CheckpointError
from probes.encoders.baselines import BASELINES
from probes.encoders.encoder import Encoder, EncoderFacts, Frames
from probes.encoders.pretrained import MertEncoder

__all__ = ["BASELINES", "Encoder", "EncoderFacts", "Frames", "MertEncoder", "load_encoder"]

GROUP = "mert.encoders"
RANDOM = ("random-nano", "random-95m", "random-330m")


def load_encoder(
    name: str, context: str = "window", device: str = "auto", revision: str | None = None, dtype: str = "float32"
) -> Encoder:
    """A MERT by name or folder, `random-nano`, `random-95m`, `random-330m`, or a hand-made baseline by its name.

    Installed packages add encoders by the entry-point group `mert.encoders`: a function of no arguments that returns an
    `Encoder`, under the name by which it is asked for.
    """
    if name in BASELINES:
        return BASELINES[name]()
    for point in entry_points(group=GROUP, name=name):
        encoder: Encoder = point.load()()
        return encoder
    import mert

    if name.startswith("random-"):
        model = mert.random_model(name.removeprefix("random-"))
        return MertEncoder(Embedder(model.model, model.info, model.sha256, device), context, dtype=dtype)
    try:
        return MertEncoder(mert.load(name, revision=revision, device=device), context, dtype=dtype)
    except CheckpointError as error:
        close = get_close_matches(name.lower(), (*BASELINES, *RANDOM), cutoff=0.7)
        if not close or Path(name).exists():
            raise
        raise CheckpointError(error.source, error.reason, f"try {' or '.join(close)}; or {error.remedy}") from None
