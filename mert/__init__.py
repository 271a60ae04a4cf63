"""MERT music representations: `mert.load(name).embed("song.mp3")`."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# OpenMP, which torch starts when it is imported: threads that wait for each other sleep. By default they spin, and on
# cores that are shared with other programs the one that holds up the others gets no turn.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Where each public name lives; imported when first used, so that `mert --help` does not wait for torch.
_ROOMS = {
    "collection.index": ("Index", "similarity"),
    "describe.describer": ("Describer", "load"),
    "describe.description": ("Description",),
    "embedding.embedder": ("Embedder",),
    "embedding.features": ("Features",),
    "embedding.load": ("random_model",),
    "errors": ("AudioError", "CheckpointError", "MertError", "OutputError"),
    "models.config": ("MertConfig",),
    "models.mert": ("Mert",),
    "weights.golden": ("verify",),
    "weights.hub": ("push_to_hub",),
    "weights.publish": ("save_pretrained",),
    "weights.registry": ("ModelInfo", "info", "list_models"),
}
_HOMES = {name: f"mert.{room}" for room, names in _ROOMS.items() for name in names}

__all__ = ["__version__", "runtime", *_HOMES]

if TYPE_CHECKING:
    __version__: str
    from mert.collection.index import Index as Index
    from mert.collection.index import similarity as similarity
    from mert.describe import runtime as runtime
    from mert.describe.describer import Describer as Describer
    from mert.describe.describer import load as load
    from mert.describe.description import Description as Description
    from mert.embedding.embedder import Embedder as Embedder
    from mert.embedding.features import Features as Features
    from mert.embedding.load import random_model as random_model
    from mert.errors import AudioError as AudioError
    from mert.errors import CheckpointError as CheckpointError
    from mert.errors import MertError as MertError
    from mert.errors import OutputError as OutputError
    from mert.models.config import MertConfig as MertConfig
    from mert.models.mert import Mert as Mert
    from mert.weights.golden import verify as verify
    from mert.weights.hub import push_to_hub as push_to_hub
    from mert.weights.publish import save_pretrained as save_pretrained
    from mert.weights.registry import ModelInfo as ModelInfo
    from mert.weights.registry import info as info
    from mert.weights.registry import list_models as list_models


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("mert-hub")
    if name == "runtime":
        return import_module("mert.describe.runtime")
    if name not in _HOMES:
        raise AttributeError(f"module 'mert' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
