"""MERT music representations: `mert.load(name).embed("song.mp3")`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Where each public name lives; imported when first used, so that `mert --help` does not wait for torch.
_HOMES = {
    "load": "mert.hub",
    "push_to_hub": "mert.hub",
    "list_models": "mert.registry",
    "info": "mert.registry",
    "ModelInfo": "mert.registry",
    "save_pretrained": "mert.publish",
    "verify": "mert.publish",
    "Embedder": "mert.embed",
    "random_model": "mert.embed",
    "Features": "mert.features",
    "Mert": "mert.model",
    "MertConfig": "mert.config",
    "MertError": "mert.errors",
    "AudioError": "mert.errors",
    "CheckpointError": "mert.errors",
    "OutputError": "mert.errors",
}

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from mert.config import MertConfig
    from mert.embed import Embedder, random_model
    from mert.errors import AudioError, CheckpointError, MertError, OutputError
    from mert.features import Features
    from mert.hub import load, push_to_hub
    from mert.model import Mert
    from mert.publish import save_pretrained, verify
    from mert.registry import ModelInfo, info, list_models


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mert' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
